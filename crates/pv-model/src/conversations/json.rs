//! Conversations as lines of JSON.

use serde::Deserialize;
use serde_json::Value;

use super::lines::Lines;
use super::reader::{RowOrReason, Rows};
use crate::Message;

/// The lines of a file.
pub(super) struct JsonRows(pub(super) Lines);

impl Rows for JsonRows {
    fn next(&mut self) -> Result<Option<(u64, RowOrReason)>, String> {
        let line = self.0.next().map_err(|error| error.to_string())?;
        Ok(line.map(|(number, line)| (number, line.and_then(messages))))
    }
}

/// What is looked at in a line; other keys are passed over.
#[derive(Deserialize)]
struct Line {
    messages: Option<Value>,
    conversation: Option<Value>,
    conversations: Option<Value>,
}

/// A line as text that may be a JSON object.
pub(super) fn object(line: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("it is not UTF-8: {error}"))?;
    if text.starts_with('{') { Ok(text) } else { Err("it is no JSON object".to_owned()) }
}

/// The messages of a line: `{"messages": [{"role", "content"}, …]}`, also under `conversation` or `conversations`, also with
/// ShareGPT's `from` and `value`.
pub(super) fn messages(line: &[u8]) -> RowOrReason {
    let line: Line = serde_json::from_str(object(line)?).map_err(|error| plain(&error))?;
    let Some(list) = line.messages.or(line.conversation).or(line.conversations) else {
        return Err("it has neither `messages` nor `conversation`".to_owned());
    };
    let Value::Array(list) = list else {
        return Err(format!("the messages are {}, not a list", kind(&list)));
    };
    let numbered = list.into_iter().enumerate();
    numbered.map(|(index, value)| message(value).map_err(|reason| format!("message {}: {reason}", index + 1))).collect()
}

fn message(value: Value) -> Result<Message, String> {
    let Value::Object(mut fields) = value else {
        return Err(format!("it is {}, not an object", kind(&value)));
    };
    let sharegpt = !fields.contains_key("role") && fields.contains_key("from");
    let (role, content) = if sharegpt { ("from", "value") } else { ("role", "content") };
    let mut text = |key: &str| match fields.remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("`{key}` is {}, not text", kind(&other))),
        None => Err(format!("`{key}` is missing")),
    };
    let (role, content) = (text(role)?, text(content)?);
    Ok(Message { role: if sharegpt { from_sharegpt(role) } else { role }, content })
}

/// The role that a ShareGPT speaker has.
pub(super) fn from_sharegpt(speaker: String) -> String {
    match speaker.as_str() {
        "human" => "user".to_owned(),
        "gpt" => "assistant".to_owned(),
        _ => speaker,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What the parser minds; each line is a text of its own, so that only the column says where.
pub(super) fn plain(error: &serde_json::Error) -> String {
    let (text, column) = (error.to_string(), error.column());
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("it is no JSON of this form: {what} at column {column}")
}
