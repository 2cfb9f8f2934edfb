//! In which form a server takes requests.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::reply::Told;

/// The name under which a server takes the most tokens of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenLimit {
    /// `max_tokens`, which all imitations know.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`, which OpenAI's newer models want.
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

/// The form of the requests that a server takes. It begins as the protocol has it, and leaves out or renames what the server
/// refuses.
#[expect(clippy::struct_excessive_bools, reason = "each is one parameter that is sent or not")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestForm {
    /// How the most tokens of a reply are called.
    pub token_limit: TokenLimit,
    /// The fewest tokens that may be asked for.
    pub least_tokens: u32,
    /// The most rivals of a token that are given.
    pub top_logprobs: u8,
    /// Whether the temperature is sent; without it, the server samples as it likes.
    pub temperature: bool,
    /// Whether a seed is sent.
    pub seed: bool,
    /// Whether the reply comes in pieces.
    pub stream: bool,
    /// Whether the model's template is asked to leave thoughts out (`chat_template_kwargs.enable_thinking`).
    pub thinking_off: bool,
    /// Whether the server takes that wish.
    #[serde(skip)]
    knows_thinking: bool,
    /// Whether the limit has had its other name.
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

    /// Brings a request into this form, with the fields that the options add; a field that is null is left out.
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

    /// Changes the form as a refusal of a parameter asks for; what was changed, or `None` where nothing can be.
    pub(super) fn without(&mut self, name: &str, told: &Told) -> Option<String> {
        let text = told.message.to_lowercase();
        match name {
            "max_tokens" | "max_completion_tokens" => {
                let other = match self.token_limit {
                    TokenLimit::MaxTokens => TokenLimit::MaxCompletionTokens,
                    TokenLimit::MaxCompletionTokens => TokenLimit::MaxTokens,
                };
                // "Expected a value >= 16": the name is known, the number is too small for it.
                if let Some(least) = least_of(&text).filter(|least| *least > self.least_tokens) {
                    self.least_tokens = least;
                    return Some(format!("at least {least} tokens are asked for"));
                }
                // Once only, or two refusals would go on for ever.
                if std::mem::replace(&mut self.renamed, true) {
                    return None;
                }
                self.token_limit = other;
                Some(format!("{} is asked for in place of {name}", other.name()))
            }
            "top_logprobs" | "logprobs" => {
                let numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u8>().ok());
                let told = numbers.filter(|most| (1..self.top_logprobs).contains(most)).max();
                // A refusal of `logprobs` is one of their number only where it tells another.
                let fewer = [10, 5, 3, 1].into_iter().find(|fewer| *fewer < self.top_logprobs && name != "logprobs");
                self.top_logprobs = told.or(fewer)?;
                Some(format!("{} rivals of a token are asked for", self.top_logprobs))
            }
            "temperature" if self.temperature => {
                self.temperature = false;
                Some("no temperature is sent: the server samples at its own".into())
            }
            "seed" if self.seed => {
                self.seed = false;
                Some("no seed is sent".into())
            }
            "chat_template_kwargs" if self.thinking_off && self.knows_thinking => {
                self.knows_thinking = false;
                Some("the server cannot be told to leave thoughts out".into())
            }
            "stream" if !self.stream => {
                self.stream = true;
                Some("replies are asked for in pieces".into())
            }
            _ => None,
        }
    }
}

/// The least number of tokens that a refusal names.
fn least_of(text: &str) -> Option<u32> {
    let words = ["minimum", ">=", "at least", "below", "greater than"];
    if !words.iter().any(|word| text.contains(word)) {
        return None;
    }
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u32>().ok());
    numbers.filter(|number| *number <= 4096).max()
}
