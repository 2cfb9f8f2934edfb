//! The form of requests that a server accepts.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::reply::ErrorBody;

/// The name of the limit on a reply's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenLimit {
    /// `max_tokens`, which most servers support.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`, which OpenAI's newer models require.
    MaxCompletionTokens,
}

impl TokenLimit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// The form of the requests that a server accepts. It starts as in the protocol, and omits or renames parameters that
/// the server refuses.
#[expect(clippy::struct_excessive_bools, reason = "each is one parameter that is sent or not")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RequestForm {
    /// The name of the limit on a reply's tokens.
    pub token_limit: TokenLimit,
    /// The smallest limit on a reply's tokens that the server accepts.
    pub least_tokens: u32,
    /// The greatest number of alternative tokens that the server returns.
    pub top_logprobs: u8,
    /// Whether the temperature is sent; without it, the server uses its default.
    pub temperature: bool,
    /// Whether a seed is sent.
    pub seed: bool,
    /// Whether the reply is streamed.
    pub stream: bool,
    /// Whether reasoning is disabled in the model's template (`chat_template_kwargs.enable_thinking`).
    pub thinking_off: bool,
    /// Whether the server accepts that setting.
    #[serde(skip)]
    knows_thinking: bool,
    /// Whether the limit's other name has been tried.
    #[serde(skip)]
    renamed: bool,
}

impl RequestForm {
    pub(super) fn new(token_limit: TokenLimit, thinking_off: bool) -> Self {
        Self {
            token_limit,
            least_tokens: 1,
            top_logprobs: 20,
            temperature: true,
            seed: true,
            stream: false,
            thinking_off,
            knows_thinking: true,
            renamed: false,
        }
    }

    /// Converts a request to this form and adds the fields of the options; a null field is removed.
    pub(super) fn apply(&self, request: &mut Map<String, Value>, extra: &Map<String, Value>) {
        if let Some(limit) = request.remove("max_tokens").and_then(|limit| limit.as_u64()) {
            request.insert(self.token_limit.name().into(), limit.max(self.least_tokens.into()).into());
        }
        if let Some(top) = request.get_mut("top_logprobs") {
            *top = self.top_logprobs.into();
        }
        for (name, kept) in [("temperature", self.temperature), ("seed", self.seed)] {
            if !kept {
                request.remove(name);
            }
        }
        if self.stream {
            request.insert("stream".into(), true.into());
            request.insert("stream_options".into(), json!({ "include_usage": true }));
        }
        if self.thinking_off && self.knows_thinking {
            request.insert("chat_template_kwargs".into(), json!({ "enable_thinking": false }));
        }
        for (name, value) in extra {
            match (request.get_mut(name), value) {
                (_, Value::Null) => drop(request.remove(name)),
                (Some(Value::Object(known)), Value::Object(more)) => known.extend(more.clone()),
                _ => drop(request.insert(name.clone(), value.clone())),
            }
        }
    }

    /// Changes the form after a refusal of a parameter; returns a description of the change, or `None` if no change is
    /// possible.
    pub(super) fn without(&mut self, name: &str, error: &ErrorBody) -> Option<String> {
        let text = error.message.to_lowercase();
        match name {
            "max_tokens" | "max_completion_tokens" => {
                let other = match self.token_limit {
                    TokenLimit::MaxTokens => TokenLimit::MaxCompletionTokens,
                    TokenLimit::MaxCompletionTokens => TokenLimit::MaxTokens,
                };
                // "Expected a value >= 16": the name is supported, the number is too small.
                if let Some(least) = least_of(&text).filter(|least| *least > self.least_tokens) {
                    self.least_tokens = least;
                    return Some(format!("at least {least} tokens are requested"));
                }
                // Only once, or two refusals would alternate forever.
                if std::mem::replace(&mut self.renamed, true) {
                    return None;
                }
                self.token_limit = other;
                Some(format!("{} is used instead of {name}", other.name()))
            }
            "top_logprobs" | "logprobs" => {
                let numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u8>().ok());
                let stated = numbers.filter(|most| (1..self.top_logprobs).contains(most)).max();
                // A refusal of `logprobs` refers to their number only if it states another.
                let fewer = [10, 5, 3, 1].into_iter().find(|fewer| *fewer < self.top_logprobs && name != "logprobs");
                self.top_logprobs = stated.or(fewer)?;
                Some(format!("{} alternatives per token are requested", self.top_logprobs))
            }
            "temperature" if self.temperature => {
                self.temperature = false;
                Some("no temperature is sent; the server uses its default".into())
            }
            "seed" if self.seed => {
                self.seed = false;
                Some("no seed is sent".into())
            }
            "chat_template_kwargs" if self.thinking_off && self.knows_thinking => {
                self.knows_thinking = false;
                Some("the server does not support disabling the reasoning".into())
            }
            "stream" if !self.stream => {
                self.stream = true;
                Some("replies are streamed".into())
            }
            _ => None,
        }
    }
}

/// The smallest number that a refusal states.
fn least_of(text: &str) -> Option<u32> {
    let words = ["minimum", ">=", "at least", "below", "greater than"];
    if !words.iter().any(|word| text.contains(word)) {
        return None;
    }
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u32>().ok());
    numbers.filter(|number| *number <= 4096).max()
}
