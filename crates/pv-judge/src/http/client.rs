use std::error::Error as _;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_openai::types::chat::CreateChatCompletionRequest;
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url, redirect};

use super::ledger::{Ledger, Tokens};
use super::retry::{Backoff, Gate, retry_after};
use super::wire::{self, Body, Reply, error_message, snippet};
use super::{HttpError, HttpOptions, Spent};

const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// No answer that is asked for comes near this.
const LARGEST_BODY: usize = 8 << 20;

/// A server's chat completions, with retries and the books of what they cost.
///
/// `async-openai` has a client as well. It is not used: it keeps `Retry-After` to itself, takes an error in a response
/// with status 200 for a misshapen answer, writes the bodies of errors to the log (in which a server may repeat the
/// key), and panics on a key that cannot stand in a header.
pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    server: String,
    options: HttpOptions,
    backoff: Backoff,
    gate: Gate,
    ledger: Ledger,
}

/// What came of one attempt.
enum Attempt {
    /// An answer.
    Answered(Reply),
    /// Another attempt may help, after a while that the server may have said.
    Again { reason: String, after: Option<Duration> },
    /// Another attempt would not help.
    Failed(HttpError),
}

impl Client {
    pub(crate) fn new(options: HttpOptions) -> Result<Self, HttpError> {
        let setting = |what: &str| Err(HttpError::Setting { what: what.into() });
        if options.concurrency == 0 || options.attempts == 0 {
            return setting("the number of concurrent requests and that of attempts must be at least 1");
        }
        if options.model.trim().is_empty() {
            return setting("the judge's model has no name");
        }
        // The address itself is not repeated: there may be a password in it.
        let Ok(mut endpoint) = Url::parse(options.base_url.trim()) else {
            return setting("the base URL is not one; it should look like http://localhost:8080/v1");
        };
        if !matches!(endpoint.scheme(), "http" | "https") || !endpoint.has_host() {
            return setting("the base URL must begin with http:// or https:// and a host");
        }
        if !endpoint.username().is_empty() || endpoint.password().is_some() {
            return setting("the base URL has a user name or password in it; give what is secret as the key");
        }
        if endpoint.query().is_some() || endpoint.fragment().is_some() {
            return setting("the base URL has more than a path (after ? or #)");
        }
        let path = format!("{}/chat/completions", endpoint.path().trim_end_matches('/'));
        endpoint.set_path(&path);
        let port = endpoint.port().map(|port| format!(":{port}")).unwrap_or_default();
        let server = format!("{}{port}", endpoint.host_str().unwrap_or_default());
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        if let Some(key) = &options.key {
            let Ok(mut value) = HeaderValue::try_from(format!("Bearer {}", key.secret())) else {
                return setting("the key cannot stand in a request");
            };
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .user_agent(AGENT)
            .default_headers(headers)
            .connect_timeout(options.connect_timeout)
            // What is redirected would arrive without its body or its key.
            .redirect(redirect::Policy::none())
            // Ours are the only retries.
            .retry(reqwest::retry::never())
            .build()
            .map_err(|error| HttpError::Unavailable { reason: explained(error) })?;
        let backoff = Backoff::new(options.backoff, options.longest_wait, options.jitter_seed);
        let ledger = Ledger::new(options.budget);
        Ok(Self { http, endpoint, server, options, backoff, gate: Gate::default(), ledger })
    }

    pub(crate) fn options(&self) -> &HttpOptions {
        &self.options
    }

    /// The server's name and port.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    pub(crate) fn endpoint(&self) -> &str {
        self.endpoint.as_str()
    }

    pub(crate) fn spent(&self) -> Spent {
        self.ledger.spent()
    }

