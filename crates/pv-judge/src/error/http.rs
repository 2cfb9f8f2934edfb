//! Errors of a judge behind a server.

use std::path::PathBuf;
use std::time::Duration;

use super::{RequestFailure, SettingError};
use crate::cost::{Forecast, Spent};

/// An error of a judge behind a server. No message contains the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// An option is invalid.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The thread or the runtime for requests could not be created.
    #[error("cannot start a thread for requests")]
    Thread {
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The HTTP client could not be created.
    #[error("cannot create the HTTP client")]
    HttpClient {
        /// The HTTP library's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A request could not be written as JSON.
    #[error("cannot write a request as JSON")]
    Json {
        /// The error of the conversion.
        source: serde_json::Error,
    },
    /// The server refused a request; a retry would not help.
    #[error("{server} refuses with status {status}: {message}")]
    Refused {
        /// The server.
        server: String,
        /// The HTTP status, or the one in the body of a response with status 200.
        status: u16,
        /// The server's message, shortened.
        message: String,
    },
    /// The model used all tokens of a reply for reasoning.
    #[error("{model} at {server} used all tokens of the reply for reasoning; raise the limit or disable reasoning")]
    OutOfTokens {
        /// The server.
        server: String,
        /// The model.
        model: String,
    },
    /// A request failed in all attempts.
    #[error("{server} gave no answer in {attempts} attempts; last failure: {last}")]
    GaveUp {
        /// The server.
        server: String,
        /// The number of attempts.
        attempts: u32,
        /// The failure of the last attempt.
        last: RequestFailure,
    },
    /// The server requests a longer wait than the options permit.
    #[error(
        "{server} requests a wait of {requested:?}, but the limit is {longest:?}; try again later, or raise the limit"
    )]
    WaitTooLong {
        /// The server.
        server: String,
        /// The requested wait.
        requested: Duration,
        /// The longest wait of the options.
        longest: Duration,
    },
    /// The server returns no probabilities, and the options require them.
    #[error("{server} returns no log-probabilities for {model}, but the options require them")]
    NoLogprobs {
        /// The server.
        server: String,
        /// The model.
        model: String,
    },
    /// The model writes numbers digit by digit, its server returns the probabilities of the first digit only, and the
    /// options require those of the whole number.
    #[error(
        "{model} at {server} writes numbers digit by digit, but the server returns the log-probabilities of the first \
         digit only, and the options require those of the whole number"
    )]
    DigitTokens {
        /// The server.
        server: String,
        /// The model.
        model: String,
    },
    /// The judge gave no number for the first answers. No further requests were made.
    #[error("{model} at {server} gave no number for the first {answers} answers; its reply: {reply}")]
    NoNumbers {
        /// The server.
        server: String,
        /// The model.
        model: String,
        /// The number of answers that were judged.
        answers: usize,
        /// The judge's reply, or the server's refusal, shortened.
        reply: String,
    },
    /// The caller did not consent to the forecast cost. No requests were made.
    #[error("no consent to {} requests and about {} tokens", forecast.requests, forecast.tokens())]
    NoConsent {
        /// The forecast.
        forecast: Box<Forecast>,
    },
    /// The budget does not cover the next request. The verdicts so far have been reported and are in the cache, so that
    /// another run resumes after them.
    #[error(
        "the budget is spent after {done} of {total} verdicts: {} requests, {} tokens", spent.requests, spent.tokens()
    )]
    Budget {
        /// The number of verdicts so far.
        done: usize,
        /// The number of verdicts in all.
        total: usize,
        /// The amount spent.
        spent: Spent,
    },
    /// The cache cannot be read or written.
    #[error("cannot read or write the cache {}", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The model's trait is still invalid after all repairs.
    #[error("{model} wrote no valid trait in {requests} requests; remaining faults: {}", faults.join("; "))]
    NoTrait {
        /// The model.
        model: String,
        /// The number of requests.
        requests: u32,
        /// The remaining faults, as they were reported to the model.
        faults: Vec<String>,
    },
}
