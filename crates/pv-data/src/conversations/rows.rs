//! The rows that every file format yields.

use serde_json::{Map, Value};

use super::error::Fault;
use super::{Conversation, Format, RowProblem};

/// The conversation of a row and its format, or why the row is invalid.
pub(in crate::conversations) type RowOrProblem = std::result::Result<(Conversation, Format), RowProblem>;

/// The conversations of one file.
pub(in crate::conversations) trait Rows: Send {
    /// The next row's number and conversation; `None` at the end; an error when the file cannot be read further.
    fn next(&mut self) -> std::result::Result<Option<(u64, RowOrProblem)>, Fault>;
}

/// A row by its columns, or why it cannot be read.
pub(in crate::conversations) type Found = std::result::Result<Map<String, Value>, RowProblem>;

/// The rows of one file of any columns.
pub(in crate::conversations) trait Source: Send {
    /// The next row and its number; `None` at the end; an error when the file cannot be read further.
    fn next(&mut self) -> std::result::Result<Option<(u64, Found)>, Fault>;
}
