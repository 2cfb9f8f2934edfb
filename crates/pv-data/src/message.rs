//! Messages, with every key of their file.

mod content;
mod problem;
mod weight;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use content::Content;
pub use problem::KeyProblem;
pub(crate) use weight::weight;

/// The keys, other than the content, that are an assistant's output and are trained.
const SPOKEN: [&str; 6] = ["tool_calls", "function_call", "refusal", "reasoning_content", "reasoning", "thinking"];

/// One turn of a conversation, with every key of its file. A template receives all of them, as in `transformers`, which
/// passes the whole dictionary.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Message {
    /// The speaker: `system`, `user`, `assistant`, or another role of the template.
    pub role: String,
    /// The content. It is never interpreted as template syntax.
    pub content: Content,
    /// The other keys, in the order of the file: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`, `weight`, …
    pub fields: Map<String, Value>,
    order: Order,
}

/// The positions of role and content among a message's keys. Templates that print a whole message show them; they do
/// not count in comparisons.
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
    /// The keys that contain a thought, which a template may omit from earlier turns. If several are not null, the
    /// first one is used, as in `transformers`.
    pub const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

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

    /// The same message with one more key, or with another value of that key.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.fields.insert(key.into(), value.into());
        self
    }

    /// The weight of the message in training: 1 by default, 0 if it is not trained. The keys `weight` and `loss_scale`
    /// (numbers) and `train`, `training`, `trainable`, `loss` (`false` for 0) are multiplied.
    ///
    /// # Errors
    /// A weight that is negative or not a number, or a mask over parts of a message,
    /// which is not supported.
    pub fn weight(&self) -> Result<f64, KeyProblem> {
        for key in ["train_detail", "training_detail", "loss_mask", "content_mask", "mask"] {
            if self.field(key).is_some() {
                return Err(KeyProblem::MessageMask { key: key.to_owned() });
            }
        }
        let weight = weight(&self.fields, &["weight", "loss_scale"], &["train", "training", "trainable", "loss"])?;
        if self.role != "assistant" {
            let asked = ["train", "training", "trainable", "loss"]
                .iter()
                .find(|key| self.fields.get(**key) == Some(&true.into()));
            if let Some(key) = asked {
                return Err(KeyProblem::TrainedRole { key: (*key).to_owned(), role: self.role.clone() });
            }
            if weight != 0.0 && weight != 1.0 {
                return Err(KeyProblem::WeightedRole { weight });
            }
        }
        Ok(weight)
    }

    /// Whether the message is empty: no content but white space, and no call, thought or refusal.
    pub fn is_blank(&self) -> bool {
        self.content.trim().is_empty() && !self.speaks_beside_content()
    }

    /// Whether another key than the content contains output.
    pub fn speaks_beside_content(&self) -> bool {
        SPOKEN.iter().any(|key| self.field(key).is_some())
    }

    /// The thoughts in keys of their own.
    pub fn thoughts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        Self::THOUGHTS.iter().filter_map(|key| Some((*key, self.field(key)?.as_str()?)))
    }

    /// The value of a key, unless it is empty or null.
    pub fn field(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| is_nonempty(value))
    }

    /// The same turn with another text of the same form and without other keys.
    #[must_use]
    pub fn with_content_alone(&self, text: &str) -> Self {
        let mut fields = self.fields.clone();
        SPOKEN.iter().for_each(|key| _ = fields.shift_remove(*key));
        Self { role: self.role.clone(), content: self.content.with_text(text), fields, order: self.order }
    }

    /// All keys in order.
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
    type Error = KeyProblem;

    fn try_from(mut fields: Map<String, Value>) -> Result<Self, KeyProblem> {
        let at = |fields: &Map<String, Value>, key| fields.keys().position(|other| other == key);
        let order = Order { role: at(&fields, "role").unwrap_or(0), content: at(&fields, "content").unwrap_or(1) };
        let role = match fields.shift_remove("role") {
            Some(Value::String(role)) => role,
            Some(other) => return Err(KeyProblem::wrong_type("role", kind(&other), "text")),
            None => return Err(KeyProblem::Missing { key: "role".to_owned() }),
        };
        let given = fields.shift_remove("content");
        let message = Self { role, content: Content::absent(), fields, order };
        let content = match given {
            Some(Value::Null) if !message.speaks_beside_content() => {
                return Err(KeyProblem::wrong_type("content", "null", "text"));
            }
            None if !message.speaks_beside_content() => return Err(KeyProblem::Missing { key: "content".to_owned() }),
            None => return Ok(message),
            Some(value) => Content::from_json(value)?,
        };
        Ok(Self { content, ..message })
    }
}

/// Whether a value is neither null nor empty.
pub(crate) fn is_nonempty(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// The kind of a value, in words.
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
