use std::path::PathBuf;
use std::time::Duration;

use super::{Forecast, Spent};

/// What keeps a judge behind a server from going on. No message holds the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// An option cannot be used.
    #[error("{what}")]
    Setting {
        /// What is wrong with it.
        what: String,
    },
    /// The thread or the machinery for requests could not be had.
    #[error("requests cannot be made: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// The server understood a request and refused it; to ask again would not help.
    #[error("{server} refuses with status {status}: {message}")]
    Refused {
        /// The server.
        server: String,
        /// The HTTP status, or the one that the body of a response with status 200 gives.
        status: u16,
        /// What the server said, shortened.
        message: String,
    },
    /// A request was given up.
    #[error("{server} gave no answer in {attempts} attempts; the last one: {reason}")]
    GaveUp {
        /// The server.
        server: String,
        /// How often it was asked.
        attempts: u32,
        /// What went wrong in the end.
        reason: String,
    },
    /// The server asks for more patience than the options have.
    #[error("{server} asks to wait {asked:?}, and at most {longest:?} is waited")]
    WaitTooLong {
        /// The server.
        server: String,
        /// What it asks for.
        asked: Duration,
        /// The longest wait that the options allow.
        longest: Duration,
    },
    /// The server gives no probabilities, and a number alone is not wanted.
    #[error("{server} gives no log-probabilities for {model}, and its numbers alone were not to be taken")]
    NoLogprobs {
        /// The server.
        server: String,
        /// The model.
        model: String,
    },
    /// The model writes numbers digit by digit, its server tells the first digit alone, and a number alone is not wanted.
    #[error("{model} at {server} writes numbers digit by digit, of which the server tells only the first")]
    DigitTokens {
        /// The server.
        server: String,
        /// The model.
        model: String,
    },
    /// The judge gave no number for the first answers. Nothing more was asked.
    #[error(
        "{model} at {server} gave no number for the first {asked} answers that it was asked about; it wrote: {wrote}"
    )]
    NoNumbers {
        /// The server.
        server: String,
        /// The model.
        model: String,
        /// How many answers it was asked about.
        asked: usize,
        /// What it wrote, or how the server declined, shortened.
        wrote: String,
    },
    /// Nobody agreed to what a run would take. Nothing was asked.
    #[error("{} requests and about {} tokens were not agreed to", forecast.requests, forecast.tokens())]
    NotAgreed {
        /// What it would take.
        forecast: Box<Forecast>,
    },
    /// The budget does not cover the next request. What was reached before has been reported, and is in the cache, so
    /// that another run goes on from there.
    #[error(
        "the budget is spent after {done} of {total} verdicts: {} requests, {} tokens", spent.requests, spent.tokens()
    )]
    Budget {
        /// How many verdicts there are.
        done: usize,
        /// How many there would have been.
        total: usize,
        /// What was spent.
        spent: Spent,
    },
    /// The cache cannot be read or written.
    #[error("the cache {} cannot be used", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// What a model wrote is not a trait, even after it was told what was wrong.
    #[error("{model} wrote no usable trait in {requests} requests; still wrong: {faults}")]
    NoTrait {
        /// The model.
        model: String,
        /// How often it was asked.
        requests: u32,
        /// What was wrong in the end.
        faults: String,
    },
}
