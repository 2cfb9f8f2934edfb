//! Rows as lines of JSON.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::RowProblem;
use super::error::Fault;
use super::format::Format;
use super::lines::Lines;
use super::row;
use super::rows::{Found, RowOrProblem, Rows, Source};

/// The conversations of a file.
pub(super) struct JsonRows {
    pub(super) lines: Lines,
    pub(super) forced: Option<Format>,
}

impl Rows for JsonRows {
    fn next(&mut self) -> Result<Option<(u64, RowOrProblem)>, Fault> {
        let forced = self.forced;
        let line = self.lines.next()?;
        let conversation = |line| object(line, row::is_known).and_then(|row| row::conversation(row, forced));
        Ok(line.map(|(number, line)| (number, line.and_then(conversation))))
    }
}

/// The rows of any file.
pub(super) struct JsonTable {
    pub(super) lines: Lines,
    pub(super) keep: Box<dyn Fn(&str) -> bool + Send>,
}

impl Source for JsonTable {
    fn next(&mut self) -> Result<Option<(u64, Found)>, Fault> {
        let line = self.lines.next()?;
        Ok(line.map(|(number, line)| (number, line.and_then(|line| object(line, &self.keep)))))
    }
}

/// A line as text, provided that it may be a JSON object.
pub(super) fn text_of(line: &[u8]) -> Result<&str, RowProblem> {
    let text = std::str::from_utf8(line).map_err(|error| RowProblem::NotUtf8 { error })?;
    match text.as_bytes().first() {
        Some(b'{') => Ok(text),
        Some(b'[') => Err(RowProblem::List),
        _ => Err(RowProblem::NotAnObject),
    }
}

/// The requested keys of a line; other keys are ignored. A duplicate key is an error, since one of its values would be
/// lost.
fn object(line: &[u8], keep: impl Fn(&str) -> bool) -> Result<Map<String, Value>, RowProblem> {
    let text = text_of(line)?;
    if let Some(number) = integer_beyond_64_bits(text) {
        return Err(RowProblem::Integer { number: number.to_string() });
    }
    let text = without_special_numbers(text);
    let mut reader = serde_json::Deserializer::from_str(&text);
    let row = reader.deserialize_map(Keys(keep)).and_then(|row| reader.end().map(|()| row));
    row.map_err(|error| plain(&error))
}

/// The requested keys of the object.
struct Keys<K>(K);

impl<'de, K: Fn(&str) -> bool> Visitor<'de> for Keys<K> {
    type Value = Map<String, Value>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if !(self.0)(&key) {
                entries.next_value::<IgnoredAny>()?;
            } else if object.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate field `{key}`")));
            } else {
                let value = entries.next_value_seed(Strict)?;
                object.insert(key, value);
            }
        }
        Ok(object)
    }
}

/// A JSON value without duplicate keys in its objects.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Value, A::Error> {
        Keys(|_: &str| true).visit_map(entries).map(Value::Object)
    }
}

/// Parses a JSON text, which may itself be the content of a text, and rejects duplicate keys.
pub(super) fn strict(text: &str) -> Result<Value, serde_json::Error> {
    let text = without_special_numbers(text);
    let mut reader = serde_json::Deserializer::from_str(&text);
    let value = Strict.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// The parts of a JSON text outside its strings, each with its start.
fn outside_strings(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let bytes = text.as_bytes();
        if at >= bytes.len() {
            return None;
        }
        let begin = at;
        let end = bytes[begin..].iter().position(|byte| *byte == b'"').map_or(bytes.len(), |quote| begin + quote);
        // After the closing quotation mark.
        at = end + 1;
        while at < bytes.len() && bytes[at] != b'"' {
            at += if bytes[at] == b'\\' { 2 } else { 1 };
        }
        at += 1;
        Some((begin, &text[begin..end]))
    })
}

