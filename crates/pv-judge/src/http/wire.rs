//! Requests and what servers make of them.
//!
//! Requests have the types of `async-openai`. Responses are read leniently instead, by the few values that matter: its
//! types want all that OpenAI sends and nothing else, and imitations leave things out, write `code` as a number, or
//! finish for reasons of their own.

use async_openai::types::chat::{
    ChatCompletionRequestMessage, ChatCompletionRequestUserMessage, CreateChatCompletionRequest,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ledger::Tokens;
use crate::Verdict;
use crate::score::{number, shortened};

/// How a judge is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// For the probabilities of its first token.
    Distribution,
    /// For the number that it writes.
    Sampled,
}

impl Mode {
    /// Enough for a number and what may be around it.
    pub(super) fn max_tokens(self) -> u32 {
        match self {
            Self::Distribution => 1,
            Self::Sampled => 8,
        }
    }

    /// What of a request the answer depends on, the prompt and model aside.
    pub(super) fn parameters(self) -> &'static str {
        match self {
            Self::Distribution => "max_tokens 1, temperature 0, top_logprobs 20, seed 0",
            Self::Sampled => "max_tokens 8, temperature 0, seed 0",
        }
    }
}

/// The judge protocol's request.
pub(super) fn scoring(model: &str, prompt: String, mode: Mode) -> CreateChatCompletionRequest {
    let distribution = mode == Mode::Distribution;
    #[expect(deprecated, reason = "the newer names of these parameters are OpenAI's alone")]
    CreateChatCompletionRequest {
        model: model.to_owned(),
        messages: vec![user(prompt)],
        max_tokens: Some(mode.max_tokens()),
        temperature: Some(0.0),
        logprobs: distribution.then_some(true),
        top_logprobs: distribution.then_some(20),
        seed: Some(0),
        ..Default::default()
    }
}

pub(crate) fn user(text: String) -> ChatCompletionRequestMessage {
    ChatCompletionRequestUserMessage::from(text).into()
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// What the model wrote.
    pub(crate) text: String,
    /// The most likely first tokens with the logarithms of their probabilities; none from a server that gives none.
    /// Models compute in `f32` at most, and these are read from the cache exactly as they were written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) top: Option<Vec<(String, f32)>>,
}

impl Reply {
    /// What it says of the answer that was judged.
    pub(super) fn verdict(&self) -> Verdict {
        match self.top.as_deref() {
            // A model that ends before its first token has written nothing.
            None | Some([]) => Verdict::from_text(&self.text),
            Some(top) => {
                Verdict::from_logprobs(top.iter().map(|(token, logprob)| (token.as_str(), f64::from(*logprob))))
            }
        }
    }

    /// The largest number among the likely first tokens.
    pub(super) fn largest_number(&self) -> Option<u32> {
        self.top.iter().flatten().filter_map(|(token, _)| number(token)).max()
    }

    /// Lets every text go through `change`.
    pub(super) fn map(self, change: impl Fn(String) -> String) -> Self {
        let top = self.top.map(|top| top.into_iter().map(|(token, logprob)| (change(token), logprob)).collect());
        Self { text: change(self.text), top }
    }
}

/// The body of a response with status 200.
#[derive(Debug, PartialEq)]
pub(super) enum Body {
    /// An answer, and what it took where the server says so.
    Answer(Reply, Option<Tokens>),
    /// An error after all, with the status that it gives where it gives one.
    Error { status: Option<u16>, message: String },
    /// Nothing that could be understood.
    Malformed(&'static str),
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    // What has another form is as good as nothing.
    #[serde(default)]
    logprobs: Value,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Vec<Position>,
}

#[derive(Deserialize)]
struct Position {
    top_logprobs: Vec<Candidate>,
}

#[derive(Deserialize)]
struct Candidate {
    token: String,
    /// Some servers write what is impossible as null.
    logprob: Option<f32>,
}

/// Reads the body of a response with status 200.
pub(super) fn read(body: &str) -> Body {
    let Ok(mut value) = serde_json::from_str::<Value>(body) else { return Body::Malformed("no JSON") };
    if let Some(error) = value.get("error").filter(|error| !error.is_null()) {
        let number = |code: &Value| code.as_u64().or_else(|| code.as_str()?.parse().ok());
        let status = ["code", "status"].iter().find_map(|key| number(error.get(key)?));
        let status = status.and_then(|status| u16::try_from(status).ok()).filter(|s| (400..600).contains(s));
        return Body::Error { status, message: message(&value) };
    }
    let tokens = |key: &str| value["usage"][key].as_u64();
    let used = tokens("prompt_tokens").map(|prompt| {
        // Only a whole request's tokens are ever booked at once.
        let completion = tokens("completion_tokens").unwrap_or(0);
        Tokens { prompt: prompt.min(1 << 32), completion: completion.min(1 << 32) }
    });
    let Some(choice) = value.get_mut("choices").and_then(|choices| choices.get_mut(0)).map(Value::take) else {
        return Body::Malformed("no choice");
    };
    let Ok(Choice { message, logprobs }) = serde_json::from_value(choice) else {
        return Body::Malformed("no message in its choice");
    };
    let top = serde_json::from_value::<Logprobs>(logprobs).ok().and_then(|Logprobs { content }| {
        // No tokens at all: the model ended at once. Tokens without their rivals: the server gives no distribution.
        let Some(first) = content.into_iter().next() else { return Some(Vec::new()) };
        let known = first.top_logprobs.into_iter().filter_map(|rival| Some((rival.token, rival.logprob?)));
        Some(known.collect::<Vec<_>>()).filter(|known| !known.is_empty())
    });
    Body::Answer(Reply { text: message.content.or(message.refusal).unwrap_or_default(), top }, used)
}

/// What an error's body says, in the forms that servers have for it.
pub(super) fn error_message(body: &str) -> String {
    serde_json::from_str(body).map_or_else(|_| body.to_owned(), |value| message(&value))
}

fn message(value: &Value) -> String {
    let places = [&value["error"]["message"], &value["error"], &value["message"], &value["detail"]];
    places.into_iter().find_map(Value::as_str).map_or_else(|| value.to_string(), str::to_owned)
}

/// A text on one line, shortened.
pub(super) fn snippet(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.is_empty() {
        true => "(nothing)".into(),
        false => shortened(&line, 300),
    }
}

/// How many tokens a prompt has, about: a token of English has four letters, and other scripts have about one per
/// character. Templates add a few.
pub(crate) fn estimated_tokens(text: &str) -> u64 {
    let letters = text.bytes().filter(u8::is_ascii).count() as u64;
    let others = text.chars().filter(|c| !c.is_ascii()).count() as u64;
    letters.div_ceil(4) + others + 8
}
