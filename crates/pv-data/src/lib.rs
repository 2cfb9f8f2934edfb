#![doc = include_str!("../README.md")]
//!
//! # Overview
//! - [`ConversationReader`]: [`Conversation`]s from JSONL, Parquet and CSV, in the usual formats. A [`Message`] keeps every
//!   key of its file.
//! - [`RunFolder`]: a folder that one process at a time writes to, with a description of its run.
//! - [`Journal`]: results that are appended as they are computed; [`runs::RowFile`]: rows of numbers.
//! - [`open_file`](files::open_file), [`read_file`](files::read_file): open files that others wrote;
//!   [`write_whole`](files::write_whole): write a file completely or not at all.
//! - [`gguf::Gguf`], [`gguf::Writer`]: GGUF files.
//! - [`sha256`](files::sha256): content hashes.

pub mod conversations;
pub mod error;
pub mod files;
pub mod gguf;
pub mod message;
pub mod runs;
pub mod tables;

pub use conversations::{Conversation, ConversationReader};
pub use error::{Damage, FileError, RunError};
pub use message::Message;
pub use runs::{Journal, RunFolder};