/// Replaces Python's `NaN`, `Infinity` and `-Infinity`, which are not JSON, with texts.
fn without_special_numbers(text: &str) -> Cow<'_, str> {
    const NAMES: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !(text.contains("NaN") || text.contains("Infinity")) {
        return Cow::Borrowed(text);
    }
    let (mut out, mut copied) = (String::new(), 0);
    for (begin, part) in outside_strings(text) {
        let mut at = 0;
        while at < part.len() {
            let name = NAMES.iter().find(|name| part.as_bytes()[at..].starts_with(name.as_bytes()));
            match name {
                Some(name) => {
                    out.push_str(&text[copied..begin + at]);
                    out.push_str(&format!("\"{name}\""));
                    at += name.len();
                    copied = begin + at;
                }
                None => at += 1,
            }
        }
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// An integer that fits neither a signed nor an unsigned 64-bit number: as a float it would change.
fn integer_beyond_64_bits(text: &str) -> Option<&str> {
    const SHORTEST: usize = 19;
    let digits = |text: &str| text.as_bytes().windows(SHORTEST).any(|run| run.iter().all(u8::is_ascii_digit));
    if !digits(text) {
        return None;
    }
    let numbers = outside_strings(text).flat_map(|(_, part)| {
        part.split(|character: char| !(character.is_ascii_alphanumeric() || ['.', '-', '+'].contains(&character)))
    });
    let whole = |number: &&str| {
        let digits = number.strip_prefix('-').unwrap_or(number);
        digits.len() >= SHORTEST && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    numbers.filter(whole).find(|number| number.parse::<i64>().is_err() && number.parse::<u64>().is_err())
}

/// The parser's error. Each line is a text of its own, so that only the column is meaningful.
pub(super) fn plain(error: &serde_json::Error) -> RowProblem {
    let (text, column) = (error.to_string(), error.column());
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned();
    RowProblem::Json { message, column }
}

/// The names of an object's keys; the values may be Python's special numbers.
pub(super) fn keys(text: &str) -> Result<Vec<String>, RowProblem> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Vec<String>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Vec<String>, A::Error> {
            let mut names = Vec::new();
            while let Some((name, IgnoredAny)) = entries.next_entry()? {
                names.push(name);
            }
            Ok(names)
        }
    }
    let text = without_special_numbers(text);
    let mut reader = serde_json::Deserializer::from_str(&text);
    let names = reader.deserialize_map(Names).and_then(|names| reader.end().map(|()| names));
    names.map_err(|error| plain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Map<String, Value>, RowProblem> {
        object(text.as_bytes(), |_| true)
    }

    #[test]
    fn numbers_of_python_are_texts() {
        let found = all(r#"{"a": NaN, "b": [-Infinity, Infinity, 1], "c": "NaN, \"Infinity\"", "NaN": {"d": NaN}}"#);
        let expected = serde_json::json!({
            "a": "NaN", "b": ["-Infinity", "Infinity", 1], "c": "NaN, \"Infinity\"", "NaN": { "d": "NaN" },
        });
        assert_eq!(found.map(Value::Object), Ok(expected));
        assert!(all(r#"{"a": NaNa}"#).is_err() && all(r#"{"a": nan}"#).is_err());
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_at_any_depth() {
        for twice in [r#"{"a": 1, "a": 1}"#, r#"{"a": {"b": 1, "b": 2}}"#, r#"{"a": [[{"b": 1, "\u0062": 2}]]}"#] {
            assert!(all(twice).unwrap_err().to_string().contains("duplicate field"), "{twice}");
            assert_eq!(object(twice.as_bytes(), |_| false), Ok(Map::new()));
            assert!(strict(twice).is_err());
        }
        assert!(all(r#"{"a": {"b": 1}, "b": {"a": 1}}"#).is_ok());
    }

    #[test]
    fn no_integer_loses_digits() {
        for kept in ["18446744073709551615", "-9223372036854775808", "1.23456789012345678901234", "1e300", "-0.0"] {
            assert!(all(&format!(r#"{{"a": {kept}}}"#)).is_ok(), "{kept}");
        }
        for lost in ["18446744073709551616", "-9223372036854775809", "123456789012345678901234567890"] {
            assert!(all(&format!(r#"{{"a": [{lost}]}}"#)).unwrap_err().to_string().contains(lost), "{lost}");
            assert!(all(&format!(r#"{{"a": "{lost} and \" {lost}"}}"#)).is_ok(), "{lost} as text");
        }
        assert!(all(r#"{"a": 1e999}"#).is_err());
    }

    #[test]
    fn half_a_character_is_refused() {
        for half in [r#"{"a": "\ud83d"}"#, r#"{"a": "\ude00"}"#, r#"{"a": "\ud83dx"}"#, r#"{"\ud83d": 1}"#] {
            assert!(all(half).unwrap_err().to_string().contains("invalid JSON"), "{half}");
        }
        assert_eq!(all(r#"{"a": "\ud83d\ude00"}"#).unwrap()["a"], "😀");
    }

    #[test]
    fn a_list_of_rows_is_named() {
        assert!(all(r#"[{"a": 1}]"#).unwrap_err().to_string().contains("line of its own"));
        assert!(all("7").unwrap_err().to_string().contains("a JSON object"));
    }
}
