//! A judge behind an OpenAI-compatible server.

mod address;
mod cache;
mod client;
mod error;
mod forecast;
mod judge;
mod ledger;
mod options;
mod plan;
mod rate;
mod reading;
mod refusal;
mod reply;
mod report;
mod retry;
mod shape;
mod tally;
mod thread;
mod way;
mod wire;

pub use error::HttpError;
pub use forecast::{Forecast, Prices};
pub use judge::HttpJudge;
pub use ledger::{Budget, Spent};
pub use options::{ApiKey, HttpOptions, KeyHeader, Logprobs, Thinking};
pub use rate::RateLimits;
pub use report::JudgeReport;
pub use shape::{RequestForm, TokenLimit};

pub(crate) use client::{Client, Failure};
pub(crate) use ledger::Tokens;
pub(crate) use thread::on_own_thread;
pub(crate) use wire::{estimated_tokens, user};

#[cfg(test)]
pub(crate) mod tests;
