//! A judge behind an OpenAI-compatible server.

mod cache;
mod client;
mod error;
mod forecast;
mod judge;
mod ledger;
mod options;
mod plan;
mod retry;
mod tally;
mod thread;
mod wire;

pub use error::HttpError;
pub use forecast::{Forecast, Prices};
pub use judge::HttpJudge;
pub use ledger::{Budget, Spent};
pub use options::{ApiKey, HttpOptions, Logprobs};

pub(crate) use client::Client;
pub(crate) use ledger::Tokens;
pub(crate) use thread::on_own_thread;
pub(crate) use wire::{estimated_tokens, user};

#[cfg(test)]
pub(crate) mod tests;
