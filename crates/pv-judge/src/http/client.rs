use std::error::Error as _;
use std::fmt;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_openai::types::chat::CreateChatCompletionRequest;
use jiff::Timestamp;
use reqwest::header::{CONTENT_ENCODING, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use serde_json::{Map, Value};

use super::address;
use super::ledger::{Ledger, Tokens};
use super::rate::Pace;
use super::refusal::{About, about};
use super::reply::{self, Body, Reply, Told, error_of};
use super::retry::{Backoff, Gate, retry_after};
use super::shape::RequestForm;
use super::wire::snippet;
use super::{ApiKey, HttpError, HttpOptions, Spent, Thinking};

/// No answer that is asked for comes near this.
const LARGEST_BODY: usize = 8 << 20;

/// The longest wait between two attempts at a server that restarts.
const OUTAGE_WAIT: Duration = Duration::from_secs(10);

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
    secrets: Vec<ApiKey>,
    backoff: Backoff,
    gate: Gate,
    pace: Pace,
    ledger: Ledger,
    form: Mutex<Form>,
    /// Whether the server has ever answered, be it with a refusal.
    reached: AtomicBool,
}

/// The form of requests, and what was found out about it.
#[derive(Clone, Debug)]
struct Form {
    form: RequestForm,
    found: Vec<String>,
}

/// Why there is no reply.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No request would be answered.
    End(HttpError),
    /// The server declines this prompt.
    Prompt { status: u16, message: String },
    /// The server refuses a parameter, without which the request would be another.
    Parameter { name: String, status: u16, message: String },
    /// The server refuses, and does not say what.
    Unknown { status: u16, message: String },
    /// A thought took all tokens.
    Room,
    /// The server failed again and again, the last time with this status.
    Server { status: Option<u16>, error: HttpError },
}

/// What came of one attempt.
enum Attempt {
    /// An answer.
    Answered(Box<Reply>),
    /// Another attempt may help, after a while that the server may have said.
    Again { reason: String, after: Option<Duration>, status: Option<u16> },
    /// The server refuses.
    Refused { status: u16, told: Told },
}

impl Attempt {
    /// A server that restarts cannot be reached, or is hidden by a proxy that says so.
    fn is_outage(&self) -> bool {
        matches!(self, Self::Again { status: Some(0 | 502..=504 | 520..=530), .. })
    }
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
        if let Some(name) = ["model", "messages", "n"].iter().find(|name| options.body.contains_key(**name)) {
            return setting(&format!("{name:?} is no further field of a request: it is ours to write"));
        }
        let (endpoint, server) = address::endpoint(&options.base_url)?;
        let headers = address::headers(&options, &endpoint)?;
        let http = address::http_client(&options, headers)
            .map_err(|error| HttpError::Unavailable { reason: explained(error) })?;
        let secrets = options.key.iter().chain(options.headers.iter().map(|(_, value)| value)).cloned().collect();
        let form = RequestForm::new(options.token_limit, options.thinking == Thinking::Off);
        Ok(Self {
            http,
            endpoint,
            server,
            secrets,
            backoff: Backoff::new(options.backoff, options.longest_wait, options.jitter_seed),
            gate: Gate::default(),
            pace: Pace::new(options.rate)?,
            ledger: Ledger::new(options.budget),
            form: Mutex::new(Form { form, found: Vec::new() }),
            reached: AtomicBool::new(false),
            options,
        })
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

    /// Whether the server is this machine.
    pub(crate) fn is_local(&self) -> bool {
        address::is_local(&self.endpoint)
    }

    pub(crate) fn spent(&self) -> Spent {
        self.ledger.spent()
    }

    /// The form of requests now, and what was found out.
    pub(crate) fn form(&self) -> (RequestForm, Vec<String>) {
        let Form { form, found } = self.locked().clone();
        (form, found)
    }

    /// Changes the form of requests.
    pub(crate) fn change_form(&self, change: impl FnOnce(&mut RequestForm)) {
        change(&mut self.locked().form);
    }

    /// Takes down what was found out about the server, once.
    pub(crate) fn note(&self, what: String) {
        tracing::warn!(server = self.server, model = self.options.model, "{what}");
        let found = &mut self.locked().found;
        if !found.contains(&what) {
            found.push(what);
        }
    }

