//! Rollouts as CSV: `question, prompt, answer, …`. A row is the question and the answer; the prompt as it was rendered, with
//! what system message it may have, is passed over.

use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use csv::ByteRecord;

use super::reader::{RowOrReason, Rows};
use super::{ConversationError, LONGEST_ROW, Result};
use crate::Message;

/// The rows of a file.
pub(super) struct CsvRows {
    reader: csv::Reader<Limited>,
    left: Arc<AtomicUsize>,
    record: ByteRecord,
    fields: usize,
    question: usize,
    answer: usize,
}

impl CsvRows {
    pub(super) fn new(path: &Path, source: Box<dyn BufRead + Send>) -> Result<Self> {
        let left = Arc::new(AtomicUsize::new(LONGEST_ROW));
        let limited = Limited { source, left: Arc::clone(&left) };
        // Rows of another length are bad rows, not the end.
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(limited);
        let damaged = |error: csv::Error| ConversationError::Damaged {
            path: path.to_owned(),
            rows: 0,
            reason: error.to_string(),
        };
        let header = reader.byte_headers().map_err(damaged)?;
        let names: Vec<String> = header.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
        let column = |wanted| {
            let found = || ConversationError::Columns { path: path.to_owned(), wanted, found: names.clone() };
            names.iter().position(|name| name == wanted).ok_or_else(found)
        };
        let (question, answer) = (column("question")?, column("answer")?);
        Ok(Self { reader, left, record: ByteRecord::new(), fields: names.len(), question, answer })
    }

    fn messages(&self) -> RowOrReason {
        if self.record.len() != self.fields {
            return Err(format!("the row has {} fields, the header {}", self.record.len(), self.fields));
        }
        let text = |index, name| {
            let bytes: &[u8] = self.record.get(index).unwrap_or_default();
            std::str::from_utf8(bytes).map_err(|error| format!("`{name}` is not UTF-8: {error}"))
        };
        Ok(vec![Message::user(text(self.question, "question")?), Message::assistant(text(self.answer, "answer")?)])
    }
}

impl Rows for CsvRows {
    fn next(&mut self) -> std::result::Result<Option<(u64, RowOrReason)>, String> {
        self.left.store(LONGEST_ROW, Ordering::Relaxed);
        if !self.reader.read_byte_record(&mut self.record).map_err(|error| error.to_string())? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        Ok(Some((line, self.messages())))
    }
}

/// A source that gives no more bytes than are left for a row: an unclosed quotation mark would take all of a file for one.
struct Limited {
    source: Box<dyn BufRead + Send>,
    left: Arc<AtomicUsize>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other(format!(
                "a row is longer than {LONGEST_ROW} bytes; is a quotation mark open?"
            )));
        }
        let most = buffer.len().min(left);
        let read = self.source.read(&mut buffer[..most])?;
        self.left.store(left - read, Ordering::Relaxed);
        Ok(read)
    }
}
