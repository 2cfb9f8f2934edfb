//! Copies the rows of files and adds values.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::error::Fault;
use super::files::{self, Layout};
use super::lines::Lines;
use super::output::Output;
use super::{BadRow, ConversationError, Result, RowPlace, RowProblem, json};

/// A column to add to the rows of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewColumn {
    /// The name, which no other column may have.
    pub name: String,
    /// The type of the values.
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

/// The type of a new column.
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
    /// Null.
    Null,
    /// A number; null when it is not finite, since JSON has no such numbers.
    Number(f64),
    /// Text.
    Text(String),
}

/// Counts of a writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that were written.
    pub kept: u64,
    /// Rows that were skipped.
    pub left_out: u64,
}

/// The result of a caller's source of values for a row: the new values in the order of the new columns, or `None` to
/// skip the row.
pub(super) type Answer = std::result::Result<Option<Vec<Cell>>, Fault>;

/// Writes the lines of JSONL files into one file and adds fields at the end of each line. The original bytes are
/// unchanged; lines end in `\n`. `values` is called for each line that is not empty, in the order of the files. It
/// returns the line's values in the order of `columns`, or `None` to skip the line; it is also called for invalid rows,
/// and must skip those that are not objects. Files whose names end in `.gz` or `.zst` are compressed (feature
/// `parquet`). The output is written under a temporary name and may replace a source.
///
/// # Errors
/// [`FileError::Read`](crate::FileError::Read); [`ConversationError::Damaged`]; [`ConversationError::Format`] for a
/// source or an output that is not JSONL; [`ConversationError::Bad`] for a line that was not skipped and is not an
/// object; [`ConversationError::NameTaken`]; [`ConversationError::CellCount`]; [`ConversationError::Cell`];
/// [`ConversationError::Source`] with the error of `values`; [`FileError::Write`](crate::FileError::Write).
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
                source: error.into(),
            };
            let Some((row, line)) = lines.next().map_err(damaged)? else { break };
            place.row = row;
            met += 1;
            let Some(cells) = ask(&mut values, columns, &place)? else {
                written.left_out += 1;
                continue;
            };
            let line = line.and_then(|line| with_fields(line, columns, &cells, &place));
            let line = line.map_err(|problem| BadRow { place: place.clone(), problem })??;
            out.write(|out| out.write_all(line.as_bytes()))?;
            written.kept += 1;
        }
    }
    out.finish()?;
    Ok(written)
}

/// The values of a row, checked against the columns.
pub(super) fn ask(
    values: &mut impl FnMut(&RowPlace) -> Answer,
    columns: &[NewColumn],
    place: &RowPlace,
) -> Result<Option<Vec<Cell>>> {
    let cells = values(place).map_err(|source| ConversationError::Source { place: place.clone(), source })?;
    let Some(cells) = cells else { return Ok(None) };
    if cells.len() != columns.len() {
        let (expected, found) = (columns.len(), cells.len());
        return Err(ConversationError::CellCount { place: place.clone(), expected, found });
    }
    for (column, cell) in columns.iter().zip(&cells) {
        match (column.holds, cell) {
            (_, Cell::Null) | (CellType::Number, Cell::Number(_)) | (CellType::Text, Cell::Text(_)) => {}
            _ => {
                let (column, expected, found) = (column.name.clone(), column.holds, cell.clone());
                return Err(ConversationError::Cell { place: place.clone(), column, expected, found });
            }
        }
    }
    Ok(Some(cells))
}

/// Checks that the new names are distinct.
pub(super) fn unique(columns: &[NewColumn], place: &RowPlace) -> Result<()> {
    let mut names = BTreeSet::new();
    match columns.iter().find(|column| !names.insert(&column.name)) {
        Some(column) => Err(ConversationError::NameTaken { place: place.clone(), name: column.name.clone() }),
        None => Ok(()),
    }
}

/// A line with its new fields before the closing brace; the outer error means that the line is not an object.
fn with_fields(
    line: &[u8],
    columns: &[NewColumn],
    cells: &[Cell],
    place: &RowPlace,
) -> std::result::Result<Result<String>, RowProblem> {
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
