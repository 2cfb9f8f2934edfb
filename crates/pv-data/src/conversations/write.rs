//! New values beside the rows of a file.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::files::{self, Layout};
use super::lines::Lines;
use super::output::Output;
use super::{BadRow, ConversationError, Result, RowPlace, json};

/// A column to add to the rows of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewColumn {
    /// Its name, which no other column may have.
    pub name: String,
    /// What it holds.
    pub holds: CellType,
}

impl NewColumn {
    /// A column of numbers.
    pub fn number(name: impl Into<String>) -> Self {
        Self { name: name.into(), holds: CellType::Number }
    }

    /// A column of text.
    pub fn text(name: impl Into<String>) -> Self {
        Self { name: name.into(), holds: CellType::Text }
    }
}

/// What a new column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellType {
    /// Numbers, as f64.
    Number,
    /// Text.
    Text,
}

/// A new column's value for one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// None: null.
    Null,
    /// A number; null when it is not finite, which JSON cannot say.
    Number(f64),
    /// Text.
    Text(String),
}

/// What a writer did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that were kept.
    pub kept: u64,
    /// Rows that were left out.
    pub left_out: u64,
}

/// What a caller's source of values may answer for a row: its new values in the order of the new columns, or nothing to
/// leave the row out.
pub(super) type Answer = std::result::Result<Option<Vec<Cell>>, Box<dyn std::error::Error + Send + Sync>>;

/// Writes the lines of JSONL files into one, each with fields added at its end. What was there stays as it is, to the byte;
/// lines end in `\n`. `values` is asked for each line that is not empty, in the order of the files, and answers with its
/// values in the order of `columns`, or with nothing to leave it out; bad rows are asked for too, and should be left out
/// when they are no objects. Names that end in `.gz` or `.zst` are compressed on either side (feature `parquet`). The output
/// is written under another name first, and may take the place of a source.
///
/// # Errors
/// [`FileError::Read`](crate::FileError::Read), [`ConversationError::Damaged`], [`ConversationError::Format`] for a source that is not
/// JSONL or an output that would not be; [`ConversationError::Bad`] for a line that was to be kept and is no object;
/// [`ConversationError::NameTaken`], [`ConversationError::Cells`], [`ConversationError::Source`] with what `values` said;
/// [`FileError::Write`](crate::FileError::Write).
pub fn add_fields<P: AsRef<Path>>(
    sources: &[P],
    output: impl AsRef<Path>,
    columns: &[NewColumn],
    mut values: impl FnMut(&RowPlace) -> Answer,
) -> Result<Written> {
    let mut out = Output::json_lines(output.as_ref())?;
    let mut written = Written::default();
    for source in sources {
        let source = source.as_ref();
        let Some((Layout::JsonLines, compression)) = files::kind(source) else {
            return Err(ConversationError::Format { path: source.to_owned(), known: super::output::JSON_LINES });
        };
        let mut place = RowPlace { file: Arc::from(source), row: 0 };
        unique(columns, &place)?;
        let mut lines = Lines::new(files::open(source, compression)?);
        let mut met = 0;
        loop {
            let damaged = |error: std::io::Error| ConversationError::Damaged {
                path: source.to_owned(),
                rows: met,
                reason: error.to_string(),
            };
            let Some((row, line)) = lines.next().map_err(damaged)? else { break };
            place.row = row;
            met += 1;
            let Some(cells) = ask(&mut values, columns, &place)? else {
                written.left_out += 1;
                continue;
            };
            let line = line.and_then(|line| with_fields(line, columns, &cells, &place));
            let line = line.map_err(|reason| BadRow { place: place.clone(), reason })??;
            out.write(|out| out.write_all(line.as_bytes()))?;
            written.kept += 1;
        }
    }
    out.finish()?;
    Ok(written)
}

/// The values for a row, checked against the columns.
pub(super) fn ask(
    values: &mut impl FnMut(&RowPlace) -> Answer,
    columns: &[NewColumn],
    place: &RowPlace,
) -> Result<Option<Vec<Cell>>> {
    let cells = values(place).map_err(|source| ConversationError::Source { place: place.clone(), source })?;
    let Some(cells) = cells else { return Ok(None) };
    let wrong = |reason| Err(ConversationError::Cells { place: place.clone(), reason });
    if cells.len() != columns.len() {
        return wrong(format!("there are {} values for {} columns", cells.len(), columns.len()));
    }
    for (column, cell) in columns.iter().zip(&cells) {
        match (column.holds, cell) {
            (_, Cell::Null) | (CellType::Number, Cell::Number(_)) | (CellType::Text, Cell::Text(_)) => {}
            _ => return wrong(format!("{:?} holds {:?}, not {cell:?}", column.name, column.holds)),
        }
    }
    Ok(Some(cells))
}

/// Whether the new names differ from one another.
pub(super) fn unique(columns: &[NewColumn], place: &RowPlace) -> Result<()> {
    let mut names = BTreeSet::new();
    match columns.iter().find(|column| !names.insert(&column.name)) {
        Some(column) => Err(ConversationError::NameTaken { place: place.clone(), name: column.name.clone() }),
        None => Ok(()),
    }
}

/// A line with its new fields before the closing brace; the outer error is that it is no object.
fn with_fields(
    line: &[u8],
    columns: &[NewColumn],
    cells: &[Cell],
    place: &RowPlace,
) -> std::result::Result<Result<String>, String> {
    let text = json::text_of(line)?;
    let fields = json::keys(text)?;
    if let Some(column) = columns.iter().find(|column| fields.contains(&column.name)) {
        return Ok(Err(ConversationError::NameTaken { place: place.clone(), name: column.name.clone() }));
    }
    let mut out = text.strip_suffix('}').unwrap_or(text).trim_end().to_owned();
    for (index, (column, cell)) in columns.iter().zip(cells).enumerate() {
        if index > 0 || !fields.is_empty() {
            out.push_str(", ");
        }
        let value = match cell {
            Cell::Null => serde_json::Value::Null,
            Cell::Number(number) => (*number).into(),
            Cell::Text(text) => text.as_str().into(),
        };
        out.push_str(&format!("{}: {value}", serde_json::Value::from(column.name.as_str())));
    }
    out.push_str("}\n");
    Ok(Ok(out))
}
