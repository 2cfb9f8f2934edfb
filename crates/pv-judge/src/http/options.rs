use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Budget, HttpError, RateLimits, TokenLimit};

/// The public service, which speaks the protocol that others imitate.
const OPENAI: &str = "https://api.openai.com/v1";

/// Keys of local servers that check none ("EMPTY", "ollama") are shorter, and no secret.
const SHORTEST_SECRET: usize = 8;

/// Which server judges, and how it is asked.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// The address that `/chat/completions` is put behind: `https://api.openai.com/v1`, `http://localhost:8080/v1`. It may be
    /// there already, and `?api-version=…` may follow, as at Azure:
    /// `https://NAME.openai.azure.com/openai/deployments/DEPLOYMENT?api-version=2024-10-21`.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// What the server knows its user by, if it asks for that.
    pub key: Option<ApiKey>,
    /// In which header the key is sent.
    pub key_header: KeyHeader,
    /// Further headers of every request. Their values are as secret as the key. They are no part of what a cached answer is
    /// found by.
    pub headers: Vec<(String, ApiKey)>,
    /// Further fields of every request's body, which overrule ours; null leaves one out. They are part of what a cached answer
    /// is found by.
    pub body: Map<String, Value>,
    /// How the most tokens of a reply are called, at first: a server that refuses one name is asked by the other.
    pub token_limit: TokenLimit,
    /// Whether the judge thinks before it writes.
    pub thinking: Thinking,
    /// The most tokens of a reply that begins with a thought.
    pub thought_tokens: u32,
    /// How many requests and tokens a minute may have.
    pub rate: RateLimits,
    /// How many requests may be under way at once.
    pub concurrency: usize,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long one request may take, from the first byte sent to the last one received.
    pub timeout: Duration,
    /// How often a request is made before it is given up; at least 1. While a server that has answered before cannot be reached
    /// or is busy (502, 503, 504), [`patience`](Self::patience) counts instead.
    pub attempts: u32,
    /// How long a server that restarts is waited for.
    pub patience: Duration,
    /// The same for one that has not answered yet: it may be the wrong address.
    pub patience_at_start: Duration,
    /// The wait before the second attempt is a random part of this, before the third of twice as much, and so on.
    pub backoff: Duration,
    /// The longest wait between two attempts. A server that asks for a longer one ends the run.
    pub longest_wait: Duration,
    /// The seed of the random parts.
    pub jitter_seed: u64,
    /// How much may be spent.
    pub budget: Budget,
    /// The file in which answers are kept, so that nothing is asked twice. It never holds the key.
    pub cache: Option<PathBuf>,
    /// Whether scores are made of probabilities or of written numbers.
    pub logprobs: Logprobs,
    /// After so many answers without a number, and none with one, a judge gives up: [`HttpError::NoNumbers`]. 0 for never.
    pub numberless: usize,
}

/// Whether scores are made of probabilities or of written numbers.
///
/// Probabilities need a server that gives them. Where "85" is two tokens, as in Qwen and Mistral, the first one only says that
/// the number begins with 8: those of the following tokens are asked for as well ([`Evidence::Digits`](crate::Evidence::Digits)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logprobs {
    /// Of probabilities where they can be had, else of the one number that the model writes. The verdicts say which by
    /// their [`Evidence`](crate::Evidence).
    #[default]
    Prefer,
    /// Of probabilities or not at all: [`HttpError::NoLogprobs`], [`HttpError::DigitTokens`].
    Require,
    /// Of written numbers.
    Ignore,
}

/// Whether a judge thinks before it writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thinking {
    /// As its model does. One whose reply begins with a thought is asked to leave it out; where that does not help, it may think,
    /// and the number after it is taken.
    #[default]
    Auto,
    /// It is asked to leave thoughts out from the first request on (`chat_template_kwargs.enable_thinking`: vLLM, llama.cpp,
    /// SGLang).
    Off,
    /// It may think, and the number after it is taken.
    On,
}

