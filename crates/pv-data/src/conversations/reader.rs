use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::csv::CsvRows;
use super::files::{self, KNOWN, Layout};
use super::json::JsonRows;
use super::lines::Lines;
use super::{BadRow, Conversation, ConversationError, Format, FormatCounts, Result, Row, RowPlace};
use crate::Message;

/// The conversation of a row and the form in which it stands there, or why there is none.
pub(super) type RowOrReason = std::result::Result<(Conversation, Format), String>;

/// The rows of one file.
pub(super) trait Rows: Send {
    /// The next row's number and conversation; nothing at the end; an error when the file cannot be read on.
    fn next(&mut self) -> std::result::Result<Option<(u64, RowOrReason)>, String>;
}

/// What a reader has met so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files that were opened.
    pub files: usize,
    /// Conversations, duplicates among them.
    pub rows: u64,
    /// Rows that are no conversations.
    pub bad: u64,
    /// Conversations that had come before.
    pub duplicates: u64,
    /// In which form the conversations stood.
    pub formats: FormatCounts,
}

/// The conversations of files, folders and patterns, one after another.
///
/// How rows are laid out in a file its name says: `.jsonl` and `.ndjson`, `.csv` with a line of names, each of them with `.gz` or
/// `.zst` behind it, and `.parquet` (feature `parquet`). In which form a row holds a conversation its keys say ([`Format`]);
/// [`with_format`](Self::with_format) says it instead.
///
/// Messages keep all of their keys that are not null. Beside them a row may have
/// - `system`, `system_prompt` or `system_message`: the system message;
/// - `tools` (a list, also as JSON text) or the older `functions`, and `chat_template_kwargs`, for the template;
/// - `weight`, `sample_weight` and `train`, see [`Conversation::weight`] and [`Message::weight`](crate::Message::weight).
///
/// A row is bad when it says what cannot be done: a weight below 0, a mask of parts of a message, an image, a preference
/// (`chosen`, `rejected`). All other keys are passed over. Nulls inside structs of a Parquet file count as absent.
///
/// An item is `Ok(Ok(row))`, or `Ok(Err(bad))` for a row that is no conversation, after which reading goes on. It is
/// `Err(error)` for a file that cannot be read, or not to its end; reading then goes on with the next file.
///
/// A reader holds one row of a text file (at most 64 MiB; longer ones are bad), or a few MiB of a Parquet file and at least
/// one page of each column that is read, and 16 bytes of every distinct conversation's hash, to find duplicates.
///
/// ```no_run
/// use pv_data::ConversationReader;
///
/// # fn main() -> Result<(), pv_data::ConversationError> {
/// let mut reader = ConversationReader::new(["data/lmsys", "more/*.jsonl.gz"])?;
/// for row in &mut reader {
///     match row? {
///         Ok(row) => println!("{}: {} messages", row.place, row.conversation.messages.len()),
///         Err(bad) => eprintln!("{bad}"),
///     }
/// }
/// println!("{:?}", reader.summary());
/// # Ok(())
/// # }
/// ```
pub struct ConversationReader {
    files: Vec<PathBuf>,
    opened: usize,
    current: Option<Current>,
    roles: Vec<String>,
    format: Option<Format>,
    seen: HashSet<u128>,
    summary: Summary,
}

struct Current {
    path: Arc<Path>,
    rows: Box<dyn Rows>,
    met: u64,
}

impl ConversationReader {
    /// A reader of files, folders (with all below them, in the order of their names) and patterns such as `data/*.jsonl`.
    /// Each file is read once. Files of other kinds in folders and patterns are passed over.
    ///
    /// # Errors
    /// [`FileError::Read`](crate::FileError::Read) for an input that is not there, [`ConversationError::Format`] for a file of an unknown
    /// kind, [`ConversationError::NoFiles`] for a folder or pattern without files.
    pub fn new<P: AsRef<Path>>(inputs: impl IntoIterator<Item = P>) -> Result<Self> {
        let roles = ["system", "developer", "user", "assistant", "tool"].map(str::to_owned).to_vec();
        let (files, seen) = (files::list(inputs)?, HashSet::new());
        Ok(Self { files, opened: 0, current: None, roles, format: None, seen, summary: Summary::default() })
    }