    /// Asks until there is an answer, a refusal, or an end to patience. Once `stopping` is set, nothing is asked again.
    pub(crate) async fn ask(
        &self,
        request: &CreateChatCompletionRequest,
        estimate: Tokens,
        timeout: Duration,
        stopping: &AtomicBool,
    ) -> Result<Reply, HttpError> {
        let body = serde_json::to_vec(request)
            .map_err(|error| HttpError::Unavailable { reason: format!("a request cannot be written: {error}") })?;
        let mut attempts = 0;
        loop {
            self.gate.pass().await;
            let Some(reservation) = self.ledger.reserve(estimate) else {
                return Err(HttpError::Budget { done: 0, total: 1, spent: self.spent() });
            };
            attempts += 1;
            let (attempt, used) = self.attempt(body.clone(), estimate, timeout).await;
            reservation.settle(used);
            let (reason, after) = match attempt {
                Attempt::Answered(reply) => return Ok(reply),
                Attempt::Failed(error) => return Err(error),
                Attempt::Again { reason, after } => (reason, after),
            };
            if attempts >= self.options.attempts || stopping.load(Ordering::Relaxed) {
                return Err(HttpError::GaveUp { server: self.server.clone(), attempts, reason });
            }
            if let Some(asked) = after {
                let longest = self.options.longest_wait;
                if asked > longest {
                    return Err(HttpError::WaitTooLong { server: self.server.clone(), asked, longest });
                }
                self.gate.close(Instant::now() + asked);
            }
            let wait = self.backoff.after(attempts);
            tracing::debug!(server = self.server, attempts, ?wait, ?after, reason, "a request is made again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Asks once, and says what it took.
    async fn attempt(&self, body: Vec<u8>, estimate: Tokens, timeout: Duration) -> (Attempt, Tokens) {
        let response = match self.http.post(self.endpoint.clone()).timeout(timeout).body(body).send().await {
            Ok(response) => response,
            // What never arrived took nothing.
            Err(error) if error.is_connect() => return (again(explained(error)), Tokens::default()),
            Err(error) => return (again(explained(error)), estimate),
        };
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let after = header(RETRY_AFTER).and_then(|value| retry_after(value, Timestamp::now()));
        let location = header(LOCATION).map(str::to_owned);
        let body = match whole(response).await {
            Ok(body) => body,
            Err(reason) => return (again(reason), estimate),
        };
        if status != StatusCode::OK {
            let message = match location.filter(|_| status.is_redirection()) {
                Some(to) => format!("it redirects to {to}"),
                None => error_message(&body),
            };
            return (self.refusal(status.as_u16(), &message, after), Tokens::default());
        }
        match wire::read(&body) {
            Body::Answer(reply, used) => {
                (Attempt::Answered(reply.map(|text| self.redacted(text))), used.unwrap_or(estimate))
            }
            Body::Error { status, message } => {
                (self.refusal(status.unwrap_or(200), &message, after), Tokens::default())
            }
            Body::Malformed(what) => {
                let reason = format!("its answer has {what}: {}", snippet(&self.redacted(body)));
                (again(reason), estimate)
            }
        }
    }

    /// What an error's status means.
    fn refusal(&self, status: u16, message: &str, after: Option<Duration>) -> Attempt {
        // Some servers fall over a parameter that they do not know, instead of refusing it.
        let names_parameter = ["logprobs", "response_format"].iter().any(|parameter| message.contains(parameter));
        let passing = matches!(status, 408 | 429 | 500..=599) && !(status == 500 && names_parameter);
        let message = snippet(&self.redacted(message.to_owned()));
        match passing {
            true => Attempt::Again { reason: format!("status {status}: {message}"), after },
            false => Attempt::Failed(HttpError::Refused { server: self.server.clone(), status, message }),
        }
    }

    fn redacted(&self, text: String) -> String {
        match &self.options.key {
            Some(key) => key.redacted(text),
            None => text,
        }
    }
}

fn again(reason: String) -> Attempt {
    Attempt::Again { reason, after: None }
}

/// The whole body of a response, or why there is none.
async fn whole(mut response: Response) -> Result<String, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(explained)? {
        if body.len() + chunk.len() > LARGEST_BODY {
            return Err(format!("its answer has more than {LARGEST_BODY} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.options).field("spent", &self.spent()).finish_non_exhaustive()
    }
}

/// What the HTTP library says, with its causes.
fn explained(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
