//! Waits between attempts.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// Waits that grow from attempt to attempt, each a random part of its maximum ("full jitter").
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    random: Mutex<ChaCha8Rng>,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self { first, longest, random: Mutex::new(ChaCha8Rng::seed_from_u64(seed)) }
    }

    /// The wait after this many failed attempts (1 or more).
    pub(super) fn after(&self, attempts: u32) -> Duration {
        let most = self.first.saturating_mul(2u32.saturating_pow(attempts.saturating_sub(1))).min(self.longest);
        let part = self.random.lock().unwrap_or_else(PoisonError::into_inner).random::<f64>();
        most.mul_f64(part)
    }
}

/// The wait that a server requests: a number of seconds, or a date.
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let until = DateTimeParser::new().parse_timestamp(value).ok()?;
    // A date in the past requests no wait.
    Some(Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// The time until which all requests wait because the server asked one of them to.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<Option<Instant>>);

impl Gate {
    pub(super) fn close(&self, until: Instant) {
        let mut gate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *gate = (*gate).max(Some(until));
    }

    pub(super) async fn pass(&self) {
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => return,
            }
        }
    }
}
