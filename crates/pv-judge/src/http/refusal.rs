//! Classifies refusals: the account, one prompt, or a parameter of the request.

use serde_json::{Map, Value};

use super::reply::ErrorBody;

/// The subject of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The account, the model or the URL: no request can succeed.
    All,
    /// A temporary problem of the server.
    Passing,
    /// This prompt: a content filter, or its length.
    Prompt,
    /// Parameters of the request, by name.
    Parameters(Vec<String>),
    /// The limit on tokens: reasoning used it up.
    OutOfTokens,
    /// No stated reason.
    Unknown,
}

/// Codes and words for a lack of funds.
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

/// Words for an invalid key.
const KEY: [&str; 6] = ["api key", "api_key", "apikey", "unauthorized", "authentication", "access token"];

/// Words for an unknown model.
const MODEL: [&str; 6] =
    ["model_not_found", "deploymentnotfound", "model not found", "does not exist", "unknown model", "no such model"];

/// Words for a refused prompt.
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

/// Classifies a refusal.
pub(super) fn about(status: u16, error: &ErrorBody, request: &Map<String, Value>) -> About {
    let text = error.message.to_lowercase();
    let says = |words: &[&str]| {
        words.iter().any(|word| text.contains(word) || error.codes.iter().any(|code| code.contains(word)))
    };
    let declined = says(&PROMPT);
    if matches!(status, 401 | 402) || says(&MONEY) {
        return About::All;
    }
    if status == 429 || matches!(status, 408 | 425 | 502..=599) {
        return About::Passing;
    }
    let named = parameters(error, request);
    // Names of parameters also occur in messages about length ("prompt is too long: 9000 + max_tokens").
    match status {
        413 | 451 => About::Prompt,
        400 | 403 | 422 | 500 | 501 | 200 | 404 | 405 | 406 | 409 | 415 if declined => About::Prompt,
        403 => About::All,
        400 if text.contains("max_tokens or model output limit") => About::OutOfTokens,
        400 | 422 | 500 | 501 | 200 | 404 | 415 if !named.is_empty() => About::Parameters(named),
        _ if says(&KEY) || says(&MODEL) => About::All,
        500 => About::Passing,
        400 | 422 | 501 | 200 => About::Unknown,
        _ => About::All,
    }
}

/// The request's parameters that a refusal names, the longest first: "top_logprobs" is not "logprobs".
fn parameters(error: &ErrorBody, request: &Map<String, Value>) -> Vec<String> {
    let mut text = error.message.clone();
    let mut names: Vec<&String> = request.keys().filter(|key| !matches!(key.as_str(), "model" | "messages")).collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let mut named = Vec::new();
    if let Some(parameter) = &error.parameter {
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
    // A streamed reply is required, or not permitted: the word alone is common.
    if !request.contains_key("stream") && wants_stream(error) {
        named.insert(0, "stream".into());
    }
    named
}

/// Whether a server only streams replies.
fn wants_stream(error: &ErrorBody) -> bool {
    let text = error.message.to_lowercase();
    let asks = ["must", "only", "require", "set", "should", "enable"].iter().any(|word| text.contains(word));
    (text.contains("stream") && asks) || error.parameter.as_deref() == Some("stream")
}
