//! A judge behind an OpenAI-compatible server.

mod address;
mod cache;
mod client;
mod judge;
mod ledger;
mod options;
mod plan;
mod probe;
mod rate;
mod reading;
mod refusal;
mod reply;
mod report;
mod retry;
mod shape;
mod tally;
mod thread;
mod wire;

pub use judge::HttpJudge;
pub use options::{ApiKey, HttpOptions, KeyHeader, Logprobs, Thinking};
pub use rate::RateLimits;
pub use report::JudgeReport;
pub use shape::{RequestForm, TokenLimit};

pub use crate::cost::{Budget, Forecast, Prices, Spent};
pub use crate::error::{HttpError, RequestFailure, SettingError};

pub(crate) use client::{Client, Failure};
pub(crate) use thread::on_own_thread;
pub(crate) use wire::{estimated_tokens, user};

#[cfg(test)]
pub(crate) mod tests;
