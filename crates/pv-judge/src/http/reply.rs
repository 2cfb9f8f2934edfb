//! Parses responses of servers.
//!
//! Responses are parsed leniently, by the few values that matter: the types of `async-openai` require all fields of
//! OpenAI's responses and nothing else, and other servers omit fields, write `code` as a number, or have finish reasons
//! of their own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cost::Tokens;

/// The logarithm of a probability of 0, as OpenAI writes it. A cache cannot contain an infinite value.
const IMPOSSIBLE: f32 = -9999.0;

/// One token of a reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The written token.
    pub(super) token: String,
    /// The likely tokens at this position with the logarithms of their probabilities, including the written one.
    pub(super) top: Vec<(String, f32)>,
}

/// A server's reply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// The text of the reply.
    pub(crate) text: String,
    /// The most likely first tokens with the logarithms of their probabilities; `None` if the server returns none.
    /// Models compute in `f32` at most, and the values are read from the cache exactly as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) top: Option<Vec<(String, f32)>>,
    /// All tokens, if more than the first one was requested and the server returns them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) positions: Vec<Position>,
    /// Whether the reply was cut off at the token limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) cut: bool,
    /// The reasoning before the reply, if the server returns it separately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) thought: Option<String>,
    /// The refusal of the server or the model, if there is no other text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) declined: Option<String>,
}

impl Reply {
    /// Applies `change` to every text.
    pub(super) fn map(self, change: impl Fn(String) -> String) -> Self {
        let all = |top: Vec<(String, f32)>| top.into_iter().map(|(token, p)| (change(token), p)).collect();
        let positions = self.positions.into_iter();
        Self {
            top: self.top.map(all),
            positions: positions.map(|at| Position { token: change(at.token), top: all(at.top) }).collect(),
            text: change(self.text),
            cut: self.cut,
            thought: self.thought.map(&change),
            declined: self.declined.map(&change),
        }
    }
}

/// An error in the body of a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ErrorBody {
    /// Its status, if any.
    pub(super) status: Option<u16>,
    /// Its message.
    pub(super) message: String,
    /// Its code and type, if they are words: "insufficient_quota", "content_filter".
    pub(super) codes: Vec<String>,
    /// The parameter that it names.
    pub(super) parameter: Option<String>,
}

