//! Requests and tokens per minute.

use std::time::Duration;

use leaky_bucket::RateLimiter;
use serde::{Deserialize, Serialize};

use super::HttpError;

/// How much may be asked for in a minute. `None` sets no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimits {
    /// Requests, each attempt counted. They are spread over the minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens of prompts and of the most that replies may have, estimated.
    pub tokens_per_minute: Option<u32>,
}

/// How often a bucket is filled up, at most, in a minute.
const FILLS: u32 = 600;

/// Lets requests through as fast as the limits allow.
#[derive(Debug)]
pub(super) struct Pace {
    requests: Option<RateLimiter>,
    tokens: Option<RateLimiter>,
}

impl Pace {
    /// # Errors
    /// [`HttpError::Setting`] for a limit of 0.
    pub(super) fn new(limits: RateLimits) -> Result<Self, HttpError> {
        let bucket = |limit: Option<u32>, what: &str, at_once: u32| match limit {
            Some(0) => Err(HttpError::Setting { what: format!("{what} per minute must be at least 1") }),
            None => Ok(None),
            Some(limit) => {
                let (refill, at_once) = ((limit / FILLS).max(1), (limit / at_once).max(1) as usize);
                let interval = Duration::from_secs(60) * refill / limit;
                let mut bucket = RateLimiter::builder();
                bucket.max(at_once).initial(at_once).refill(refill as usize).interval(interval);
                Ok(Some(bucket.build()))
            }
        };
        Ok(Self {
            // A second's worth at once, so that no minute has many more than were allowed.
            requests: bucket(limits.requests_per_minute, "requests", 60)?,
            // A prompt may take many.
            tokens: bucket(limits.tokens_per_minute, "tokens", 4)?,
        })
    }

    /// Waits until a request of so many tokens may be made.
    pub(super) async fn pass(&self, tokens: u64) {
        if let Some(bucket) = &self.requests {
            bucket.acquire(1).await;
        }
        if let Some(bucket) = &self.tokens {
            let mut rest = usize::try_from(tokens).unwrap_or(usize::MAX);
            // A request larger than what may be taken at once takes it in several parts.
            while rest > 0 {
                let part = rest.min(bucket.max());
                bucket.acquire(part).await;
                rest -= part;
            }
        }
    }
}
