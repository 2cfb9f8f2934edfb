//! What a refusal is about: the account, one prompt, or a parameter of the request.

use serde_json::{Map, Value};

use super::reply::Told;

/// What a refusal is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The account, the model or the address: no request would be answered.
    All,
    /// A passing trouble of the server's.
    Passing,
    /// This prompt: a content filter, or its length.
    Prompt,
    /// Parameters that the request has, by their names.
    Parameters(Vec<String>),
    /// The most tokens: they were used up by a thought.
    Room,
    /// It does not say.
    Unknown,
}

/// Codes and words by which servers say that money is lacking.
const MONEY: [&str; 11] = [
    "insufficient_quota",
    "exceeded your current quota",
    "billing_",
    "billing hard limit",
    "insufficient balance",
    "insufficient_balance",
    "insufficient credit",
    "insufficient funds",
    "out of credits",
    "payment required",
    "account is not active",
];

/// That the key is not good.
const KEY: [&str; 6] = ["api key", "api_key", "apikey", "unauthorized", "authentication", "access token"];

/// By which they say that there is no such model.
const MODEL: [&str; 6] =
    ["model_not_found", "deploymentnotfound", "model not found", "does not exist", "unknown model", "no such model"];

/// By which they decline a prompt.
const PROMPT: [&str; 33] = [
    "content_filter",
    "content filter",
    "contentfilter",
    "content management policy",
    "content_policy",
    "content policy",
    "content_policy_violation",
    "responsible ai",
    "responsibleai",
    "moderation",
    "flagged",
    "safety",
    "unsafe",
    "inappropriate content",
    "data_inspection_failed",
    "usage policies",
    "usage policy",
    "prohibited",
    "context_length_exceeded",
    "context length",
    "context size",
    "context window",
    "context_window",
    "exceed_context",
    "maximum context",
    "too long",
    "too_long",
    "string_above_max_length",
    "prompt is too large",
    "input is too large",
    "reduce the length",
    "reduce your prompt",
    "input tokens exceed",
];

/// Says what a refusal is about.
pub(super) fn about(status: u16, told: &Told, request: &Map<String, Value>) -> About {
    let text = told.message.to_lowercase();
    let says = |words: &[&str]| {
        words.iter().any(|word| text.contains(word) || told.codes.iter().any(|code| code.contains(word)))
    };
    let declined = says(&PROMPT);
    if matches!(status, 401 | 402) || says(&MONEY) {
        return About::All;
    }
    if status == 429 || matches!(status, 408 | 425 | 502..=599) {
        return About::Passing;
    }
    let named = parameters(told, request);
    // Names of parameters stand in messages about length too ("prompt is too long: 9000 + max_tokens").
    match status {
        413 | 451 => About::Prompt,
        400 | 403 | 422 | 500 | 501 | 200 | 404 | 405 | 406 | 409 | 415 if declined => About::Prompt,
        403 => About::All,
        400 if text.contains("max_tokens or model output limit") => About::Room,
        400 | 422 | 500 | 501 | 200 | 404 | 415 if !named.is_empty() => About::Parameters(named),
        _ if says(&KEY) || says(&MODEL) => About::All,
        500 => About::Passing,
        400 | 422 | 501 | 200 => About::Unknown,
        _ => About::All,
    }
}

/// The names of our parameters that a refusal names, the longest first: "top_logprobs" is not "logprobs".
fn parameters(told: &Told, request: &Map<String, Value>) -> Vec<String> {
    let mut text = told.message.clone();
    let mut names: Vec<&String> = request.keys().filter(|key| !matches!(key.as_str(), "model" | "messages")).collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let mut named = Vec::new();
    if let Some(parameter) = &told.parameter {
        named.extend(names.iter().find(|name| parameter == **name || parameter.starts_with(&format!("{name}."))));
    }
    for name in names {
        if text.contains(name.as_str()) {
            named.push(name);
            text = text.replace(name.as_str(), "");
        }
    }
    let mut named: Vec<String> = named.into_iter().cloned().collect();
    named.dedup();
    // Asked for as a stream, or refused as none: the word alone is common.
    if !request.contains_key("stream") && wants_stream(told) {
        named.insert(0, "stream".into());
    }
    named
}

/// Whether a server answers in pieces only.
fn wants_stream(told: &Told) -> bool {
    let text = told.message.to_lowercase();
    let asks = ["must", "only", "require", "set", "should", "enable"].iter().any(|word| text.contains(word));
    (text.contains("stream") && asks) || told.parameter.as_deref() == Some("stream")
}
