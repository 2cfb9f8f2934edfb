//! Messages, with every key that a file gave them.

use std::{fmt, ops::Deref};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The keys, beside the content, in which an assistant says something; a file that has them means them to be learnt.
const SPOKEN: [&str; 6] = ["tool_calls", "function_call", "refusal", "reasoning_content", "reasoning", "thinking"];

/// Those of them that hold a thought, which a template may leave out of turns that are over.
const THOUGHTS: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// One turn of a conversation, with every key of its file: a template is given all of them, as `transformers` gives it the
/// whole dictionary.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else a template knows.
    pub role: String,
    /// What is said. Never read as template syntax.
    pub content: Content,
    /// The other keys, in the order of the file: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`, `weight`, …
    pub fields: Map<String, Value>,
    order: Order,
}

/// At which places among a message's keys role and content stand. Templates that write a whole message see it; it makes no two
/// messages different.
#[derive(Clone, Copy, Debug)]
struct Order {
    role: usize,
    content: usize,
}

impl PartialEq for Order {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Order {}

impl std::hash::Hash for Order {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl Message {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<Content>) -> Self {
        let order = Order { role: 0, content: 1 };
        Self { role: role.into(), content: content.into(), fields: Map::new(), order }
    }

    /// A system message.
    pub fn system(content: impl Into<Content>) -> Self {
        Self::new("system", content)
    }

    /// A user's message.
    pub fn user(content: impl Into<Content>) -> Self {
        Self::new("user", content)
    }

    /// An assistant's answer.
    pub fn assistant(content: impl Into<Content>) -> Self {
        Self::new("assistant", content)
    }

    /// The same with one more key, or with another value of it.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.fields.insert(key.into(), value.into());
        self
    }

    /// How much what is learnt of this message counts: 1 where nothing is said, 0 where it is not to be learnt. `weight` and
    /// `loss_scale` (numbers) and `train`, `training`, `trainable`, `loss` (`false` for 0) say so; they are multiplied.
    ///
    /// # Errors
    /// What is wrong: a weight that is negative or no number, a mask of parts of a message, which is not supported.
    pub fn weight(&self) -> Result<f64, String> {
        for key in ["train_detail", "training_detail", "loss_mask", "content_mask", "mask"] {
            if self.field(key).is_some() {
                return Err(format!("`{key}` marks parts of a message for training, which is not supported"));
            }
        }
        let weight = weight(&self.fields, &["weight", "loss_scale"], &["train", "training", "trainable", "loss"])?;
        if self.role != "assistant" {
            let asked = ["train", "training", "trainable", "loss"]
                .iter()
                .find(|key| self.fields.get(**key) == Some(&true.into()));
            if let Some(key) = asked {
                return Err(format!(
                    "`{key}` is true for the role {:?}, but only an assistant's words are trained",
                    self.role
                ));
            }
            if weight != 0.0 && weight != 1.0 {
                return Err(format!("its weight is {weight}, but only an assistant's words are trained"));
            }
        }
        Ok(weight)
    }

    /// Whether it says nothing: no content but white space, and no call, thought or refusal beside it.
    pub fn is_blank(&self) -> bool {
        self.content.trim().is_empty() && !self.speaks_beside_content()
    }

    /// Whether something is said in other keys than the content.
    pub fn speaks_beside_content(&self) -> bool {
        SPOKEN.iter().any(|key| self.field(key).is_some())
    }

    /// The thoughts that stand in keys of their own.
    pub fn thoughts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        THOUGHTS.iter().filter_map(|key| Some((*key, self.field(key)?.as_str()?)))
    }

    /// The value of a key that says something.
    pub fn field(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| says_something(value))
    }

    /// The same turn with another content of the same form, and nothing beside it.
    #[must_use]
    pub fn with_content_alone(&self, text: &str) -> Self {
        let mut fields = self.fields.clone();
        SPOKEN.iter().for_each(|key| _ = fields.shift_remove(*key));
        Self { role: self.role.clone(), content: self.content.with_text(text), fields, order: self.order }
    }

    /// All keys in their order.
    fn entries(&self) -> impl Iterator<Item = (&str, Value)> {
        let mut entries: Vec<(&str, Value)> =
            self.fields.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        let mut ours = vec![(self.order.role, "role", Some(Value::from(self.role.as_str())))];
        ours.push((self.order.content, "content", self.content.json()));
        ours.sort_by_key(|(at, ..)| *at);
        for (at, key, value) in ours {
            if let Some(value) = value {
                entries.insert(at.min(entries.len()), (key, value));
            }
        }
        entries.into_iter()
    }
}

