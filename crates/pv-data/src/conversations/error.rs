use std::path::PathBuf;

use super::files::KNOWN;
use super::{BadRow, Cell, CellType, RowPlace};

/// An error of another library, or of the caller.
pub(super) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Why a file of conversations could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConversationError {
    /// A file or folder could not be read or written.
    #[error(transparent)]
    File(#[from] crate::FileError),
    /// A folder or pattern without files of conversations.
    #[error("no files of conversations found at {}: {}", input.display(), found_instead(others))]
    NoFiles {
        /// The folder or pattern.
        input: PathBuf,
        /// The files of other kinds.
        others: Vec<PathBuf>,
    },
    /// The extension of a file's name is not supported here.
    #[error("{}: unsupported extension, expected one of {}", path.display(), known.join(", "))]
    Format {
        /// The file.
        path: PathBuf,
        /// The supported extensions.
        known: &'static [&'static str],
    },
    /// A file that needs a feature which was not built in.
    #[error("{}: reading it needs the feature `parquet` of pv-data, which is not built into this program", path.display())]
    NotBuilt {
        /// The file.
        path: PathBuf,
    },
    /// A valid file that uses something that is not built in, such as a codec.
    #[error("{}: {what} is not supported; {advice}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What the file uses.
        what: String,
        /// How to convert the file.
        advice: &'static str,
    },
    /// A table without columns of conversations.
    #[error("{}: no column {wanted}; found the columns: {}", path.display(), found.join(", "))]
    Columns {
        /// The file.
        path: PathBuf,
        /// The expected columns.
        wanted: &'static str,
        /// The columns found.
        found: Vec<String>,
    },
    /// A truncated or damaged file, of which nothing after this point can be read.
    #[error("{} is damaged or truncated after {rows} rows", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The number of rows, valid and invalid, before that point.
        rows: u64,
        /// The error of the operating system, or of the library that reads the format.
        source: Fault,
    },
    /// A table with two columns of the same name.
    #[error("{}: duplicate column {name:?}", path.display())]
    DuplicateColumn {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A row that is not a valid conversation, where every row must be one.
    #[error(transparent)]
    Bad(#[from] BadRow),
    /// A new column has the name of an existing column.
    #[error("{place}: the field {name:?} exists already")]
    NameTaken {
        /// The first row with that name.
        place: RowPlace,
        /// The name.
        name: String,
    },
    /// The number of values given for a row is not that of the new columns.
    #[error("{place}: expected {expected} new values, one per column, found {found}")]
    CellCount {
        /// The row.
        place: RowPlace,
        /// The number of columns.
        expected: usize,
        /// The number of values.
        found: usize,
    },
    /// A value given for a row does not match its new column.
    #[error("{place}: new column {column:?}: expected {expected:?}, found {found:?}")]
    Cell {
        /// The row.
        place: RowPlace,
        /// The column's name.
        column: String,
        /// The column's type.
        expected: CellType,
        /// The value.
        found: Cell,
    },
    /// Files with different columns cannot be written into one.
    #[error("{} and {} have different columns", path.display(), first.display())]
    OtherSchema {
        /// The file.
        path: PathBuf,
        /// The first file.
        first: PathBuf,
    },
    /// The caller's source of values failed.
    #[error("the source of new values failed at {place}")]
    Source {
        /// The row.
        place: RowPlace,
        /// The source's error.
        source: Fault,
    },
}

fn found_instead(others: &[PathBuf]) -> String {
    match others.first() {
        None => "nothing found".to_owned(),
        Some(first) => format!(
            "found {} files of other kinds, such as {}; supported extensions: {}",
            others.len(),
            first.display(),
            KNOWN.join(", ")
        ),
    }
}
