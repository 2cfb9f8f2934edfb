use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::csv::CsvRows;
use super::files::{self, KNOWN, Layout};
use super::json::JsonRows;
use super::lines::Lines;
use super::{BadRow, Conversation, ConversationError, Result, Row, RowPlace};
use crate::Message;

/// The messages of a row, or why there are none.
pub(super) type RowOrReason = std::result::Result<Vec<Message>, String>;

/// The rows of one file.
pub(super) trait Rows: Send {
    /// The next row's number and messages; nothing at the end; an error when the file cannot be read on.
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
}

/// The conversations of files, folders and patterns, one after another.
///
/// What a file is its name says, and its parts which columns there are:
/// - `.jsonl` and `.ndjson`: a line is `{"messages": [{"role", "content"}, …]}`, other keys are passed over. The list may be
///   called `conversation` or `conversations` too, and its keys `from` and `value` (ShareGPT, whose `human` is a user and
///   whose `gpt` an assistant);
/// - `.csv`: rollouts; `question` and `answer` are a conversation of two messages;
/// - each of them with `.gz` or `.zst` behind it, and `.parquet` with such a list of structs (feature `data`).
///
/// An item is `Ok(Ok(row))`, or `Ok(Err(bad))` for a row that is no conversation, after which reading goes on. It is
/// `Err(error)` for a file that cannot be read, or not to its end; reading then goes on with the next file.
///
/// A reader holds one row of a text file (at most 64 MiB; longer ones are bad), or a few MiB of a Parquet file and at least
/// one page of each of two columns, and 16 bytes of every distinct conversation's hash, to find duplicates.
///
/// ```no_run
/// use pv_model::ConversationReader;
///
/// # fn main() -> Result<(), pv_model::ConversationError> {
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
    /// [`ConversationError::Read`] for an input that is not there, [`ConversationError::Format`] for a file of an unknown
    /// kind, [`ConversationError::NoFiles`] for a folder or pattern without files.
    pub fn new<P: AsRef<Path>>(inputs: impl IntoIterator<Item = P>) -> Result<Self> {
        let roles = ["system", "developer", "user", "assistant", "tool"].map(str::to_owned).to_vec();
        let (files, seen) = (files::list(inputs)?, HashSet::new());
        Ok(Self { files, opened: 0, current: None, roles, seen, summary: Summary::default() })
    }

    /// The roles that a message may have, for templates that know others; without this they are system, developer, user,
    /// assistant and tool.
    #[must_use]
    pub fn with_roles<S: Into<String>>(mut self, roles: impl IntoIterator<Item = S>) -> Self {
        self.roles = roles.into_iter().map(Into::into).collect();
        self
    }

    /// The files, in the order in which they are read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What came so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    fn check(&self, messages: Vec<Message>) -> std::result::Result<Conversation, String> {
        if messages.is_empty() {
            return Err("the conversation has no messages".to_owned());
        }
        let unknown = messages.iter().enumerate().find(|(_, message)| !self.roles.contains(&message.role));
        match unknown {
            Some((index, Message { role, .. })) => {
                Err(format!("message {}: the role {role:?} is none of {}", index + 1, self.roles.join(", ")))
            }
            None => Ok(Conversation { messages }),
        }
    }

    fn row(&mut self, place: RowPlace, messages: RowOrReason) -> std::result::Result<Row, BadRow> {
        let conversation = match messages.and_then(|messages| self.check(messages)) {
            Ok(conversation) => conversation,
            Err(reason) => {
                self.summary.bad += 1;
                return Err(BadRow { place, reason });
            }
        };
        let digest = conversation.digest();
        // Half of it: among n rows, two differ and agree in it with a probability of n² / 2^129.
        let (half, _) = digest.split_at(16);
        let duplicate = !self.seen.insert(half.iter().fold(0, |key, byte| key << 8 | u128::from(*byte)));
        self.summary.rows += 1;
        self.summary.duplicates += u64::from(duplicate);
        Ok(Row { place, id: hex::encode(digest), duplicate, conversation })
    }
}

impl Iterator for ConversationReader {
    type Item = Result<std::result::Result<Row, BadRow>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(current) = &mut self.current else {
                let path = self.files.get(self.opened)?;
                self.opened += 1;
                match rows(path) {
                    Ok(rows) => self.current = Some(Current { path: path.as_path().into(), rows, met: 0 }),
                    Err(error) => return Some(Err(error)),
                }
                self.summary.files += 1;
                continue;
            };
            match current.rows.next() {
                Ok(Some((row, messages))) => {
                    current.met += 1;
                    let place = RowPlace { file: Arc::clone(&current.path), row };
                    return Some(Ok(self.row(place, messages)));
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

fn rows(path: &Path) -> Result<Box<dyn Rows>> {
    match files::kind(path) {
        Some((Layout::JsonLines, compression)) => Ok(Box::new(JsonRows(Lines::new(files::open(path, compression)?)))),
        Some((Layout::Csv, compression)) => Ok(Box::new(CsvRows::new(path, files::open(path, compression)?)?)),
        #[cfg(feature = "data")]
        Some((Layout::Parquet, _)) => Ok(Box::new(super::parquet::ParquetRows::open(path)?)),
        #[cfg(not(feature = "data"))]
        Some((Layout::Parquet, _)) => Err(ConversationError::NotBuilt { path: path.to_owned() }),
        None => Err(ConversationError::Format { path: path.to_owned(), known: KNOWN }),
    }
}
