//! How a conversation is rendered.

use std::borrow::Cow;

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use pv_data::{Conversation, Message};

/// Where system text goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemText {
    /// Into a message of its own with the role `system`. A template that refuses this role is an error.
    #[default]
    AsMessage,
    /// In front of the first user message, with a blank line between them, as is usual for models whose templates refuse
    /// the role. This applies to the system messages that a conversation begins with. Where no user message follows, they
    /// become one.
    FirstUserTurn,
}

impl SystemText {
    /// The messages as a template is given them.
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

/// How to render a conversation. The default renders it closed, with the default template and without a clock.
///
/// As a part of a plan (of rollouts, a sweep, an evaluation, a training, …) it says how the template is used. How a text
/// ends is no part of that, and is not saved: it is for whoever renders to decide, see [`as_prompt`](Self::as_prompt) and
/// [`closed`](Self::closed).
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
    /// End with the header of the assistant's next answer. Not saved.
    #[serde(skip)]
    pub add_generation_prompt: bool,
    /// End with the last message's content, without what would close its turn, so that a model goes on with it. Not saved.
    #[serde(skip)]
    pub continue_final_message: bool,
    /// Which of the folder's templates; `None` takes `default` (or `tool_use` when `variables` has `tools`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_name: Option<String>,
    /// Variables for the template, for example `enable_thinking` or `tools`. They win over the tokenizer's special tokens.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub variables: Map<String, Value>,
    /// What `strftime_now` answers; in files an ISO date, `2025-07-29` or `2025-07-29T12:00:00`. With `None` the function
    /// does not exist, and templates that allow for that use the date that they carry, so that a rendering can be repeated
    /// on another day.
    #[serde(with = "iso", skip_serializing_if = "Option::is_none")]
    pub now: Option<DateTime>,
    /// Where system text goes.
    #[serde(skip_serializing_if = "SystemText::is_default")]
    pub system: SystemText,
}

impl SystemText {
    /// Whether it is the default.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl RenderOptions {
    /// The default, with [`RenderOptions::add_generation_prompt`]: what to let a model answer to.
    pub fn prompt() -> Self {
        Self::default().as_prompt()
    }

    /// The same template, variables, clock and place of system text, for a prompt.
    #[must_use]
    pub fn as_prompt(&self) -> Self {
        Self { add_generation_prompt: true, ..self.closed() }
    }

    /// The same template, variables, clock and place of system text, for a whole conversation.
    #[must_use]
    pub fn closed(&self) -> Self {
        Self { add_generation_prompt: false, continue_final_message: false, ..self.clone() }
    }

    /// The same with a conversation's own `tools` and `chat_template_kwargs` among the template's variables, where they win.
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

    /// Whether all that is saved is as by default. A plan leaves such options out of its file.
    pub fn is_default(&self) -> bool {
        self.closed() == Self::default()
    }
}

/// A time of the clock as ISO text.
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
        text.map(|text| text.parse().map_err(|error| D::Error::custom(format!("`now` is no ISO date: {error}"))))
            .transpose()
    }
}