    fn locked(&self) -> MutexGuard<'_, Form> {
        self.form.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks until there is an answer, a refusal, or an end to patience. After `falls` failures, the last of which has status 500,
    /// it gives up in any case. Once `stopping` is set, nothing is asked again.
    pub(crate) async fn ask(
        &self,
        request: &CreateChatCompletionRequest,
        estimate: Tokens,
        timeout: Duration,
        falls: u32,
        stopping: &AtomicBool,
    ) -> Result<Reply, Failure> {
        // By its text, in which a temperature of 0.7 stays one.
        let request = serde_json::to_vec(request).and_then(|text| serde_json::from_slice::<Map<String, Value>>(&text));
        let request = request.map_err(|error| {
            Failure::End(HttpError::Unavailable { reason: format!("a request cannot be written: {error}") })
        })?;
        let (mut attempts, mut failed) = (0, 0);
        let (mut outage, mut told) = (None::<Instant>, false);
        loop {
            self.pace.pass(estimate.prompt + estimate.completion).await;
            self.gate.pass().await;
            let Some(reservation) = self.ledger.reserve(estimate) else {
                return Err(Failure::End(HttpError::Budget { done: 0, total: 1, spent: self.spent() }));
            };
            attempts += 1;
            let form = self.form().0;
            let mut body = request.clone();
            form.apply(&mut body, &self.options.body);
            let (attempt, used) = self.attempt(&body, estimate, timeout).await;
            reservation.settle(used);
            let is_outage = attempt.is_outage();
            let (reason, after, status) = match attempt {
                Attempt::Answered(reply) => return Ok(*reply),
                Attempt::Refused { status, told } => match self.refused(status, told, &body, &form) {
                    Ok(()) => continue,
                    Err(failure) => return Err(failure),
                },
                Attempt::Again { reason, after, status } => (reason, after, status),
            };
            let reached = self.reached.load(Ordering::Relaxed);
            let patience = if reached { self.options.patience } else { self.options.patience_at_start };
            let waits = is_outage && outage.is_none_or(|since| since.elapsed() < patience);
            if !is_outage {
                (outage, failed) = (None, failed + 1);
            } else if outage.replace(outage.unwrap_or_else(Instant::now)).is_some()
                && !std::mem::replace(&mut told, true)
            {
                tracing::warn!(server = self.server, reason, ?patience, "the server is waited for");
            }
            let at_most = self.options.attempts;
            let ends = match is_outage {
                true => (!waits || patience.is_zero()) && attempts >= at_most,
                false => failed >= if status == Some(500) { falls.min(at_most) } else { at_most },
            };
            if ends || stopping.load(Ordering::Relaxed) {
                let error = HttpError::GaveUp { server: self.server.clone(), attempts, reason };
                return Err(Failure::Server { status, error });
            }
            if let Some(asked) = after {
                let longest = self.options.longest_wait.max(if is_outage { patience } else { Duration::ZERO });
                if asked > longest {
                    return Err(Failure::End(HttpError::WaitTooLong { server: self.server.clone(), asked, longest }));
                }
                self.gate.close(Instant::now() + asked);
            }
            let wait = self.backoff.after(attempts);
            let wait = if is_outage { wait.min(OUTAGE_WAIT) } else { wait };
            tracing::debug!(server = self.server, attempts, ?wait, ?after, reason, "a request is made again");
            tokio::time::sleep(wait).await;
        }
    }

    /// What a refusal means: `Ok` if the request may be made in another form.
    fn refused(&self, status: u16, told: Told, body: &Map<String, Value>, form: &RequestForm) -> Result<(), Failure> {
        let about = about(status, &told, body);
        let message = snippet(&self.redacted(told.message.clone()));
        match about {
            About::All | About::Passing => {
                Err(Failure::End(HttpError::Refused { server: self.server.clone(), status, message }))
            }
            About::Prompt => Err(Failure::Prompt { status, message }),
            About::Unknown => Err(Failure::Unknown { status, message }),
            About::Room => Err(Failure::Room),
            About::Parameters(names) => {
                let mut current = self.locked();
                // Another request was refused in the same form, and has changed it.
                if current.form != *form {
                    return Ok(());
                }
                let ours = names.iter().filter(|name| !self.options.body.contains_key(*name));
                let changed = ours.filter_map(|name| current.form.without(name, &told)).next();
                drop(current);
                match (changed, names.into_iter().next()) {
                    (Some(what), _) => {
                        self.note(what);
                        Ok(())
                    }
                    (None, name) => Err(Failure::Parameter { name: name.unwrap_or_default(), status, message }),
                }
            }
        }
    }

