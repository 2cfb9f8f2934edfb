//! Accounts for spent and reserved amounts.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cost::{Budget, Spent, Tokens};

/// Accounts for spent and reserved amounts.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    budget: Budget,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    spent: Spent,
    /// The estimated tokens of running requests.
    reserved: u64,
}

impl Ledger {
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, accounts: Mutex::default() }
    }

    pub(super) fn spent(&self) -> Spent {
        self.accounts().spent
    }

    /// Reserves the cost of a request; `None` if the budget does not cover it.
    pub(super) fn reserve(&self, estimate: Tokens) -> Option<Reservation<'_>> {
        let mut accounts = self.accounts();
        let tokens = estimate.prompt + estimate.completion;
        let covered = |limit: Option<u64>, needed: u64| limit.is_none_or(|limit| needed <= limit);
        if !covered(self.budget.requests, accounts.spent.requests + 1)
            || !covered(self.budget.tokens, accounts.spent.tokens() + accounts.reserved + tokens)
        {
            return None;
        }
        accounts.spent.requests += 1;
        accounts.reserved += tokens;
        Some(Reservation { ledger: self, estimate, used: estimate })
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reserved cost of a request. It is recorded when this value is dropped, also for a cancelled request: its whole
/// estimate then, since the server may have counted it.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    ledger: &'a Ledger,
    estimate: Tokens,
    used: Tokens,
}

impl Reservation<'_> {
    /// Records the actual cost instead of the estimate.
    pub(super) fn settle(mut self, used: Tokens) {
        self.used = used;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut accounts = self.ledger.accounts();
        accounts.reserved -= self.estimate.prompt + self.estimate.completion;
        accounts.spent.prompt_tokens += self.used.prompt;
        accounts.spent.completion_tokens += self.used.completion;
    }
}