impl From<Message> for Map<String, Value> {
    fn from(message: Message) -> Self {
        message.entries().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

impl TryFrom<Map<String, Value>> for Message {
    type Error = String;

    fn try_from(mut fields: Map<String, Value>) -> Result<Self, String> {
        let at = |fields: &Map<String, Value>, key| fields.keys().position(|other| other == key);
        let order = Order { role: at(&fields, "role").unwrap_or(0), content: at(&fields, "content").unwrap_or(1) };
        let role = match fields.shift_remove("role") {
            Some(Value::String(role)) => role,
            Some(other) => return Err(format!("`role` is {}, not text", kind(&other))),
            None => return Err("`role` is missing".to_owned()),
        };
        let given = fields.shift_remove("content");
        let message = Self { role, content: Content::absent(), fields, order };
        let content = match given {
            Some(Value::Null) if !message.speaks_beside_content() => {
                return Err("`content` is null, not text".to_owned());
            }
            None if !message.speaks_beside_content() => return Err("`content` is missing".to_owned()),
            None => return Ok(message),
            Some(value) => Content::from_json(value)?,
        };
        Ok(Self { content, ..message })
    }
}

/// What a message says: a text, or what else its file holds in the place of one. Reads as its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    /// The text; of a list, its parts of text behind one another.
    text: String,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Form {
    Text,
    /// The key is not there.
    Absent,
    /// Null, a list of parts, or an object, as the file has it.
    Json(Value),
}

impl Content {
    fn absent() -> Self {
        Self { text: String::new(), form: Form::Absent }
    }

    fn from_json(value: Value) -> Result<Self, String> {
        let text = match &value {
            Value::String(text) => return Ok(text.as_str().into()),
            Value::Null => String::new(),
            Value::Array(parts) => text_of_parts(parts)?,
            Value::Object(_) => value.to_string(),
            Value::Bool(_) | Value::Number(_) => return Err(format!("`content` is {}, not text", kind(&value))),
        };
        Ok(Self { text, form: Form::Json(value) })
    }

    /// The text; of a list, its parts of text behind one another; empty where there is none.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the file has a text here, and no list, object or null.
    pub fn is_text(&self) -> bool {
        self.form == Form::Text
    }

    /// Whether the file has a list of parts here.
    pub fn is_list(&self) -> bool {
        matches!(self.form, Form::Json(Value::Array(_)))
    }

    /// Whether the file has an object here.
    pub fn is_object(&self) -> bool {
        matches!(self.form, Form::Json(Value::Object(_)))
    }

    /// As it stands in the file; nothing where the key is not there.
    pub fn json(&self) -> Option<Value> {
        match &self.form {
            Form::Text => Some(self.text.as_str().into()),
            Form::Absent => None,
            Form::Json(value) => Some(value.clone()),
        }
    }

    /// A text in the same form.
    fn with_text(&self, text: &str) -> Self {
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

    /// The same behind another text.
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

    /// The same with its last text changed; of an object, its first.
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

/// The text of a part of a content, if it is one of text.
fn part_text(part: &Value) -> Option<&str> {
    part.as_str().or_else(|| part.get("text")?.as_str())
}

/// The texts of a content's parts behind one another.
fn text_of_parts(parts: &[Value]) -> Result<String, String> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let named = part.get("type").and_then(Value::as_str).unwrap_or_default();
        if ["image", "audio", "video", "file"].iter().any(|medium| named.contains(medium)) {
            return Err(format!("part {} of `content` is of the type `{named}`, and only text can be read", index + 1));
        }
        text.push_str(part_text(part).unwrap_or_default());
    }
    if text.is_empty() && parts.iter().any(|part| part_text(part).is_none()) {
        text = Value::from(parts).to_string();
    }
    Ok(text)
}

/// Whether a value says anything.
pub(crate) fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// The product of the numbers and truth values under keys; 1 where there is none.
pub(crate) fn weight(fields: &Map<String, Value>, numbers: &[&str], flags: &[&str]) -> Result<f64, String> {
    let mut product = 1.0;
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let (number, flag) = (numbers.contains(&key.as_str()), flags.contains(&key.as_str()));
        product *= match value {
            Value::Bool(yes) if number || flag => f64::from(u8::from(*yes)),
            Value::Number(value) if number => {
                let value = value.as_f64().unwrap_or(f64::NAN);
                if !value.is_finite() || value < 0.0 || value > f64::from(f32::MAX) {
                    return Err(format!("`{key}` is {value}, not a number of at least 0"));
                }
                value
            }
            // A data set may have its losses beside it.
            _ if key == "loss" => 1.0,
            Value::Number(value) if flag && [Some(0.0), Some(1.0)].contains(&value.as_f64()) => {
                value.as_f64().unwrap_or(1.0)
            }
            other if flag => return Err(format!("`{key}` is {}, not true or false", shown(other))),
            other if number => return Err(format!("`{key}` is {}, not a number of at least 0", shown(other))),
            _ => 1.0,
        };
    }
    match product {
        product if product > f64::from(f32::MAX) => Err(format!("its weights' product is {product}")),
        product => Ok(product),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => kind(other).to_owned(),
    }
}

/// What a value is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