    /// Asks once, and says what it took.
    async fn attempt(&self, body: &Map<String, Value>, estimate: Tokens, timeout: Duration) -> (Attempt, Tokens) {
        let bytes = serde_json::to_vec(body).unwrap_or_default();
        let response = match self.http.post(self.endpoint.clone()).timeout(timeout).body(bytes).send().await {
            Ok(response) => response,
            // What never arrived took nothing.
            Err(error) if error.is_connect() => return (again(explained(error), Some(0)), Tokens::default()),
            Err(error) => return (again(explained(error), None), estimate),
        };
        let status = response.status();
        if !matches!(status.as_u16(), 502..=504) {
            self.reached.store(true, Ordering::Relaxed);
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let milliseconds = header("retry-after-ms").and_then(|value| value.trim().parse::<f64>().ok());
        let milliseconds = milliseconds.and_then(|value| Duration::try_from_secs_f64(value / 1e3).ok());
        let after = header(RETRY_AFTER.as_str()).and_then(|value| retry_after(value, Timestamp::now()));
        let after = milliseconds.or(after);
        let location = header(LOCATION.as_str()).map(str::to_owned);
        let body_text = match whole(response).await {
            Ok(body) => body,
            Err(reason) => return (again(reason, None), estimate),
        };
        if status != StatusCode::OK {
            let told = match location.filter(|_| status.is_redirection()) {
                Some(to) => Told { message: format!("it redirects to {to}"), ..Told::default() },
                None => error_of(&body_text),
            };
            return (self.sorted(status.as_u16(), told, body, after), Tokens::default());
        }
        match reply::read(&body_text) {
            Body::Answer(reply, used) => {
                let reply = reply.map(|text| self.redacted(text));
                (Attempt::Answered(Box::new(reply)), used.unwrap_or(estimate))
            }
            Body::Error(told) => (self.sorted(told.status.unwrap_or(200), told, body, after), Tokens::default()),
            Body::Malformed(what) => {
                let reason = format!("its answer has {what}: {}", snippet(&self.redacted(body_text)));
                (again(reason, None), estimate)
            }
        }
    }

    /// Whether an error's status and words speak of a passing trouble.
    fn sorted(&self, status: u16, told: Told, body: &Map<String, Value>, after: Option<Duration>) -> Attempt {
        match about(status, &told, body) {
            About::Passing => {
                let reason = format!("status {status}: {}", snippet(&self.redacted(told.message)));
                Attempt::Again { reason, after, status: Some(status) }
            }
            _ => Attempt::Refused { status, told },
        }
    }

    fn redacted(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| secret.redacted(text))
    }
}

impl Failure {
    /// As the error of one who needs the reply.
    pub(crate) fn into_error(self, server: &str) -> HttpError {
        let refused = |status, message| HttpError::Refused { server: server.to_owned(), status, message };
        match self {
            Self::End(error) | Self::Server { error, .. } => error,
            Self::Prompt { status, message }
            | Self::Parameter { status, message, .. }
            | Self::Unknown { status, message } => refused(status, message),
            Self::Room => refused(400, "a thought took all tokens of the reply".into()),
        }
    }
}

fn again(reason: String, status: Option<u16>) -> Attempt {
    Attempt::Again { reason, after: None, status }
}

/// The whole body of a response, or why there is none.
async fn whole(mut response: Response) -> Result<String, String> {
    let encoding = response.headers().get(CONTENT_ENCODING).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let too_long = || format!("its answer has more than {LARGEST_BODY} bytes");
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(explained)? {
        if body.len() + chunk.len() > LARGEST_BODY {
            return Err(too_long());
        }
        body.extend_from_slice(&chunk);
    }
    // None was asked for, but some proxies pack what they pass on all the same.
    let unpacked = match encoding.as_deref().map(str::trim) {
        Some("gzip" | "x-gzip") => Some(unpack(flate2::read::MultiGzDecoder::new(body.as_slice()))),
        Some("deflate") => Some(unpack(flate2::read::ZlibDecoder::new(body.as_slice()))),
        Some("" | "identity") | None => None,
        Some(other) => return Err(format!("its answer is packed by {other:?}, which was not asked for")),
    };
    let body = match unpacked {
        Some(unpacked) => unpacked.map_err(|error| format!("its answer cannot be unpacked: {error}"))?,
        None => body,
    };
    match body.len() > LARGEST_BODY {
        true => Err(too_long()),
        false => Ok(String::from_utf8_lossy(&body).into_owned()),
    }
}

/// At most one byte more than a body may have.
fn unpack(packed: impl Read) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    packed.take(LARGEST_BODY as u64 + 1).read_to_end(&mut body)?;
    Ok(body)
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
