//! Conversations from files: JSONL (plain, gzip, Zstandard), Parquet and CSV, in the row formats that [`Format`] lists.
//!
//! [`ConversationReader`] is the only entry point for reading. It holds only a few rows at a time. [`add_fields`] and
//! `add_columns` copy a file's rows and add values of the caller's to each.

mod csv;
mod error;
mod files;
mod format;
mod json;
mod lines;
mod output;
#[cfg(feature = "parquet")]
mod parquet;
mod problem;
mod reader;
mod row;
mod rows;
mod table;
mod write;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::Message;
use crate::message::{KeyProblem, weight};

pub use error::ConversationError;
pub use format::{Format, FormatCounts};
#[cfg(feature = "parquet")]
pub use parquet::add_columns;
pub use problem::RowProblem;
pub use reader::{ConversationReader, Summary};
pub use table::TableReader;
pub use write::{Cell, CellType, NewColumn, Written, add_fields};

type Result<T, E = ConversationError> = std::result::Result<T, E>;

/// The longest row of a text file, in bytes; a longer one is invalid. It bounds the memory that a damaged file can
/// take.
const LONGEST_ROW: usize = 64 << 20;

/// Messages, and the other keys of their row that affect rendering or training.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conversation {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// Keys that affect how the conversation is rendered and how much it counts: `tools` (a list of JSON schemas),
    /// `chat_template_kwargs` (variables for the template), `weight` and `train`.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, fields: Map::new() }
    }
}

impl Conversation {
    /// A conversation with these messages and no other keys.
    pub fn new(messages: impl Into<Vec<Message>>) -> Self {
        messages.into().into()
    }

    /// The first `count` messages, with the other keys.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        Self { messages: self.messages[..count.min(self.messages.len())].to_vec(), fields: self.fields.clone() }
    }

    /// The weight of the conversation in training: 1 by default, 0 if it is not trained.
    ///
    /// # Errors
    /// An invalid `weight` or `train`.
    pub fn weight(&self) -> std::result::Result<f64, KeyProblem> {
        weight(&self.fields, ROW_WEIGHTS, ROW_FLAGS)
    }

    /// Identifies the conversation independently of its file. It is the SHA-256, in hexadecimal, of each message's role
    /// and then its content's text, each preceded by its length in bytes (8 bytes, little-endian). If there is more
    /// than roles and texts (tool calls, a list of parts, tools, weights other than 1), that follows as JSON after
    /// eight bytes of 0xFF.
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

/// The keys with a row's weight.
const ROW_WEIGHTS: &[&str] = &["weight", "sample_weight"];
/// The keys that exclude a row from training.
const ROW_FLAGS: &[&str] = &["train"];

/// The keys that have an effect: not null, and not a weight of 1.
fn beyond_defaults(fields: &Map<String, Value>) -> Map<String, Value> {
    const NEUTRAL: [&str; 7] = ["weight", "sample_weight", "loss_scale", "train", "training", "trainable", "loss"];
    let neutral = |key: &str, value: &Value| {
        value.is_null() || NEUTRAL.contains(&key) && (*value == Value::Bool(true) || value.as_f64() == Some(1.0))
    };
    let entries = fields.iter().filter(|(key, value)| !neutral(key, value));
    entries.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The position of a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowPlace {
    /// The file.
    pub file: Arc<Path>,
    /// The line on which it starts (JSONL, CSV) or the row number (Parquet), from 1.
    pub row: u64,
}

impl fmt::Display for RowPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file.display(), self.row)
    }
}

/// A conversation and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The position of the row.
    pub place: RowPlace,
    /// [`Conversation::id`].
    pub id: String,
    /// Whether the same conversation occurred before, in this file or in another file of the reader.
    pub duplicate: bool,
    /// The format of the row.
    pub format: Format,
    /// The conversation; it has at least one message.
    pub conversation: Conversation,
}

/// A row that is not a valid conversation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}: {problem}")]
#[non_exhaustive]
pub struct BadRow {
    /// The position of the row.
    pub place: RowPlace,
    /// Why it is not valid.
    pub problem: RowProblem,
}

/// Reads a whole file of conversations, in any of the formats of [`ConversationReader`]. The first invalid row is an
/// error. The reader itself continues after an invalid row and does not hold the file in memory.
///
/// # Errors
/// Those of [`ConversationReader::new`] and of reading; [`ConversationError::Bad`] for an invalid row.
pub fn read_conversations(path: impl AsRef<Path>) -> Result<Vec<Conversation>> {
    ConversationReader::new([path])?.map(|row| Ok(row??.conversation)).collect()
}

/// Writes conversations as JSONL, compressed if the name ends in `.gz` or `.zst`. The file is written under a temporary
/// name and renamed when it is complete.
///
/// # Errors
/// [`FileError::Write`](crate::FileError::Write); [`ConversationError::Format`] and [`ConversationError::NotBuilt`] for
/// the name's extension.
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
