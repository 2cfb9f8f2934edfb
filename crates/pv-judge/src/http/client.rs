//! A server's chat completions, with retries.

mod attempt;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_openai::types::chat::CreateChatCompletionRequest;
use reqwest::Url;
use serde_json::{Map, Value};

use super::ledger::Ledger;
use super::rate::Pace;
use super::refusal::{About, about};
use super::reply::{ErrorBody, Reply};
use super::retry::{Backoff, Gate};
use super::shape::RequestForm;
use super::wire::snippet;
use super::{ApiKey, HttpError, HttpOptions, SettingError, Spent, Thinking, address};
use crate::cost::Tokens;
use attempt::Attempt;

/// The longest wait between two attempts at a server that restarts.
const OUTAGE_WAIT: Duration = Duration::from_secs(10);

/// A server's chat completions, with retries and an account of their cost.
///
/// `async-openai` has a client as well. It is not used: it hides `Retry-After`, treats an error in a response with
/// status 200 as a malformed response, logs the bodies of errors (in which a server may repeat the key), and panics on
/// a key that is not a valid header value.
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
    /// Whether the server has ever responded, even with a refusal.
    reached: AtomicBool,
}

/// The form of requests, and findings about it.
#[derive(Clone, Debug)]
struct Form {
    form: RequestForm,
    found: Vec<String>,
}

/// The reason why there is no reply.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No request can succeed.
    End(HttpError),
    /// The server refuses this prompt.
    Prompt { status: u16, message: String },
    /// The server refuses a parameter that the request needs.
    Parameter { name: String, status: u16, message: String },
    /// The server refuses without stating a reason.
    Unknown { status: u16, message: String },
    /// Reasoning used up all tokens.
    OutOfTokens,
    /// The server failed repeatedly, the last time with this status.
    Server { status: Option<u16>, error: HttpError },
}

impl Client {
    pub(crate) fn new(options: HttpOptions) -> Result<Self, HttpError> {
        for (option, zero) in [("concurrency", options.concurrency == 0), ("attempts", options.attempts == 0)] {
            if zero {
                return Err(SettingError::Zero { option }.into());
            }
        }
        if options.model.trim().is_empty() {
            return Err(SettingError::NoModel.into());
        }
        if let Some(name) = ["model", "messages", "n"].into_iter().find(|name| options.body.contains_key(*name)) {
            return Err(SettingError::ReservedField { name }.into());
        }
        let (endpoint, server) = address::endpoint(&options.base_url)?;
        let headers = address::headers(&options, &endpoint)?;
        let http = address::http_client(&options, headers)
            .map_err(|error| HttpError::HttpClient { source: error.without_url().into() })?;
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

    /// Whether the server is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        address::is_local(&self.endpoint)
    }

    pub(crate) fn spent(&self) -> Spent {
        self.ledger.spent()
    }

    /// The current form of requests, and the findings.
    pub(crate) fn form(&self) -> (RequestForm, Vec<String>) {
        let Form { form, found } = self.locked().clone();
        (form, found)
    }

    /// Changes the form of requests.
    pub(crate) fn change_form(&self, change: impl FnOnce(&mut RequestForm)) {
        change(&mut self.locked().form);
    }

    /// Records a finding about the server, once.
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

    /// Sends the request until there is a reply, a refusal, or the patience ends. After `max_failures` failures, the last of
    /// which has status 500, it gives up in any case. Once `stopping` is set, no attempt follows.
    pub(crate) async fn ask(
        &self,
        request: &CreateChatCompletionRequest,
        estimate: Tokens,
        timeout: Duration,
        max_failures: u32,
        stopping: &AtomicBool,
    ) -> Result<Reply, Failure> {
        // As text, in which a temperature of 0.7 stays 0.7.
        let request = serde_json::to_vec(request).and_then(|text| serde_json::from_slice::<Map<String, Value>>(&text));
        let request = request.map_err(|source| Failure::End(HttpError::Json { source }))?;
        let (mut attempts, mut failed) = (0, 0);
        let (mut outage, mut reported) = (None::<Instant>, false);
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
            let (last, after, status) = match attempt {
                Attempt::Answered(reply) => return Ok(*reply),
                Attempt::Refused { status, error } => match self.refused(status, error, &body, &form) {
                    Ok(()) => continue,
                    Err(failure) => return Err(failure),
                },
                Attempt::Again { failure, after, status } => (failure, after, status),
            };
            let reached = self.reached.load(Ordering::Relaxed);
            let patience = if reached { self.options.patience } else { self.options.patience_at_start };
            let waits = is_outage && outage.is_none_or(|since| since.elapsed() < patience);
            if !is_outage {
                (outage, failed) = (None, failed + 1);
            } else if outage.replace(outage.unwrap_or_else(Instant::now)).is_some()
                && !std::mem::replace(&mut reported, true)
            {
                tracing::warn!(server = self.server, %last, ?patience, "waiting for the server");
            }
            let at_most = self.options.attempts;
            let ends = match is_outage {
                true => (!waits || patience.is_zero()) && attempts >= at_most,
                false => failed >= if status == Some(500) { max_failures.min(at_most) } else { at_most },
            };
            if ends || stopping.load(Ordering::Relaxed) {
                let error = HttpError::GaveUp { server: self.server.clone(), attempts, last };
                return Err(Failure::Server { status, error });
            }
            if let Some(requested) = after {
                let longest = self.options.longest_wait.max(if is_outage { patience } else { Duration::ZERO });
                if requested > longest {
                    return Err(Failure::End(HttpError::WaitTooLong {
                        server: self.server.clone(),
                        requested,
                        longest,
                    }));
                }
                self.gate.close(Instant::now() + requested);
            }
            let wait = self.backoff.after(attempts);
            let wait = if is_outage { wait.min(OUTAGE_WAIT) } else { wait };
            tracing::debug!(server = self.server, attempts, ?wait, ?after, %last, "retrying a request");
            tokio::time::sleep(wait).await;
        }
    }

    /// The consequence of a refusal: `Ok` if the request may be sent in another form.
    fn refused(
        &self,
        status: u16,
        error: ErrorBody,
        body: &Map<String, Value>,
        form: &RequestForm,
    ) -> Result<(), Failure> {
        let about = about(status, &error, body);
        let message = snippet(&self.redacted(error.message.clone()));
        match about {
            About::All | About::Passing => {
                Err(Failure::End(HttpError::Refused { server: self.server.clone(), status, message }))
            }
            About::Prompt => Err(Failure::Prompt { status, message }),
            About::Unknown => Err(Failure::Unknown { status, message }),
            About::OutOfTokens => Err(Failure::OutOfTokens),
            About::Parameters(names) => {
                let mut current = self.locked();
                // Another request was refused in the same form and has changed it.
                if current.form != *form {
                    return Ok(());
                }
                let ours = names.iter().filter(|name| !self.options.body.contains_key(*name));
                let changed = ours.filter_map(|name| current.form.without(name, &error)).next();
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

    /// Converts a failure to an error for callers that need the reply.
    pub(crate) fn error(&self, failure: Failure) -> HttpError {
        let server = self.server.clone();
        match failure {
            Failure::End(error) | Failure::Server { error, .. } => error,
            Failure::Prompt { status, message }
            | Failure::Parameter { status, message, .. }
            | Failure::Unknown { status, message } => HttpError::Refused { server, status, message },
            Failure::OutOfTokens => HttpError::OutOfTokens { server, model: self.options.model.clone() },
        }
    }

    fn redacted(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| secret.redacted(text))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.options).field("spent", &self.spent()).finish_non_exhaustive()
    }
}
