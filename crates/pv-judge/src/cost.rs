//! The cost of judging by a server: forecast, budget, and the amount spent.

use serde::{Deserialize, Serialize};

/// The cost of a run, computed without a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// The number of verdicts.
    pub verdicts: usize,
    /// The number of verdicts in the cache.
    pub cached: usize,
    /// The number of other verdicts whose prompt duplicates another one, which is sent once.
    pub repeated: usize,
    /// The number of requests. Failed attempts are added, and a few requests that detect the server's form of requests
    /// and the judge's mode.
    pub requests: usize,
    /// The estimated number of prompt tokens: one token per four letters of plain text, or per character of other
    /// scripts.
    pub prompt_tokens: u64,
    /// The greatest number of completion tokens.
    pub completion_tokens: u64,
}

/// A server's prices, in any currency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// Per million prompt tokens.
    pub prompt: f64,
    /// Per million completion tokens.
    pub completion: f64,
}

impl Forecast {
    /// The tokens of prompts and completions together.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens + self.completion_tokens
    }

    /// The cost of the run.
    pub fn cost(&self, prices: &Prices) -> f64 {
        (self.prompt_tokens as f64 * prices.prompt + self.completion_tokens as f64 * prices.completion) / 1e6
    }
}

/// Limits on what may be spent, over all runs of one judge. `None` sets no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// Requests, including failed attempts.
    pub requests: Option<u64>,
    /// Tokens of prompts and completions together. A request is made only if its estimated tokens are covered.
    pub tokens: Option<u64>,
}

/// The amount spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spent {
    /// Requests, including failed attempts.
    pub requests: u64,
    /// Prompt tokens as reported by the server, or estimated if it reports none.
    pub prompt_tokens: u64,
    /// Completion tokens.
    pub completion_tokens: u64,
}

impl Spent {
    /// Tokens of prompts and completions together.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens + self.completion_tokens
    }
}

/// The tokens of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) prompt: u64,
    pub(crate) completion: u64,
}
