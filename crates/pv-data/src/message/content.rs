//! The content of a message.

use std::{fmt, ops::Deref};

use serde_json::Value;

use super::{KeyProblem, kind};

/// The content of a message: a text, or another value of the file. Dereferences to its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    /// The text; for a list, its text parts joined.
    text: String,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Form {
    Text,
    /// The key is absent.
    Absent,
    /// Null, a list of parts, or an object, as in the file.
    Json(Value),
}

impl Content {
    pub(super) fn absent() -> Self {
        Self { text: String::new(), form: Form::Absent }
    }

    pub(super) fn from_json(value: Value) -> Result<Self, KeyProblem> {
        let text = match &value {
            Value::String(text) => return Ok(text.as_str().into()),
            Value::Null => String::new(),
            Value::Array(parts) => text_of_parts(parts)?,
            Value::Object(_) => value.to_string(),
            Value::Bool(_) | Value::Number(_) => {
                return Err(KeyProblem::wrong_type("content", kind(&value), "text"));
            }
        };
        Ok(Self { text, form: Form::Json(value) })
    }

    /// The text; for a list, its text parts joined; empty if there is none.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the content is a text in the file, and not a list, object or null.
    pub fn is_text(&self) -> bool {
        self.form == Form::Text
    }

    /// Whether the content is a list of parts in the file.
    pub fn is_list(&self) -> bool {
        matches!(self.form, Form::Json(Value::Array(_)))
    }

    /// Whether the content is an object in the file.
    pub fn is_object(&self) -> bool {
        matches!(self.form, Form::Json(Value::Object(_)))
    }

    /// The value in the file; `None` if the key is absent.
    pub fn json(&self) -> Option<Value> {
        match &self.form {
            Form::Text => Some(self.text.as_str().into()),
            Form::Absent => None,
            Form::Json(value) => Some(value.clone()),
        }
    }

    /// A text in the same form.
    pub(super) fn with_text(&self, text: &str) -> Self {
        let Form::Json(Value::Array(parts)) = &self.form else { return text.into() };
        let part = parts.iter().find(|part| part_text(part).is_some());
        let part = match part.and_then(Value::as_object) {
            Some(object) => {
                let mut object = object.clone();
                object.insert("text".to_owned(), text.into());
                Value::Object(object)
            }
            None if part.is_some() => text.into(),
            None => serde_json::json!({ "type": "text", "text": text }),
        };
        Self { text: text.to_owned(), form: Form::Json(Value::Array(vec![part])) }
    }

    /// The same content, preceded by another text.
    #[must_use]
    pub fn after(&self, text: &str) -> Self {
        match &self.form {
            Form::Json(Value::Array(parts)) => {
                let first = serde_json::json!({ "type": "text", "text": text });
                let parts = [first].into_iter().chain(parts.iter().cloned()).collect();
                Self { text: format!("{text}{}", self.text), form: Form::Json(Value::Array(parts)) }
            }
            _ => format!("{text}{}", self.text).into(),
        }
    }

    /// The same content with its last text changed; for an object, its first.
    #[must_use]
    pub fn map_text(&self, change: &dyn Fn(&str) -> String) -> Self {
        let Form::Json(value) = &self.form else { return change(&self.text).into() };
        let mut value = value.clone();
        match &mut value {
            Value::Array(parts) => {
                let last =
                    parts.iter_mut().rev().find(|part| part_text(part).is_some_and(|text| !text.trim().is_empty()));
                match last {
                    Some(Value::Object(object)) => {
                        if let Some(Value::String(text)) = object.get_mut("text") {
                            *text = change(text);
                        }
                    }
                    Some(Value::String(text)) => *text = change(text),
                    _ => {}
                }
            }
            Value::Object(object) => {
                if let Some(Value::String(text)) = object.values_mut().find(|value| value.is_string()) {
                    *text = change(text);
                }
            }
            _ => {}
        }
        Self::from_json(value).unwrap_or_else(|_| self.clone())
    }
}

impl Deref for Content {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Content {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self { text, form: Form::Text }
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<&String> for Content {
    fn from(text: &String) -> Self {
        text.clone().into()
    }
}

impl From<std::borrow::Cow<'_, str>> for Content {
    fn from(text: std::borrow::Cow<'_, str>) -> Self {
        text.into_owned().into()
    }
}

impl PartialEq<str> for Content {
    fn eq(&self, text: &str) -> bool {
        self.text == text
    }
}

impl PartialEq<&str> for Content {
    fn eq(&self, text: &&str) -> bool {
        self.text == *text
    }
}

/// The text of a part, if the part is text.
fn part_text(part: &Value) -> Option<&str> {
    part.as_str().or_else(|| part.get("text")?.as_str())
}

/// The joined texts of a content's parts.
fn text_of_parts(parts: &[Value]) -> Result<String, KeyProblem> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let named = part.get("type").and_then(Value::as_str).unwrap_or_default();
        if ["image", "audio", "video", "file"].iter().any(|medium| named.contains(medium)) {
            let (key, found) = ("content".to_owned(), named.to_owned());
            return Err(KeyProblem::PartType { key, part: index, found });
        }
        text.push_str(part_text(part).unwrap_or_default());
    }
    if text.is_empty() && parts.iter().any(|part| part_text(part).is_none()) {
        text = Value::from(parts).to_string();
    }
    Ok(text)
}
