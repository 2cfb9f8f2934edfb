//! Conversations as lines of JSON.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::format::Format;
use super::lines::Lines;
use super::reader::{RowOrReason, Rows};
use super::row;

/// The lines of a file.
pub(super) struct JsonRows {
    pub(super) lines: Lines,
    pub(super) forced: Option<Format>,
}

impl Rows for JsonRows {
    fn next(&mut self) -> Result<Option<(u64, RowOrReason)>, String> {
        let forced = self.forced;
        let line = self.lines.next().map_err(|error| error.to_string())?;
        Ok(line.map(|(number, line)| (number, line.and_then(known).and_then(|row| row::conversation(row, forced)))))
    }
}

/// A line as text that may be a JSON object.
pub(super) fn object(line: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("it is not UTF-8: {error}"))?;
    if text.starts_with('{') { Ok(text) } else { Err("it is no JSON object".to_owned()) }
}

/// The keys of a line that are looked at; the others are passed over.
fn known(line: &[u8]) -> Result<Map<String, Value>, String> {
    let mut reader = serde_json::Deserializer::from_str(object(line)?);
    let row = reader.deserialize_map(Known).and_then(|row| reader.end().map(|()| row));
    row.map_err(|error| plain(&error))
}

struct Known;

impl<'de> Visitor<'de> for Known {
    type Value = Map<String, Value>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut row = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if !row::is_known(&key) {
                entries.next_value::<IgnoredAny>()?;
            } else if row.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate field `{key}`")));
            } else {
                let value = entries.next_value()?;
                row.insert(key, value);
            }
        }
        Ok(row)
    }
}

/// What the parser minds; each line is a text of its own, so that only the column says where.
pub(super) fn plain(error: &serde_json::Error) -> String {
    let (text, column) = (error.to_string(), error.column());
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("it is no JSON of this form: {what} at column {column}")
}