/// In which header a key is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyHeader {
    /// `api-key` at Azure's addresses and where `?api-version=` is given, else `Authorization`.
    #[default]
    Auto,
    /// `Authorization: Bearer …`.
    Bearer,
    /// `api-key: …`.
    ApiKey,
}

impl HttpOptions {
    /// A server and a model there; eight requests at once, six attempts at each, five minutes of patience with a server that
    /// restarts, no limit to what may be spent.
    ///
    /// The seed for the waits differs from call to call, so that several programs that are turned away together do not
    /// come back together.
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            model: model.into(),
            key: None,
            key_header: KeyHeader::default(),
            headers: Vec::new(),
            body: Map::new(),
            token_limit: TokenLimit::default(),
            thinking: Thinking::default(),
            thought_tokens: 4096,
            rate: RateLimits::default(),
            concurrency: 8,
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(60),
            attempts: 6,
            patience: Duration::from_secs(300),
            patience_at_start: Duration::from_secs(30),
            backoff: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            jitter_seed: RandomState::new().hash_one(0),
            budget: Budget::default(),
            cache: None,
            logprobs: Logprobs::default(),
            numberless: 5,
        }
    }

    /// The same with the server and key of the environment: `OPENAI_BASE_URL`, which is OpenAI's address where it is
    /// not set, and `OPENAI_API_KEY`.
    ///
    /// # Errors
    /// [`HttpError::Setting`] for a key that cannot stand in a request.
    pub fn from_env(model: impl Into<String>) -> Result<Self, HttpError> {
        Self::from_variables(model, |name| std::env::var(name).ok())
    }

    /// [`Self::from_env`] on any environment.
    pub(super) fn from_variables(
        model: impl Into<String>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, HttpError> {
        let filled = |name| variable(name).filter(|value| !value.trim().is_empty());
        let url = filled("OPENAI_BASE_URL").map_or_else(|| OPENAI.to_owned(), |url| url.trim().to_owned());
        let key = filled("OPENAI_API_KEY").map(|key| ApiKey::new(&key)).transpose()?;
        Ok(Self { key, ..Self::new(url, model) })
    }
}

/// A server's key, or the value of another header. It is never shown, not even by [`Debug`](fmt::Debug), and never stored; where a server repeats it in
/// what it says, it is blotted out.
#[derive(Clone)]
pub struct ApiKey(SecretString);

impl ApiKey {
    /// A key without the white space around it.
    ///
    /// # Errors
    /// [`HttpError::Setting`] if nothing is left, or something that cannot stand in a request.
    pub fn new(key: &str) -> Result<Self, HttpError> {
        let key = key.trim();
        match !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(key.into())),
            false => Err(HttpError::Setting { what: "the key is empty, or has characters that no key has".into() }),
        }
    }

    /// The value of another header, which may have spaces in it: "Bearer abc".
    ///
    /// # Errors
    /// As [`new`](Self::new) has them.
    pub fn of_header(value: &str) -> Result<Self, HttpError> {
        let value = value.trim();
        match !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            true => Ok(Self(value.into())),
            false => {
                Err(HttpError::Setting { what: "the header's value is empty, or has characters that none has".into() })
            }
        }
    }

    pub(super) fn secret(&self) -> &str {
        self.0.expose_secret()
    }

    /// A text with the key blotted out, also as JSON may write it.
    pub(super) fn redacted(&self, text: String) -> String {
        let key = self.secret();
        if key.len() < SHORTEST_SECRET {
            return text;
        }
        let in_json = key.replace('\\', r"\\").replace('"', "\\\"");
        let forms = [key.to_owned(), in_json.replace('/', r"\/"), in_json];
        forms.iter().fold(text, |text, form| match text.contains(form) {
            true => text.replace(form, "[key]"),
            false => text,
        })
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}
