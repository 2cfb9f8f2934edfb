use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::csv::CsvRows;
use super::files::{self, KNOWN, Layout};
use super::json::JsonRows;
use super::lines::Lines;
use super::rows::{RowOrProblem, Rows};
use super::{BadRow, Conversation, ConversationError, Format, FormatCounts, Result, Row, RowPlace, RowProblem};
use crate::Message;

/// Counts of what a reader has read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files that were opened.
    pub files: usize,
    /// Conversations, including duplicates.
    pub rows: u64,
    /// Invalid rows.
    pub bad: u64,
    /// Conversations that occurred before.
    pub duplicates: u64,
    /// The conversations' formats.
    pub formats: FormatCounts,
}

/// The conversations of files, folders and patterns, in order.
///
/// A file's layout is known from its name: `.jsonl` and `.ndjson`, `.csv` with a header, each optionally followed by
/// `.gz` or `.zst`, and `.parquet` (feature `parquet`). A row's [`Format`] is detected from its keys, unless
/// [`with_format`](Self::with_format) sets it.
///
/// Messages keep all their keys that are not null. Other keys of a row:
/// - `system`, `system_prompt` or `system_message`: the system message.
/// - `tools` (a list, also as JSON text) or the older `functions`, and `chat_template_kwargs`: passed to the template.
/// - `weight`, `sample_weight` and `train`: see [`Conversation::weight`] and
///   [`Message::weight`](crate::Message::weight).
///
/// A row is invalid when it needs something that is not supported: a negative weight, a mask over parts of a message,
/// an image, a preference (`chosen`, `rejected`). All other keys are ignored. Nulls inside structs of a Parquet file
/// count as absent.
///
/// An item is `Ok(Ok(row))`, or `Ok(Err(bad))` for an invalid row, after which reading continues. It is `Err(error)`
/// for a file that cannot be read, or not to its end; reading then continues with the next file.
///
/// A reader holds one row of a text file (at most 64 MiB; longer rows are invalid), or a few MiB of a Parquet file and
/// at least one page of each column that is read, and 16 bytes of every distinct conversation's hash, to detect
/// duplicates.
///
/// ```no_run
/// use pv_data::ConversationReader;
///
/// # fn main() -> Result<(), pv_data::conversations::ConversationError> {
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
    /// A reader of files, folders (with everything below them, in the order of names) and patterns such as
    /// `data/*.jsonl`. Each file is read once. Files of other kinds in folders and patterns are skipped.
    ///
    /// # Errors
    /// [`FileError::Read`](crate::FileError::Read) for an input that does not exist, [`ConversationError::Format`] for
    /// a file of an unknown kind, [`ConversationError::NoFiles`] for a folder or pattern without files.
    pub fn new<P: AsRef<Path>>(inputs: impl IntoIterator<Item = P>) -> Result<Self> {
        let roles = ["system", "developer", "user", "assistant", "tool"].map(str::to_owned).to_vec();
        let (files, seen) = (files::list(inputs)?, HashSet::new());
        Ok(Self { files, opened: 0, current: None, roles, format: None, seen, summary: Summary::default() })
    }

    /// Sets the roles that a message may have, for templates with other roles. The default is system, developer, user,
    /// assistant and tool.
    #[must_use]
    pub fn with_roles<S: Into<String>>(mut self, roles: impl IntoIterator<Item = S>) -> Self {
        self.roles = roles.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the format of every row; with `None`, it is detected from each row's keys.
    #[must_use]
    pub fn with_format(self, format: Option<Format>) -> Self {
        Self { format, ..self }
    }

    /// The files, in the order in which they are read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The counts so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    fn check(&self, conversation: &Conversation) -> std::result::Result<(), RowProblem> {
        let messages = &conversation.messages;
        if messages.is_empty() {
            return Err(RowProblem::NoMessages);
        }
        let unknown = messages.iter().enumerate().find(|(_, message)| !self.roles.contains(&message.role));
        match unknown {
            Some((index, Message { role, .. })) => {
                let unknown = RowProblem::UnknownRole { role: role.clone(), known: self.roles.clone() };
                Err(unknown.in_message(index))
            }
            None => Ok(()),
        }
    }

    fn row(&mut self, place: RowPlace, found: RowOrProblem) -> std::result::Result<Row, BadRow> {
        let found = found.and_then(|found| self.check(&found.0).map(|()| found));
        let (conversation, format) = found.map_err(|problem| {
            self.summary.bad += 1;
            BadRow { place: place.clone(), problem }
        })?;
        let digest = conversation.digest();
        // Half of the hash: among n rows, two different ones agree in it with a probability of n² / 2^129.
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
                Err(source) => {
                    let (path, rows) = (current.path.to_path_buf(), current.met);
                    self.current = None;
                    return Some(Err(ConversationError::Damaged { path, rows, source }));
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