/// The body of a response with status 200.
#[derive(Debug, PartialEq)]
pub(super) enum Body {
    /// A reply, and its tokens if the server reports them.
    Answer(Box<Reply>, Option<Tokens>),
    /// An error in spite of the status.
    Error(ErrorBody),
    /// A malformed body.
    Malformed(&'static str),
}

/// Reads the body of a response with status 200.
pub(super) fn read(body: &str) -> Body {
    let Some(mut value) = parse(body).or_else(|| streamed(body)) else { return Body::Malformed("invalid JSON") };
    if value.get("error").is_some_and(|error| !error.is_null() && error != &Value::Bool(false)) {
        return Body::Error(error_body(&value));
    }
    let tokens = |key: &str| value["usage"][key].as_u64();
    let used = tokens("prompt_tokens").map(|prompt| {
        // Only a whole request's tokens are recorded at once.
        let completion = tokens("completion_tokens").unwrap_or(0);
        Tokens { prompt: prompt.min(1 << 32), completion: completion.min(1 << 32) }
    });
    let Some(choice) = value.get_mut("choices").and_then(|choices| choices.get_mut(0)).map(Value::take) else {
        return Body::Malformed("no `choices`");
    };
    if !choice["message"].is_object() {
        return Body::Malformed("no message in its choice");
    }
    Body::Answer(Box::new(reply(&choice)), used)
}

/// JSON, or Python's variant of it: `NaN` and infinite numbers become null.
fn parse(body: &str) -> Option<Value> {
    serde_json::from_str(body).ok().or_else(|| serde_json::from_str(&without_infinities(body)?).ok())
}

/// A text with null for numbers that JSON does not have; `None` if it has none of them outside of strings.
fn without_infinities(body: &str) -> Option<String> {
    const WORDS: [&str; 5] = ["-Infinity", "Infinity", "-NaN", "NaN", "-inf"];
    let (mut out, mut rest, mut inside, mut found) = (String::with_capacity(body.len()), body, false, false);
    while let Some(c) = rest.chars().next() {
        let word = WORDS.into_iter().find(|word| !inside && rest.starts_with(word));
        let taken = match (word, c) {
            (Some(word), _) => {
                found = true;
                out.push_str("null");
                word.len()
            }
            // An escaped quotation mark does not end a string.
            (None, '\\') if inside => {
                let taken = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                out.push_str(&rest[..taken]);
                taken
            }
            _ => {
                inside ^= c == '"';
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    found.then_some(out)
}

/// A streamed response (`data:` lines), assembled as if it had come whole.
fn streamed(body: &str) -> Option<Value> {
    let pieces = body.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
    let pieces: Vec<Value> = pieces.filter(|piece| *piece != "[DONE]").map_while(parse).collect();
    if let Some(error) = pieces.iter().find(|piece| piece.get("error").is_some_and(|error| !error.is_null())) {
        return Some(error.clone());
    }
    let (mut message, mut positions, mut last) = (Map::new(), Vec::new(), Map::new());
    let mut usage = Value::Null;
    let mut begun = false;
    for piece in &pieces {
        if piece.get("usage").is_some_and(Value::is_object) {
            usage = piece["usage"].clone();
        }
        let Some(choice) = piece["choices"].get(0) else { continue };
        begun = true;
        let delta = [&choice["delta"], &choice["message"]].into_iter().find_map(Value::as_object);
        for (key, value) in delta.into_iter().flatten() {
            let Some(text) = value.as_str() else { continue };
            match message.get_mut(key) {
                Some(Value::String(all)) if key != "role" => all.push_str(text),
                _ => drop(message.insert(key.clone(), text.into())),
            }
        }
        positions.extend(choice["logprobs"]["content"].as_array().into_iter().flatten().cloned());
        if !choice["finish_reason"].is_null() {
            last.insert("finish_reason".into(), choice["finish_reason"].clone());
        }
    }
    if !begun {
        return None;
    }
    last.insert("message".into(), message.into());
    if !positions.is_empty() {
        last.insert("logprobs".into(), serde_json::json!({ "content": positions }));
    }
    Some(serde_json::json!({ "choices": [last], "usage": usage }))
}

fn reply(choice: &Value) -> Reply {
    let message = &choice["message"];
    let finish = choice["finish_reason"].as_str().unwrap_or_default().to_ascii_lowercase();
    let filled = |key: &str| text(&message[key]).filter(|text| !text.trim().is_empty());
    let content = text(&message["content"]).filter(|content| !content.is_empty());
    let mut declined = filled("refusal");
    let filtered = ["content_filter", "content-filter", "safety", "blocked"].iter().any(|word| finish.contains(word));
    if declined.is_none() && filtered {
        declined = Some(format!("the reply ended by {finish:?}"));
    }
    let positions = positions(&choice["logprobs"]);
    let top = positions.as_ref().and_then(|positions| match positions.first() {
        // No tokens at all: the model ended at once. Tokens without alternatives: the server returns no distribution.
        None => Some(Vec::new()),
        Some(first) => Some(first.top.clone()).filter(|top| !top.is_empty()),
    });
    Reply {
        declined: declined.clone().filter(|_| content.is_none()),
        text: content.or(declined).unwrap_or_default(),
        positions: positions.filter(|_| top.is_some()).unwrap_or_default(),
        top,
        cut: matches!(&*finish, "length" | "max_tokens"),
        thought: filled("reasoning_content").or_else(|| filled("reasoning")).or_else(|| filled("thinking")),
    }
}

/// A text, or the texts of a list of parts.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(|part| part["text"].as_str().or(part.as_str())).collect()),
        _ => None,
    }
}

/// The tokens of a reply with their alternatives; `None` if the server returns none, in neither of the two formats.
fn positions(logprobs: &Value) -> Option<Vec<Position>> {
    if let Some(content) = logprobs["content"].as_array() {
        let position = |at: &Value| {
            let token = at["token"].as_str().unwrap_or_default().to_owned();
            let alternatives = at["top_logprobs"].as_array().into_iter().flatten();
            let alternatives =
                alternatives.filter_map(|alternative| Some((alternative["token"].as_str()?, &alternative["logprob"])));
            Position { top: alternatives_of(&token, &at["logprob"], alternatives), token }
        };
        return Some(content.iter().map(position).collect());
    }
    // The older format: parallel lists, and the alternatives as an object.
    let tokens = logprobs["tokens"].as_array()?;
    let position = |(at, token): (usize, &Value)| {
        let token = token.as_str().unwrap_or_default().to_owned();
        let alternatives = logprobs["top_logprobs"][at].as_object().into_iter().flatten();
        let alternatives = alternatives.map(|(token, logprob)| (token.as_str(), logprob));
        Position { top: alternatives_of(&token, &logprobs["token_logprobs"][at], alternatives), token }
    };
    Some(tokens.iter().enumerate().map(position).collect())
}

/// The likely tokens of a position, including the written one.
fn alternatives_of<'a>(
    token: &str,
    logprob: &Value,
    alternatives: impl Iterator<Item = (&'a str, &'a Value)>,
) -> Vec<(String, f32)> {
    // A probability of 0 is written as null, as an infinite number or as a very low one.
    let read = |value: &Value| (value.as_f64().unwrap_or(IMPOSSIBLE.into()) as f32).max(IMPOSSIBLE);
    let mut top: Vec<(String, f32)> = alternatives.map(|(token, value)| (token.to_owned(), read(value))).collect();
    if !top.is_empty() && !top.iter().any(|(known, _)| known == token) && logprob.is_number() {
        top.push((token.to_owned(), read(logprob)));
    }
    top
}

/// The error in a body, in the formats of different servers.
pub(super) fn error_of(body: &str) -> ErrorBody {
    let plain = || ErrorBody { message: body.to_owned(), ..ErrorBody::default() };
    match parse(body).or_else(|| streamed(body)) {
        // Some servers put the object into a list.
        Some(Value::Array(list)) => list.first().map_or_else(plain, error_body),
        Some(value) => error_body(&value),
        None => plain(),
    }
}

fn error_body(value: &Value) -> ErrorBody {
    let error = &value["error"];
    let places = [&error["message"], error, &value["message"], &value["detail"], &value["error_msg"], &value["msg"]];
    let message = places.into_iter().find_map(Value::as_str);
    let inner = [error, &error["innererror"], value];
    let fields = |keys: &'static [&'static str]| {
        inner.into_iter().flat_map(move |object| keys.iter().filter_map(move |key| object.get(*key)))
    };
    let number = |code: &Value| code.as_u64().or_else(|| code.as_str()?.parse().ok());
    let status = fields(&["code", "status"]).find_map(number).and_then(|status| u16::try_from(status).ok());
    ErrorBody {
        status: status.filter(|status| (400..600).contains(status)),
        message: message.map_or_else(|| value.to_string(), str::to_owned),
        codes: fields(&["code", "type", "status"]).filter_map(Value::as_str).map(str::to_ascii_lowercase).collect(),
        parameter: fields(&["param"]).find_map(Value::as_str).map(str::to_owned),
    }
}
