use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// How much may be spent, over all runs of one judge. `None` sets no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// Requests, each attempt counted.
    pub requests: Option<u64>,
    /// Tokens, of prompts and completions together. A request is made only when its estimated tokens are covered.
    pub tokens: Option<u64>,
}

/// What was spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Requests, each attempt counted.
    pub requests: u64,
    /// Tokens of prompts: what the server said, or estimated where it said nothing.
    pub prompt_tokens: u64,
    /// Tokens of completions.
    pub completion_tokens: u64,
}

impl Spent {
    /// Tokens, of prompts and completions together.
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

/// The books of what is and will be spent.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    budget: Budget,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    spent: Spent,
    /// The estimated tokens of the requests that are under way.
    reserved: u64,
}

impl Ledger {
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, books: Mutex::default() }
    }

    pub(super) fn spent(&self) -> Spent {
        self.books().spent
    }

    /// Sets aside what a request will take; `None` if the budget does not cover it.
    pub(super) fn reserve(&self, estimate: Tokens) -> Option<Reservation<'_>> {
        let mut books = self.books();
        let tokens = estimate.prompt + estimate.completion;
        let covered = |limit: Option<u64>, needed: u64| limit.is_none_or(|limit| needed <= limit);
        if !covered(self.budget.requests, books.spent.requests + 1)
            || !covered(self.budget.tokens, books.spent.tokens() + books.reserved + tokens)
        {
            return None;
        }
        books.spent.requests += 1;
        books.reserved += tokens;
        Some(Reservation { ledger: self, estimate, used: estimate })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is set aside for a request. It is booked when this is dropped, also by a request that is broken off: its whole
/// estimate then, as the server may have counted it.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    ledger: &'a Ledger,
    estimate: Tokens,
    used: Tokens,
}

impl Reservation<'_> {
    /// Books what was used instead of the estimate.
    pub(super) fn settle(mut self, used: Tokens) {
        self.used = used;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut books = self.ledger.books();
        books.reserved -= self.estimate.prompt + self.estimate.completion;
        books.spent.prompt_tokens += self.used.prompt;
        books.spent.completion_tokens += self.used.completion;
    }
}
