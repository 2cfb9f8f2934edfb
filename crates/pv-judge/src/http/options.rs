use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Budget, HttpError, RateLimits, SettingError, TokenLimit};

/// The public service, whose protocol the others implement.
const OPENAI: &str = "https://api.openai.com/v1";

/// Keys of local servers that check none ("EMPTY", "ollama") are shorter and not secret.
const SHORTEST_SECRET: usize = 8;

/// The server of a judge, and settings for its requests.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// The URL before `/chat/completions`: `https://api.openai.com/v1`, `http://localhost:8080/v1`. It may include that
    /// path, and `?api-version=…`, as for Azure:
    /// `https://NAME.openai.azure.com/openai/deployments/DEPLOYMENT?api-version=2024-10-21`.
    pub base_url: String,
    /// The model's name on the server.
    pub model: String,
    /// The API key, if the server needs one.
    pub key: Option<ApiKey>,
    /// The header of the key.
    pub key_header: KeyHeader,
    /// Further headers of every request. Their values are secret, like the key. They are not part of the cache key.
    pub headers: Vec<(String, ApiKey)>,
    /// Further fields of every request's body, which override the defaults; null removes a field. They are part of the
    /// cache key.
    pub body: Map<String, Value>,
    /// The first name to use for the limit on a reply's tokens; if the server refuses it, the other name is used.
    pub token_limit: TokenLimit,
    /// Whether the judge's model reasons before its reply.
    pub thinking: Thinking,
    /// The greatest number of tokens of a reply with reasoning.
    pub thought_tokens: u32,
    /// Limits on requests and tokens per minute.
    pub rate: RateLimits,
    /// The greatest number of concurrent requests.
    pub concurrency: usize,
    /// The timeout for a connection.
    pub connect_timeout: Duration,
    /// The timeout of one request, from the first byte sent to the last one received.
    pub timeout: Duration,
    /// The number of attempts per request; at least 1. While a server that has responded before cannot be reached or is
    /// busy (502, 503, 504), [`patience`](Self::patience) applies instead.
    pub attempts: u32,
    /// How long to wait for a server that restarts.
    pub patience: Duration,
    /// How long to wait for a server that has not responded yet: its URL may be wrong.
    pub patience_at_start: Duration,
    /// The wait before the second attempt is a random part of this, before the third of twice as much, and so on.
    pub backoff: Duration,
    /// The longest wait between two attempts. The run ends if the server asks for a longer one.
    pub longest_wait: Duration,
    /// The seed of the random waits.
    pub jitter_seed: u64,
    /// Limits on what may be spent.
    pub budget: Budget,
    /// The file in which replies are cached, so that no request is sent twice. It never contains the key.
    pub cache: Option<PathBuf>,
    /// Whether scores are computed from probabilities or from written numbers.
    pub logprobs: Logprobs,
    /// The judge stops after this many answers without a number and none with one: [`HttpError::NoNumbers`]. 0 disables
    /// this.
    pub numberless: usize,
}

/// Whether scores are computed from probabilities or from written numbers.
///
/// Probabilities need a server that returns them. If "85" is two tokens, as for Qwen and Mistral, the first one only
/// tells that the number starts with 8: the probabilities of the following tokens are then requested as well
/// ([`Evidence::Digits`](crate::score::Evidence::Digits)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logprobs {
    /// Use probabilities if the server returns them, else the written number. The verdicts state which in their
    /// [`Evidence`](crate::score::Evidence).
    #[default]
    Prefer,
    /// Use probabilities only; otherwise [`HttpError::NoLogprobs`] or [`HttpError::DigitTokens`].
    Require,
    /// Use written numbers.
    Ignore,
}

/// Whether a judge's model reasons before its reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thinking {
    /// The model's default. If a reply starts with reasoning, it is disabled; if that has no effect, the number after
    /// the reasoning is used.
    #[default]
    Auto,
    /// Reasoning is disabled from the first request on (`chat_template_kwargs.enable_thinking`: vLLM, llama.cpp,
    /// SGLang).
    Off,
    /// Reasoning is permitted, and the number after it is used.
    On,
}

/// The header of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyHeader {
    /// `api-key` for Azure's servers and with `?api-version=`, else `Authorization`.
    #[default]
    Auto,
    /// `Authorization: Bearer …`.
    Bearer,
    /// `api-key: …`.
    ApiKey,
}

impl HttpOptions {
    /// A server and a model; eight concurrent requests, six attempts each, five minutes of patience with a server that
    /// restarts, no budget.
    ///
    /// The seed of the waits differs between calls, so that several programs that were rejected at the same time do not
    /// retry at the same time.
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

    /// Like [`new`](Self::new), with the server and key of the environment: `OPENAI_BASE_URL` (by default OpenAI's URL)
    /// and `OPENAI_API_KEY`.
    ///
    /// # Errors
    /// [`HttpError::Setting`] for an invalid key.
    pub fn from_env(model: impl Into<String>) -> Result<Self, HttpError> {
        Self::from_variables(model, |name| std::env::var(name).ok())
    }

    /// [`Self::from_env`] for any environment.
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

/// A server's key, or the value of another header. It is never displayed, not even by [`Debug`](fmt::Debug), and never
/// stored. If a server repeats it in a message, it is replaced by `[key]`.
#[derive(Clone)]
pub struct ApiKey(SecretString);

impl ApiKey {
    /// A key without surrounding white space.
    ///
    /// # Errors
    /// [`HttpError::Setting`] if the key is empty or contains invalid characters.
    pub fn new(key: &str) -> Result<Self, HttpError> {
        let key = key.trim();
        match !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(key.into())),
            false => Err(SettingError::Key.into()),
        }
    }

    /// The value of another header, which may contain spaces: "Bearer abc".
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn of_header(value: &str) -> Result<Self, HttpError> {
        let value = value.trim();
        match !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            true => Ok(Self(value.into())),
            false => Err(SettingError::HeaderValue.into()),
        }
    }

    pub(super) fn secret(&self) -> &str {
        self.0.expose_secret()
    }

    /// A text with the key replaced, also in the form that JSON may have.
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
