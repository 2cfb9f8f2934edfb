//! Conversations from files, one after another: JSONL (plain, gzip, Zstandard), Parquet, and rollouts' CSV.
//!
//! [`ConversationReader`] is the one way in. It never holds more than a few rows; [`add_fields`] and `add_columns` write a
//! file's rows again, with values of the caller's beside what was there.

mod csv;
mod error;
mod files;
mod json;
mod lines;
mod output;
#[cfg(feature = "data")]
mod parquet;
mod reader;
#[cfg(feature = "data")]
mod table;
mod write;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Message;

pub use error::ConversationError;
#[cfg(feature = "data")]
pub use parquet::add_columns;
pub use reader::{ConversationReader, Summary};
#[cfg(feature = "data")]
pub use table::read_table;
pub use write::{Cell, CellType, NewColumn, Written, add_fields};

type Result<T, E = ConversationError> = std::result::Result<T, E>;

/// The longest row of a text file in bytes; a longer one is bad. It bounds the memory that a broken file can take.
const LONGEST_ROW: usize = 64 << 20;

/// Messages, from the first to the last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conversation {
    /// Its messages, from the first to the last.
    pub messages: Vec<Message>,
}

impl Conversation {
    /// What identifies the conversation wherever it stands: the SHA-256, in hexadecimal, of, for each message, the role and
    /// then the content, each after its length in bytes (8 bytes, little-endian).
    pub fn id(&self) -> String {
        hex::encode(self.digest())
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for text in self.messages.iter().flat_map(|message| [&message.role, &message.content]) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        hash.finalize().into()
    }
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
/// [`ConversationError::Write`]; [`ConversationError::Format`] and [`ConversationError::NotBuilt`] for the name's ending.
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
