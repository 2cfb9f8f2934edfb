//! The rows of any table: JSONL, CSV and Parquet.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::csv::CsvTable;
use super::files::{self, KNOWN, Layout};
use super::json::JsonTable;
use super::lines::Lines;
use super::rows::Source;
use super::{ConversationError, Result, RowProblem};

/// The rows of one file, each as a JSON object by column names. The layout is known from the file's name, as for
/// [`ConversationReader`](crate::ConversationReader), which reads data sets of conversations.
///
/// - JSONL: a row has the keys of its line. `NaN` and `Infinity`, which Python writes, become texts. A duplicate key
///   makes a row invalid.
/// - CSV: every value is text. The first line contains the names; duplicate names are an error.
/// - Parquet (feature `parquet`): text, numbers, booleans, lists, structs and maps are converted; numbers that are not
///   finite, dates, times and decimals become texts. A null column of a row is null; inside structs, nulls are removed.
///
/// An item is `Ok((number, Ok(row)))`; the number is that of the line (JSONL, CSV) or of the row, from 1. It is
/// `Ok((number, Err(problem)))` for a row that cannot be read, after which reading continues, and `Err(error)`, as the
/// last item, for a file that cannot be read further.
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
    /// Opens a file, to read the columns (or keys) that `keep` selects.
    ///
    /// # Errors
    /// [`FileError::Read`](crate::FileError::Read); [`ConversationError::Format`] and [`ConversationError::NotBuilt`]
    /// for the name's extension; [`ConversationError::Unsupported`],
    /// [`ConversationError::Damaged`] and [`ConversationError::DuplicateColumn`] for the content.
    pub fn open(path: impl AsRef<Path>, keep: impl Fn(&str) -> bool + Send + 'static) -> Result<Self> {
        let path = path.as_ref();
        let (source, columns): (Box<dyn Source>, _) = match files::kind(path) {
            Some((Layout::JsonLines, compression)) => {
                let lines = Lines::new(files::open(path, compression)?);
                (Box::new(JsonTable { lines, keep: Box::new(keep) }), None)
            }
            Some((Layout::Csv, compression)) => {
                let table = CsvTable::new(path, files::open(path, compression)?, keep)?;
                if let Some(name) = table.duplicate_name() {
                    return Err(ConversationError::DuplicateColumn { path: path.to_owned(), name: name.to_owned() });
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

    /// The names of all columns of the file; `None` for JSONL, whose rows have their own keys.
    pub fn columns(&self) -> Option<&[String]> {
        self.columns.as_deref()
    }
}

impl Iterator for TableReader {
    type Item = Result<(u64, std::result::Result<Map<String, Value>, RowProblem>)>;

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
            Err(source) => {
                self.source = None;
                Some(Err(ConversationError::Damaged { path: self.path.clone(), rows: self.met, source }))
            }
        }
    }
}
