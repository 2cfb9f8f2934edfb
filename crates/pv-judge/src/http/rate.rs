//! Requests and tokens per minute.

use std::time::Duration;

use leaky_bucket::RateLimiter;
use serde::{Deserialize, Serialize};

use super::SettingError;

/// Limits per minute. `None` sets no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimits {
    /// Requests, including failed attempts. They are spread over the minute.
    pub requests_per_minute: Option<u32>,
    /// Estimated tokens of prompts and of the longest possible replies.
    pub tokens_per_minute: Option<u32>,
}

/// The greatest number of refills of a bucket per minute.
const FILLS: u32 = 600;

/// Delays requests according to the limits.
#[derive(Debug)]
pub(super) struct Pace {
    requests: Option<RateLimiter>,
    tokens: Option<RateLimiter>,
}

impl Pace {
    /// # Errors
    /// [`SettingError::Zero`].
    pub(super) fn new(limits: RateLimits) -> Result<Self, SettingError> {
        let bucket = |limit: Option<u32>, option: &'static str, at_once: u32| match limit {
            Some(0) => Err(SettingError::Zero { option }),
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
            // One second's worth at once, so that no minute exceeds the limit by much.
            requests: bucket(limits.requests_per_minute, "requests_per_minute", 60)?,
            // A prompt may need many tokens.
            tokens: bucket(limits.tokens_per_minute, "tokens_per_minute", 4)?,
        })
    }

    /// Waits until a request with this many tokens may be sent.
    pub(super) async fn pass(&self, tokens: u64) {
        if let Some(bucket) = &self.requests {
            bucket.acquire(1).await;
        }
        if let Some(bucket) = &self.tokens {
            let mut rest = usize::try_from(tokens).unwrap_or(usize::MAX);
            // A request larger than the bucket takes its tokens in several parts.
            while rest > 0 {
                let part = rest.min(bucket.max());
                bucket.acquire(part).await;
                rest -= part;
            }
        }
    }
}
