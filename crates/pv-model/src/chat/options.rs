//! Options for rendering conversations.

use std::borrow::Cow;

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use pv_data::{Conversation, Message};

/// Where system text is placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemText {
    /// In a message of its own with the role `system`. A template that rejects this role is an error.
    #[default]
    AsMessage,
    /// At the start of the first user message, followed by a blank line, as is usual for models whose templates reject
    /// the role. This applies to the system messages at the start of a conversation. Without a following user message,
    /// they become one.
    FirstUserTurn,
}

impl SystemText {
    /// The messages for the template.
    pub(super) fn place(self, messages: &[Message]) -> Cow<'_, [Message]> {
        let leading = messages.iter().take_while(|message| message.role == "system").count();
        if self == Self::AsMessage || leading == 0 {
            return Cow::Borrowed(messages);
        }
        let (system, mut rest) = messages.split_at(leading);
        let system = system.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n\n");
        let mut first = Message::user(system.as_str());
        if let Some((user, after)) = rest.split_first().filter(|(message, _)| message.role == "user") {
            first = user.clone();
            first.content = user.content.after(&format!("{system}\n\n"));
            rest = after;
        }
        Cow::Owned([first].into_iter().chain(rest.iter().cloned()).collect())
    }
}

/// Options for rendering a conversation. The default renders it closed, with the default template and without a clock.
///
/// As a part of a plan (of rollouts, a sweep, an evaluation, a training, …) they determine how the template is used.
/// How a text ends is not part of that and is not stored: the code that renders decides it, see
/// [`as_prompt`](Self::as_prompt) and [`closed`](Self::closed).
///
/// ```
/// use pv_model::RenderOptions;
///
/// let options: RenderOptions = serde_json::from_str(
///     r#"{"variables": {"enable_thinking": false}, "now": "2025-07-29T12:00:00", "system": "first_user_turn"}"#,
/// )?;
/// assert!(!options.is_default() && !options.add_generation_prompt);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RenderOptions {
    /// Whether the text ends with the header of the assistant's next answer. Not stored.
    #[serde(skip)]
    pub add_generation_prompt: bool,
    /// Whether the text ends with the last message's content, without the end of its turn, so that a model continues
    /// it. Not stored.
    #[serde(skip)]
    pub continue_final_message: bool,
    /// The name of the template; `None` uses `default` (or `tool_use` if `variables` contain `tools`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_name: Option<String>,
    /// Variables for the template, for example `enable_thinking` or `tools`. They override the tokenizer's special
    /// tokens.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub variables: Map<String, Value>,
    /// The time that `strftime_now` uses; in files an ISO date, `2025-07-29` or `2025-07-29T12:00:00`. With `None` the
    /// function is undefined. Templates that check for this use a date of their own, so that a rendering can be
    /// repeated on another day.
    #[serde(with = "iso", skip_serializing_if = "Option::is_none")]
    pub now: Option<DateTime>,
    /// Where system text is placed.
    #[serde(skip_serializing_if = "SystemText::is_default")]
    pub system: SystemText,
}

impl SystemText {
    /// Whether this is the default.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl RenderOptions {
    /// The default with [`RenderOptions::add_generation_prompt`], for prompts.
    pub fn prompt() -> Self {
        Self::default().as_prompt()
    }

    /// The same template, variables, clock and placement of system text, for a prompt.
    #[must_use]
    pub fn as_prompt(&self) -> Self {
        Self { add_generation_prompt: true, ..self.closed() }
    }

    /// The same template, variables, clock and placement of system text, for a whole conversation.
    #[must_use]
    pub fn closed(&self) -> Self {
        Self { add_generation_prompt: false, continue_final_message: false, ..self.clone() }
    }

    /// The same options with a conversation's own `tools` and `chat_template_kwargs`, which override the template's
    /// variables.
    #[must_use]
    pub fn of(&self, conversation: &Conversation) -> Self {
        let mut options = self.clone();
        let own = conversation.fields.get("chat_template_kwargs").and_then(Value::as_object).into_iter().flatten();
        options.variables.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        if let Some(tools) = conversation.fields.get("tools") {
            options.variables.insert("tools".to_owned(), tools.clone());
        }
        options
    }

    /// Whether all stored fields have their defaults. A plan omits such options from its file.
    pub fn is_default(&self) -> bool {
        self.closed() == Self::default()
    }
}

/// A time as ISO text.
mod iso {
    use jiff::civil::DateTime;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(now: &Option<DateTime>, serializer: S) -> Result<S::Ok, S::Error> {
        match now {
            Some(now) => serializer.collect_str(now),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(|error| D::Error::custom(format!("`now` is not an ISO date: {error}"))))
            .transpose()
    }
}
