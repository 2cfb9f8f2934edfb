//! Typed access to the keys of a JSON object, with errors that name the key and the value.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use super::ConfigError;

/// The limit on the length of a list of numbers, above that of any setting.
const MAX_NUMBERS: usize = 1 << 16;

/// A JSON object of a configuration file.
///
/// A missing key has the default of Hugging Face's configuration class; `null` is allowed where that class allows
/// `None`. The two differ: for Mistral, a missing `sliding_window` is 4096, and `null` means no window.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// The key of this object, empty for the root of the file.
    parent: &'a str,
    map: &'a Map<String, Value>,
    /// A key that is treated as absent.
    hidden: Option<&'a str>,
}

impl<'a> Fields<'a> {
    pub(crate) fn root(path: &'a Path, value: &'a Value) -> Result<Self, ConfigError> {
        match value {
            Value::Object(map) => Ok(Self { path, parent: "", map, hidden: None }),
            other => Err(wrong(path, "the whole file", shortened(other), "a JSON object")),
        }
    }

    /// The object `map` under `key`.
    pub(crate) fn under(path: &'a Path, key: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { path, parent: key, map, hidden: None }
    }

    /// The object without a key.
    pub(crate) fn without(&self, key: &'a str) -> Self {
        Self { hidden: Some(key), ..*self }
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|_| self.hidden != Some(key))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    /// The object under `key`; `None` if it is missing, `null` or empty, which are all false in Python.
    pub(crate) fn object(&self, key: &'a str) -> Result<Option<Fields<'a>>, ConfigError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) if map.is_empty() => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { path: self.path, parent: key, map, hidden: None })),
            Some(other) => Err(self.wrong(key, shortened(other), "an object")),
        }
    }

    /// An integer in `1..=most`.
    pub(crate) fn size(&self, key: &str, absent: Option<usize>, most: usize) -> Result<usize, ConfigError> {
        self.whole(key, absent, 1..=most)
    }

    /// An integer in `range`.
    pub(crate) fn whole(
        &self,
        key: &str,
        absent: Option<usize>,
        range: RangeInclusive<usize>,
    ) -> Result<usize, ConfigError> {
        let expected = || format!("an integer from {} to {}", range.start(), range.end());
        match (self.get(key), absent) {
            (None, Some(value)) => Ok(value),
            (None, None) => Err(self.missing(key)),
            (Some(value), _) => value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .filter(|n| range.contains(n))
                .ok_or_else(|| self.wrong(key, shortened(value), expected())),
        }
    }

    /// Like [`Fields::size`], with `null` for `None`.
    pub(crate) fn optional_size(
        &self,
        key: &str,
        absent: Option<usize>,
        most: usize,
    ) -> Result<Option<usize>, ConfigError> {
        match self.get(key) {
            None => Ok(absent),
            Some(Value::Null) => Ok(None),
            Some(_) => self.size(key, None, most).map(Some),
        }
    }

    pub(crate) fn number(&self, key: &str, absent: Option<f64>) -> Result<f64, ConfigError> {
        match (self.get(key), absent) {
            (None, Some(value)) => Ok(value),
            (None, None) => Err(self.missing(key)),
            (Some(value), _) => value
                .as_f64()
                .filter(|n| n.is_finite())
                .ok_or_else(|| self.wrong(key, shortened(value), "a finite number")),
        }
    }

    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.number(key, None).map(Some),
        }
    }

    /// A list of finite numbers.
    pub(crate) fn numbers(&self, key: &str) -> Result<Vec<f64>, ConfigError> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        let number = |value: &Value| value.as_f64().filter(|n| n.is_finite());
        let numbers = value.as_array().filter(|all| all.len() <= MAX_NUMBERS);
        let numbers = numbers.and_then(|all| all.iter().map(number).collect());
        numbers.ok_or_else(|| self.wrong(key, shortened(value), "a list of finite numbers"))
    }

    pub(crate) fn flag(&self, key: &str, absent: bool) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(absent),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, shortened(other), "true or false")),
        }
    }

    pub(crate) fn text(&self, key: &str, absent: Option<&'a str>) -> Result<&'a str, ConfigError> {
        match (self.get(key), absent) {
            (None, Some(value)) => Ok(value),
            (None, None) => Err(self.missing(key)),
            (Some(Value::String(text)), _) => Ok(text),
            (Some(other), _) => Err(self.wrong(key, shortened(other), "a string")),
        }
    }

    /// One token id, a list of them, or `null`. A negative id is an old notation for none.
    pub(crate) fn token_ids(&self, key: &str, absent: Option<u32>) -> Result<Vec<u32>, ConfigError> {
        let ids = match self.get(key) {
            None => return Ok(absent.into_iter().collect()),
            Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
        };
        ids.iter()
            .filter(|id| id.as_i64().is_none_or(|id| id >= 0))
            .map(|id| {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                id.ok_or_else(|| self.wrong(key, shortened(&self.map[key]), "a token id or a list of token ids"))
            })
            .collect()
    }

    /// Like [`Fields::token_ids`], where a list is not allowed.
    pub(crate) fn token_id(&self, key: &str, absent: Option<u32>) -> Result<Option<u32>, ConfigError> {
        match self.token_ids(key, absent)?.as_slice() {
            [] => Ok(None),
            [id] => Ok(Some(*id)),
            _ => Err(self.wrong(key, shortened(&self.map[key]), "one token id")),
        }
    }

    pub(crate) fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { path: self.path.into(), key: self.full(key) }
    }

    pub(crate) fn wrong(&self, key: &str, value: impl Display, expected: impl Display) -> ConfigError {
        wrong(self.path, &self.full(key), value, expected)
    }

    pub(crate) fn unsupported(&self, key: &str, value: impl Display, supported: impl Display) -> ConfigError {
        ConfigError::Unsupported {
            path: self.path.into(),
            key: self.full(key),
            value: value.to_string(),
            supported: supported.to_string(),
        }
    }

    fn full(&self, key: &str) -> String {
        if self.parent.is_empty() { key.into() } else { format!("{}.{key}", self.parent) }
    }
}

/// The error of an invalid value under `key`.
pub(crate) fn wrong(path: &Path, key: &str, value: impl Display, expected: impl Display) -> ConfigError {
    ConfigError::Value { path: path.into(), key: key.into(), value: value.to_string(), expected: expected.to_string() }
}

/// A value for an error message, shortened so that a hostile file does not flood the terminal.
pub(crate) fn shortened(value: &Value) -> String {
    const MOST: usize = 120;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
