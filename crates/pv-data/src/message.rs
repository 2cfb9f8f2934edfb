//! Messages, with every key that a file gave them.

mod content;
mod weight;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use content::Content;
pub(crate) use weight::weight;

/// The keys, beside the content, in which an assistant says something; a file that has them means them to be learnt.
const SPOKEN: [&str; 6] = ["tool_calls", "function_call", "refusal", "reasoning_content", "reasoning", "thinking"];

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
    /// The keys that hold a thought, which a template may leave out of turns that are over. Of several that are not null, the
    /// first is the one that counts, as in `transformers`.
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
        Self::THOUGHTS.iter().filter_map(|key| Some((*key, self.field(key)?.as_str()?)))
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
