//! Tables of text. Rollouts (`question, prompt, answer, …`) are among them: a row's conversation is the question and
//! the answer. The rendered prompt, with its system message, is ignored.

use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use csv::ByteRecord;

use serde_json::{Map, Value};

use super::error::Fault;
use super::format::Format;
use super::row::{self, LISTS, TEXTS};
use super::rows::{Found, RowOrProblem, Rows, Source};
use super::{ConversationError, LONGEST_ROW, Result, RowProblem};

/// The rows of any CSV file; all values are texts.
pub(super) struct CsvTable {
    reader: csv::Reader<Limited>,
    left: Arc<AtomicUsize>,
    record: ByteRecord,
    names: Vec<String>,
    /// The requested columns, by name; of two columns with the same name, the first.
    wanted: Vec<(String, usize)>,
    twice: Option<String>,
}

impl CsvTable {
    pub(super) fn new(path: &Path, source: Box<dyn BufRead + Send>, keep: impl Fn(&str) -> bool) -> Result<Self> {
        let left = Arc::new(AtomicUsize::new(LONGEST_ROW));
        let limited = Limited { source, left: Arc::clone(&left) };
        // Rows with another number of fields are invalid rows and do not end the reading.
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(limited);
        let damaged = |error| ConversationError::Damaged { path: path.to_owned(), rows: 0, source: fault(error) };
        let header = reader.byte_headers().map_err(damaged)?;
        let names: Vec<String> = header.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
        let (mut wanted, mut twice) = (Vec::<(String, usize)>::new(), None);
        for (index, name) in names.iter().enumerate().filter(|(_, name)| keep(name)) {
            if !wanted.iter().any(|(other, _)| other == name) {
                wanted.push((name.clone(), index));
            } else if !name.is_empty() {
                twice.get_or_insert_with(|| name.clone());
            }
        }
        Ok(Self { reader, left, record: ByteRecord::new(), names, wanted, twice })
    }

    /// The names of all columns.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// A requested name that two columns have.
    pub(super) fn duplicate_name(&self) -> Option<&str> {
        self.twice.as_deref()
    }

    fn row(&self) -> Found {
        if self.record.len() != self.names.len() {
            let (expected, found) = (self.names.len(), self.record.len());
            return Err(RowProblem::FieldCount { expected, found });
        }
        let mut found = Map::new();
        for (name, index) in &self.wanted {
            let bytes: &[u8] = self.record.get(*index).unwrap_or_default();
            let text = std::str::from_utf8(bytes).map_err(|error| RowProblem::NotUtf8 { error }.in_key(name))?;
            found.insert(name.clone(), text.into());
        }
        Ok(found)
    }
}

impl Source for CsvTable {
    fn next(&mut self) -> std::result::Result<Option<(u64, Found)>, Fault> {
        self.left.store(LONGEST_ROW, Ordering::Relaxed);
        if !self.reader.read_byte_record(&mut self.record).map_err(fault)? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        Ok(Some((line, self.row())))
    }
}

/// The conversations of a file.
pub(super) struct CsvRows {
    table: CsvTable,
    forced: Option<Format>,
}

impl CsvRows {
    pub(super) fn new(path: &Path, source: Box<dyn BufRead + Send>, forced: Option<Format>) -> Result<Self> {
        let table = CsvTable::new(path, source, row::is_known)?;
        if let Some(name) = table.duplicate_name() {
            return Err(ConversationError::DuplicateColumn { path: path.to_owned(), name: name.to_owned() });
        }
        let has = |key: &str| table.wanted.iter().any(|(name, _)| name == key);
        let lists = LISTS.into_iter().any(has);
        // Preference data is reported row by row.
        if !row::possible(&has, lists, forced) && !has("chosen") {
            let (path, found) = (path.to_owned(), table.names.clone());
            return Err(ConversationError::Columns { path, wanted: row::WANTED, found });
        }
        Ok(Self { table, forced })
    }
}

impl Rows for CsvRows {
    fn next(&mut self) -> std::result::Result<Option<(u64, RowOrProblem)>, Fault> {
        let row = self.table.next()?;
        let conversation = |row: Map<String, Value>| {
            let said = row.into_iter().filter_map(|(name, value)| {
                let text = value.as_str().unwrap_or_default();
                (!text.is_empty() || TEXTS.contains(&name.as_str())).then(|| (cell(&name, text), name))
            });
            row::conversation(said.map(|(value, name)| (name, value)).collect(), self.forced)
        };
        Ok(row.map(|(number, row)| (number, row.and_then(conversation))))
    }
}

/// The library's error, or the operating system's: the library repeats that one's text.
fn fault(error: csv::Error) -> Fault {
    if !error.is_io_error() {
        return error.into();
    }
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        other => format!("{other:?}").into(),
    }
}

/// A cell's value: JSON in a text where the key's value is not text.
fn cell(name: &str, text: &str) -> Value {
    let read = match name {
        "weight" | "sample_weight" => text.trim().parse::<f64>().ok().and_then(|number| match number.fract() == 0.0 {
            true => Some((number as i64).into()),
            false => serde_json::Number::from_f64(number).map(Value::Number),
        }),
        "train" | "label" => serde_json::from_str(&text.trim().to_ascii_lowercase()).ok(),
        name if LISTS.contains(&name) => super::json::strict(text).ok(),
        _ => None,
    };
    read.unwrap_or_else(|| text.into())
}

/// A source that limits the bytes of a row: an unclosed quotation mark would make one row of the whole file.
struct Limited {
    source: Box<dyn BufRead + Send>,
    left: Arc<AtomicUsize>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other(format!(
                "a row is longer than {LONGEST_ROW} bytes, possibly after an unclosed quotation mark"
            )));
        }
        let most = buffer.len().min(left);
        let read = self.source.read(&mut buffer[..most])?;
        self.left.store(left - read, Ordering::Relaxed);
        Ok(read)
    }
}
