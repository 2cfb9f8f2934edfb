use std::path::PathBuf;

use super::{BadRow, RowPlace};

/// Why a file of conversations could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConversationError {
    /// A file or folder could not be read or written.
    #[error(transparent)]
    File(#[from] crate::FileError),
    /// A folder or pattern in which there is nothing to read.
    #[error("{input} holds no conversations: {found}")]
    NoFiles {
        /// The folder or pattern.
        input: String,
        /// What is there instead.
        found: String,
    },
    /// A file's name does not end as that of a format which can be used here.
    #[error("{}: the name should end in one of {}", path.display(), known.join(", "))]
    Format {
        /// The file.
        path: PathBuf,
        /// The endings that are known.
        known: &'static [&'static str],
    },
    /// A file that takes a feature which was not built in.
    #[error("{}: this takes the feature `parquet` of pv-data, which this program was built without", path.display())]
    NotBuilt {
        /// The file.
        path: PathBuf,
    },
    /// A sound file that uses what is not built in, such as a codec.
    #[error("{}: {what} is not supported; {advice}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it uses.
        what: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// A table without the columns of conversations.
    #[error("{}: there is no column {wanted}; there are: {}", path.display(), found.join(", "))]
    Columns {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// The columns that are there.
        found: Vec<String>,
    },
    /// A file that is cut off or damaged, so that nothing after this point can be read.
    #[error("{} is damaged or cut off after {rows} rows: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How many rows, good and bad, came before.
        rows: u64,
        /// What is wrong.
        reason: String,
    },
    /// A row that is no conversation, where every row has to be one.
    #[error(transparent)]
    Bad(#[from] BadRow),
    /// A new column's name that another column has.
    #[error("{place}: there is a field {name:?} already")]
    NameTaken {
        /// The first row where that is so.
        place: RowPlace,
        /// The name.
        name: String,
    },
    /// The values given for a row are not those of the new columns.
    #[error("{place}: the new values do not fit the new columns: {reason}")]
    Cells {
        /// The row.
        place: RowPlace,
        /// How they differ.
        reason: String,
    },
    /// Files with different columns were to become one.
    #[error("{} has other columns than {}", path.display(), first.display())]
    OtherSchema {
        /// The file.
        path: PathBuf,
        /// The file before it.
        first: PathBuf,
    },
    /// The caller's source of values failed.
    #[error("the source of new values failed at {place}")]
    Source {
        /// The row.
        place: RowPlace,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
