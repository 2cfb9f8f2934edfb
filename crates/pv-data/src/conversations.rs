//! Conversations from files, one after another: JSONL (plain, gzip, Zstandard), Parquet and CSV, in the forms of row that
//! [`Format`] lists.
//!
//! [`ConversationReader`] is the one way in. It never holds more than a few rows; [`add_fields`] and `add_columns` write a
//! file's rows again, with values of the caller's beside what was there.

mod csv;
mod error;
mod files;
mod format;
mod json;
mod lines;
mod output;
#[cfg(feature = "parquet")]
mod parquet;
mod reader;
mod row;
mod table;
mod write;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::Message;
use crate::message::weight;

pub use error::ConversationError;
pub use format::{Format, FormatCounts};
#[cfg(feature = "parquet")]
pub use parquet::add_columns;
pub use reader::{ConversationReader, Summary};
pub use table::TableReader;
pub use write::{Cell, CellType, NewColumn, Written, add_fields};

type Result<T, E = ConversationError> = std::result::Result<T, E>;

/// The longest row of a text file in bytes; a longer one is bad. It bounds the memory that a broken file can take.
const LONGEST_ROW: usize = 64 << 20;

/// Messages, from the first to the last, and what else their row says about them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conversation {
    /// Its messages, from the first to the last.
    pub messages: Vec<Message>,
    /// What else decides how it is rendered and how much it counts: `tools` (a list of JSON schemas), `chat_template_kwargs`
    /// (variables for the template), `weight` and `train`.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, fields: Map::new() }
    }
}

impl Conversation {
    /// A conversation of these messages alone.
    pub fn new(messages: impl Into<Vec<Message>>) -> Self {
        messages.into().into()
    }

    /// The first messages of it, with all else that its row says.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        Self { messages: self.messages[..count.min(self.messages.len())].to_vec(), fields: self.fields.clone() }
    }

    /// How much it counts in training: 1 where nothing is said, 0 where it is not to be learnt.
    ///
    /// # Errors
    /// What is wrong with `weight` or `train`.
    pub fn weight(&self) -> std::result::Result<f64, String> {
        weight(&self.fields, ROW_WEIGHTS, ROW_FLAGS)
    }

    /// What identifies the conversation wherever it stands: the SHA-256, in hexadecimal, of, for each message, the role and
    /// then the content's text, each after its length in bytes (8 bytes, little-endian). Where there is more than roles and
    /// texts (calls of tools, a list of parts, tools, weights other than 1), that follows as JSON after eight bytes of 0xFF.
    pub fn id(&self) -> String {
        hex::encode(self.digest())
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for text in self.messages.iter().flat_map(|message| [message.role.as_str(), message.content.as_str()]) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        let messages = self.messages.iter().enumerate().filter_map(|(index, message)| {
            let mut more = beyond_defaults(&message.fields);
            if !message.content.is_text() {
                more.insert("content".to_owned(), message.content.json().unwrap_or_else(|| "absent".into()));
            }
            (!more.is_empty()).then(|| Value::from(vec![index.into(), Value::Object(more)]))
        });
        let messages: Vec<Value> = messages.collect();
        let row = beyond_defaults(&self.fields);
        if !(messages.is_empty() && row.is_empty()) {
            hash.update([0xFF; 8]);
            hash.update(Value::from(vec![Value::Array(messages), Value::Object(row)]).to_string());
        }
        hash.finalize().into()
    }
}

/// The keys that weigh a row.
const ROW_WEIGHTS: &[&str] = &["weight", "sample_weight"];
/// Those that leave it out of training.
const ROW_FLAGS: &[&str] = &["train"];

/// The keys that change something: not null, and no weight of 1.
fn beyond_defaults(fields: &Map<String, Value>) -> Map<String, Value> {
    const NEUTRAL: [&str; 7] = ["weight", "sample_weight", "loss_scale", "train", "training", "trainable", "loss"];
    let neutral = |key: &str, value: &Value| {
        value.is_null() || NEUTRAL.contains(&key) && (*value == Value::Bool(true) || value.as_f64() == Some(1.0))
    };
    let entries = fields.iter().filter(|(key, value)| !neutral(key, value));
    entries.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowPlace {
    /// The file.
    pub file: Arc<Path>,
    /// The line on which it begins (JSONL, CSV) or the row (Parquet), from 1.
    pub row: u64,
}

impl fmt::Display for RowPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file.display(), self.row)
    }
}

/// A conversation and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where it stands.
    pub place: RowPlace,
    /// [`Conversation::id`].
    pub id: String,
    /// Whether the same conversation came before, in this file or another of the reader's.
    pub duplicate: bool,
    /// In which form it stands there.
    pub format: Format,
    /// The conversation; it has at least one message.
    pub conversation: Conversation,
}

/// A row that is no conversation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct BadRow {
    /// Where it stands.
    pub place: RowPlace,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads a whole file of conversations, in any of the formats that [`ConversationReader`] knows. The first bad row is an
/// error; the reader itself goes on after one, and does not hold the file in memory.
///
/// # Errors
/// Those of [`ConversationReader`]; [`ConversationError::Bad`].
pub fn read_conversations(path: impl AsRef<Path>) -> Result<Vec<Conversation>> {
    ConversationReader::new([path])?.map(|row| Ok(row??.conversation)).collect()
}

/// Writes conversations as JSONL, compressed if the name ends in `.gz` or `.zst`: under another name first, so that no
/// half-written file is ever seen.
///
/// # Errors
/// [`FileError::Write`](crate::FileError::Write); [`ConversationError::Format`] and [`ConversationError::NotBuilt`] for the name's ending.
pub fn write_conversations(path: impl AsRef<Path>, conversations: &[Conversation]) -> Result<()> {
    let mut output = output::Output::json_lines(path.as_ref())?;
    for conversation in conversations {
        output.write(|out| {
            serde_json::to_writer(&mut *out, conversation)?;
            out.write_all(b"\n")
        })?;
    }
    output.finish()
}
