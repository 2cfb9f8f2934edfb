//! Tables of text. Rollouts (`question, prompt, answer, …`) are among them: a row is the question and the answer; the prompt as
//! it was rendered, with what system message it may have, is passed over.

use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use csv::ByteRecord;

use serde_json::{Map, Value};

use super::format::Format;
use super::reader::{RowOrReason, Rows};
use super::row::{self, LISTS, TEXTS};
use super::{ConversationError, LONGEST_ROW, Result};

/// The rows of a file.
pub(super) struct CsvRows {
    reader: csv::Reader<Limited>,
    left: Arc<AtomicUsize>,
    record: ByteRecord,
    fields: usize,
    /// The columns that are looked at, by their names.
    known: Vec<(String, usize)>,
    forced: Option<Format>,
}

impl CsvRows {
    pub(super) fn new(path: &Path, source: Box<dyn BufRead + Send>, forced: Option<Format>) -> Result<Self> {
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
        let mut known: Vec<(String, usize)> = Vec::new();
        for (index, name) in names.iter().enumerate() {
            if row::is_known(name) && !known.iter().any(|(other, _)| other == name) {
                known.push((name.clone(), index));
            }
        }
        let has = |key: &str| known.iter().any(|(name, _)| name == key);
        let lists = LISTS.into_iter().any(has);
        // A preference is named row by row.
        if !row::possible(&has, lists, forced) && !has("chosen") {
            return Err(ConversationError::Columns { path: path.to_owned(), wanted: row::WANTED, found: names });
        }
        Ok(Self { reader, left, record: ByteRecord::new(), fields: names.len(), known, forced })
    }

    fn row(&self) -> RowOrReason {
        if self.record.len() != self.fields {
            return Err(format!("the row has {} fields, the header {}", self.record.len(), self.fields));
        }
        let mut found = Map::new();
        for (name, index) in &self.known {
            let bytes: &[u8] = self.record.get(*index).unwrap_or_default();
            let text = std::str::from_utf8(bytes).map_err(|error| format!("`{name}` is not UTF-8: {error}"))?;
            if !text.is_empty() || TEXTS.contains(&name.as_str()) {
                found.insert(name.clone(), cell(name, text));
            }
        }
        row::conversation(found, self.forced)
    }
}

/// A cell's value: what is no text elsewhere is written as one in a table.
fn cell(name: &str, text: &str) -> Value {
    let read = match name {
        "weight" | "sample_weight" => text.trim().parse::<f64>().ok().and_then(|number| match number.fract() == 0.0 {
            true => Some((number as i64).into()),
            false => serde_json::Number::from_f64(number).map(Value::Number),
        }),
        "train" | "label" => serde_json::from_str(&text.trim().to_ascii_lowercase()).ok(),
        name if LISTS.contains(&name) => serde_json::from_str(text).ok(),
        _ => None,
    };
    read.unwrap_or_else(|| text.into())
}

impl Rows for CsvRows {
    fn next(&mut self) -> std::result::Result<Option<(u64, RowOrReason)>, String> {
        self.left.store(LONGEST_ROW, Ordering::Relaxed);
        if !self.reader.read_byte_record(&mut self.record).map_err(|error| error.to_string())? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        Ok(Some((line, self.row())))
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
