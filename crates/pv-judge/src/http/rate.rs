//! Requests and tokens per minute.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
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

type Bucket = RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<std::time::Instant>>;

/// Lets requests through as fast as the limits allow.
#[derive(Debug)]
pub(super) struct Pace {
    requests: Option<Bucket>,
    tokens: Option<(Bucket, NonZeroU32)>,
}

impl Pace {
    /// # Errors
    /// [`HttpError::Setting`] for a limit of 0.
    pub(super) fn new(limits: RateLimits) -> Result<Self, HttpError> {
        let nonzero = |limit: u32, what: &str| {
            let zero = || HttpError::Setting { what: format!("{what} per minute must be at least 1") };
            NonZeroU32::new(limit).ok_or_else(zero)
        };
        let bucket = |limit: NonZeroU32, at_once: NonZeroU32| {
            RateLimiter::direct_with_clock(Quota::per_minute(limit).allow_burst(at_once), MonotonicClock)
        };
        let part = |limit: NonZeroU32, by: u32| NonZeroU32::new(limit.get() / by).unwrap_or(NonZeroU32::MIN);
        let requests = limits.requests_per_minute.map(|limit| nonzero(limit, "requests")).transpose()?;
        let tokens = limits.tokens_per_minute.map(|limit| nonzero(limit, "tokens")).transpose()?;
        Ok(Self {
            // A second's worth at once, so that no minute has many more than were allowed.
            requests: requests.map(|limit| bucket(limit, part(limit, 60))),
            // A prompt may take many.
            tokens: tokens.map(|limit| (bucket(limit, part(limit, 4)), part(limit, 4))),
        })
    }

    /// Waits until a request of so many tokens may be made.
    pub(super) async fn pass(&self, tokens: u64) {
        if let Some(bucket) = &self.requests {
            wait(bucket, NonZeroU32::MIN).await;
        }
        if let Some((bucket, most)) = &self.tokens {
            let mut rest = tokens;
            // A request larger than what may be taken at once takes it in several parts.
            while let Some(part) = NonZeroU32::new(rest.min(most.get().into()) as u32) {
                wait(bucket, part).await;
                rest -= u64::from(part.get());
            }
        }
    }
}

async fn wait(bucket: &Bucket, cells: NonZeroU32) {
    // Never more than the bucket holds.
    while let Ok(Err(not_until)) = bucket.check_n(cells) {
        let wait = not_until.wait_time_from(MonotonicClock.now());
        tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
    }
}
