//! Conversations, files and folders: no model and no tensor.
//!
//! - [`ConversationReader`]: [`Conversation`]s from JSONL, Parquet and CSV, in the forms that people have; each [`Message`] keeps
//!   every key of its file.
//! - [`RunFolder`]: a folder that one process at a time writes to, which says what its run is.
//! - [`Journal`]: lines that are kept as they are reached; [`runs::RowFile`]: rows of numbers beside them.
//! - [`open_file`], [`read_file`]: files that others wrote; [`write_whole`]: files that are never seen half-written.
//! - [`sha256`]: what content is known by.
//!
//! ```
//! use pv_data::{Journal, RunFolder};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let place = tempfile::tempdir()?;
//! let folder = RunFolder::lock(&place.path().join("run"))?;
//! folder.claim("run.json", &serde_json::json!({ "format": "squares/1", "numbers": 10 }))?;
//! let mut known = Vec::new();
//! let mut journal = Journal::open_json(&folder, "journal.jsonl", |square: u64| {
//!     known.push(square);
//!     true
//! })?;
//! // A second start goes on behind what the first one had reached.
//! for number in known.len() as u64..10 {
//!     known.push(journal.append_json(&(number * number))?);
//! }
//! journal.sync()?;
//! # assert_eq!(known.len(), 10);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//! `parquet` lets [`ConversationReader`] read Parquet and compressed files, and adds [`conversations`]`::add_columns`.

pub mod conversations;
mod error;
pub mod files;
mod message;
pub mod runs;

pub use conversations::{Conversation, ConversationError, ConversationReader};
pub use error::{FileError, RunError, with_causes};
pub use files::{open_file, read_file, sha256, write_whole};
pub use message::{Content, Message};
pub use runs::{Journal, RunFolder};
