//! The rows of any table: JSONL, CSV and Parquet.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::csv::CsvTable;
use super::files::{self, KNOWN, Layout};
use super::json::JsonTable;
use super::lines::Lines;
use super::{ConversationError, Result};

/// A row by its columns, or why it cannot be read.
pub(super) type Found = std::result::Result<Map<String, Value>, String>;

/// The rows of one file.
pub(super) trait Source: Send {
    /// The next row with its number; nothing at the end; an error when the file cannot be read on.
    fn next(&mut self) -> std::result::Result<Option<(u64, Found)>, String>;
}

/// The rows of one file, each as a JSON object by the names of its columns. How they are laid out the file's name says, as
/// for [`ConversationReader`](crate::ConversationReader), which reads data sets of conversations.
///
/// - In JSONL a row has the keys of its line. `NaN` and `Infinity`, which Python writes, become texts. A key that a line has
///   twice makes a bad row.
/// - In CSV every value is text. The first line has the names; two columns of one name are refused.
/// - In Parquet (feature `parquet`) text, numbers, truth values, lists, structs and maps are taken over; numbers that are not finite
///   become texts, and so do dates, times and decimals. A column that is null in a row is there as null; inside structs, nulls
///   are left out.
///
/// An item is `Ok((number, Ok(row)))`, where the number is that of the line (JSONL, CSV) or the row, from 1. It is
/// `Ok((number, Err(reason)))` for a row that cannot be read, after which reading goes on, and `Err(error)`, the last, for a
/// file that cannot be read on.
pub struct TableReader {
    path: PathBuf,
    source: Option<Box<dyn Source>>,
    columns: Option<Vec<String>>,
    met: u64,
}

impl fmt::Debug for TableReader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, columns, met, .. } = self;
        out.debug_struct("TableReader").field("path", path).field("columns", columns).field("met", met).finish()
    }
}

impl TableReader {
    /// Opens a file, to read the columns (or keys) that `keep` wants.
    ///
    /// # Errors
    /// [`FileError::Read`](crate::FileError::Read); [`ConversationError::Format`] and [`ConversationError::NotBuilt`] for the name's ending;
    /// [`ConversationError::Unsupported`] and [`ConversationError::Damaged`] for what is in the file.
    pub fn open(path: impl AsRef<Path>, keep: impl Fn(&str) -> bool + Send + 'static) -> Result<Self> {
        let path = path.as_ref();
        let (source, columns): (Box<dyn Source>, _) = match files::kind(path) {
            Some((Layout::JsonLines, compression)) => {
                let lines = Lines::new(files::open(path, compression)?);
                (Box::new(JsonTable { lines, keep: Box::new(keep) }), None)
            }
            Some((Layout::Csv, compression)) => {
                let table = CsvTable::new(path, files::open(path, compression)?, keep)?;
                let twice = table.twice().map(|name| format!("two columns are called {name:?}"));
                if let Some(reason) = twice {
                    return Err(ConversationError::Damaged { path: path.to_owned(), rows: 0, reason });
                }
                let names = table.names().to_vec();
                (Box::new(table), Some(names))
            }
            #[cfg(feature = "parquet")]
            Some((Layout::Parquet, _)) => {
                let (rows, names) = super::parquet::TableRows::open(path, keep)?;
                (Box::new(rows), Some(names))
            }
            #[cfg(not(feature = "parquet"))]
            Some((Layout::Parquet, _)) => return Err(ConversationError::NotBuilt { path: path.to_owned() }),
            None => return Err(ConversationError::Format { path: path.to_owned(), known: KNOWN }),
        };
        Ok(Self { path: path.to_owned(), source: Some(source), columns, met: 0 })
    }

    /// The names of all of the file's columns; nothing for JSONL, whose rows have keys of their own.
    pub fn columns(&self) -> Option<&[String]> {
        self.columns.as_deref()
    }
}

impl Iterator for TableReader {
    type Item = Result<(u64, std::result::Result<Map<String, Value>, String>)>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.source.as_mut()?.next() {
            Ok(Some(row)) => {
                self.met += 1;
                Some(Ok(row))
            }
            Ok(None) => {
                self.source = None;
                None
            }
            Err(reason) => {
                self.source = None;
                Some(Err(ConversationError::Damaged { path: self.path.clone(), rows: self.met, reason }))
            }
        }
    }
}