    /// The roles that a message may have, for templates that know others; without this they are system, developer, user,
    /// assistant and tool.
    #[must_use]
    pub fn with_roles<S: Into<String>>(mut self, roles: impl IntoIterator<Item = S>) -> Self {
        self.roles = roles.into_iter().map(Into::into).collect();
        self
    }

    /// The form in which every row is to be read; with `None`, each row's keys say it.
    #[must_use]
    pub fn with_format(self, format: Option<Format>) -> Self {
        Self { format, ..self }
    }

    /// The files, in the order in which they are read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What came so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    fn check(&self, conversation: &Conversation) -> std::result::Result<(), String> {
        let messages = &conversation.messages;
        if messages.is_empty() {
            return Err("the conversation has no messages".to_owned());
        }
        let unknown = messages.iter().enumerate().find(|(_, message)| !self.roles.contains(&message.role));
        match unknown {
            Some((index, Message { role, .. })) => Err(format!(
                "message {}: the role {role:?} is not known; known are {}",
                index + 1,
                self.roles.join(", ")
            )),
            None => Ok(()),
        }
    }

    fn row(&mut self, place: RowPlace, found: RowOrReason) -> std::result::Result<Row, BadRow> {
        let found = found.and_then(|found| self.check(&found.0).map(|()| found));
        let (conversation, format) = found.map_err(|reason| {
            self.summary.bad += 1;
            BadRow { place: place.clone(), reason }
        })?;
        let digest = conversation.digest();
        // Half of it: among n rows, two differ and agree in it with a probability of n² / 2^129.
        let (half, _) = digest.split_at(16);
        let duplicate = !self.seen.insert(half.iter().fold(0, |key, byte| key << 8 | u128::from(*byte)));
        self.summary.rows += 1;
        self.summary.duplicates += u64::from(duplicate);
        self.summary.formats.count(format);
        Ok(Row { place, id: hex::encode(digest), duplicate, format, conversation })
    }
}

impl Iterator for ConversationReader {
    type Item = Result<std::result::Result<Row, BadRow>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(current) = &mut self.current else {
                let path = self.files.get(self.opened)?;
                self.opened += 1;
                match rows(path, self.format) {
                    Ok(rows) => self.current = Some(Current { path: path.as_path().into(), rows, met: 0 }),
                    Err(error) => return Some(Err(error)),
                }
                self.summary.files += 1;
                continue;
            };
            match current.rows.next() {
                Ok(Some((row, found))) => {
                    current.met += 1;
                    let place = RowPlace { file: Arc::clone(&current.path), row };
                    return Some(Ok(self.row(place, found)));
                }
                Ok(None) => self.current = None,
                Err(reason) => {
                    let (path, rows) = (current.path.to_path_buf(), current.met);
                    self.current = None;
                    return Some(Err(ConversationError::Damaged { path, rows, reason }));
                }
            }
        }
    }
}

fn rows(path: &Path, forced: Option<Format>) -> Result<Box<dyn Rows>> {
    match files::kind(path) {
        Some((Layout::JsonLines, compression)) => {
            Ok(Box::new(JsonRows { lines: Lines::new(files::open(path, compression)?), forced }))
        }
        Some((Layout::Csv, compression)) => Ok(Box::new(CsvRows::new(path, files::open(path, compression)?, forced)?)),
        #[cfg(feature = "parquet")]
        Some((Layout::Parquet, _)) => super::parquet::rows(path, forced),
        #[cfg(not(feature = "parquet"))]
        Some((Layout::Parquet, _)) => Err(ConversationError::NotBuilt { path: path.to_owned() }),
        None => Err(ConversationError::Format { path: path.to_owned(), known: KNOWN }),
    }
}
