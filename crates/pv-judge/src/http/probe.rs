//! Detects how a server and its model give numbers, with the first prompts, one after the other.

use std::sync::atomic::AtomicBool;

use super::client::Failure;
use super::judge::{HttpJudge, Outcome};
use super::plan::{Job, Plan};
use super::reply::Reply;
use super::shape::{RequestForm, TokenLimit};
use super::wire::Mode;
use super::{HttpError, Logprobs, Thinking};
use crate::{Abstention, Verdict};

/// How often a server may fail on a request for probabilities before requests omit them.
const MAX_FAILURES: u32 = 3;

/// A number of alternative tokens that nearly every server returns.
const FEW_ALTERNATIVES: u8 = 5;

/// One prompt for the detection.
pub(super) struct Probe<'a> {
    judge: &'a HttpJudge,
    plan: &'a Plan<'a>,
    job: &'a Job,
    stopping: &'a AtomicBool,
}

impl<'a> Probe<'a> {
    pub(super) fn new(judge: &'a HttpJudge, plan: &'a Plan<'a>, job: &'a Job, stopping: &'a AtomicBool) -> Self {
        Self { judge, plan, job, stopping }
    }

    /// Sends requests until the prompt has its verdict, and sets the mode when there is a number.
    pub(super) async fn run(&self) -> Result<Outcome, HttpError> {
        let options = self.judge.options();
        match (options.thinking, options.logprobs) {
            (Thinking::On, _) => return self.text(Mode::Reasoned).await,
            (_, Logprobs::Ignore) => return self.text(Mode::Sampled).await,
            _ => {}
        }
        match self.send_at_most(Mode::Distribution, MAX_FAILURES).await {
            Ok(reply) => self.examine(reply).await,
            Err(Failure::OutOfTokens) => self.use_reasoning(String::new()).await,
            Err(Failure::Parameter { name, .. }) if name.ends_with("logprobs") => self.no_probabilities().await,
            Err(Failure::Unknown { status, message }) => self.unknown(status, message).await,
            Err(failure @ Failure::Server { status: Some(500), .. }) => self.fails_on_logprobs(failure).await,
            Err(failure) => self.judge.failed(failure),
        }
    }

    async fn send(&self, mode: Mode) -> Result<Reply, Failure> {
        self.send_at_most(mode, u32::MAX).await
    }

    async fn send_at_most(&self, mode: Mode, max_failures: u32) -> Result<Reply, Failure> {
        self.judge.send(self.plan, self.job, mode, max_failures, self.stopping).await
    }

    /// Examines the first token's distribution.
    async fn examine(&self, mut reply: Reply) -> Result<Outcome, HttpError> {
        if self.disables_reasoning(&reply) {
            reply = match self.send(Mode::Distribution).await {
                Ok(reply) => reply,
                // The server ignores the setting silently.
                Err(Failure::Unknown { .. }) => return self.use_reasoning(reply.quote()).await,
                Err(failure) => return self.judge.failed(failure),
            };
        }
        if reply.is_thinking() {
            return self.use_reasoning(reply.quote()).await;
        }
        let verdict = reply.verdict(Mode::Distribution);
        if reply.declined.is_some() {
            return Ok(Outcome::open(verdict));
        }
        // Tokens that are whole numbers. "10" alone may be the start of "100".
        let whole = verdict.value().is_some() && matches!(reply.largest_number(), Some(11..));
        if whole && reply.starts_with_number() {
            return Ok(self.judge.found(Mode::Distribution, reply));
        }
        match reply.top.as_deref() {
            None => return self.no_probabilities().await,
            // The model ended at once, or refuses to score as specified.
            Some([]) => return Ok(Outcome::open(verdict)),
            Some(_) if reply.is_refusal() => return Ok(Outcome::open(verdict)),
            Some(_) => {}
        }
        // A single digit may be the first of a number, and other text may precede one.
        let longer = match self.send(Mode::Digits).await {
            Ok(longer) => longer,
            Err(failure) => return self.judge.failed(failure),
        };
        if longer.is_thinking() {
            return self.use_reasoning(longer.quote()).await;
        }
        if whole && longer.written().is_none() {
            return Ok(self.judge.found(Mode::Distribution, reply));
        }
        if longer.has_digits() {
            let verdict = longer.verdict(Mode::Digits);
            if longer.writes_digits() || (verdict.value().is_some() && longer.written().is_none()) {
                return Ok(match verdict.value() {
                    Some(_) => self.judge.found(Mode::Digits, longer),
                    None => Outcome::open(verdict).quoting(longer.quote()),
                });
            }
            if longer.written().is_none() {
                return Ok(Outcome::open(verdict).quoting(longer.quote()));
            }
        }
        if self.requires() {
            let (server, model) = self.judge.names();
            return Err(HttpError::DigitTokens { server, model });
        }
        let outcome = self.text(Mode::Sampled).await?;
        if outcome.has_number() {
            self.judge.note("the log-probabilities do not include the whole number; written numbers are used");
        }
        Ok(outcome)
    }

    fn requires(&self) -> bool {
        self.judge.options().logprobs == Logprobs::Require
    }

    async fn no_probabilities(&self) -> Result<Outcome, HttpError> {
        if self.requires() {
            return Err(self.judge.no_logprobs());
        }
        self.judge.note("the server returns no log-probabilities; written numbers are used");
        self.text(Mode::Sampled).await
    }

    /// Whether the model reasons and that can still be disabled; disables it.
    fn disables_reasoning(&self, reply: &Reply) -> bool {
        let asks =
            reply.is_thinking() && self.judge.options().thinking == Thinking::Auto && !self.judge.form().thinking_off;
        if asks {
            self.judge.change_form(|form| form.thinking_off = true);
            self.judge.note("the model reasons before its reply; reasoning is disabled");
        }
        asks
    }

    /// The model reasons in spite of the setting: the number after the reasoning is used, unless the options forbid it.
    async fn use_reasoning(&self, quote: String) -> Result<Outcome, HttpError> {
        if self.requires() || self.judge.options().thinking == Thinking::Off {
            let text = format!("reasoning: {quote}");
            return Ok(Outcome::open(Verdict::Abstained(Abstention::NotANumber { text: text.clone() })).quoting(text));
        }
        self.judge.change_form(|form| form.thinking_off = false);
        self.judge.note("the model reasons before its reply; the number after the reasoning is used");
        self.text(Mode::Reasoned).await
    }

    /// Uses the written text.
    async fn text(&self, mode: Mode) -> Result<Outcome, HttpError> {
        let mut sent = self.send(mode).await;
        if mode == Mode::Sampled && sent.as_ref().is_ok_and(|reply| self.disables_reasoning(reply)) {
            sent = match self.send(mode).await {
                // The server ignores the setting silently.
                Err(Failure::Unknown { .. }) => Err(Failure::OutOfTokens),
                sent => sent,
            };
        }
        match sent {
            Ok(reply) if mode == Mode::Sampled && reply.is_thinking() => {
                Box::pin(self.use_reasoning(reply.quote())).await
            }
            Err(Failure::OutOfTokens) if mode == Mode::Sampled => Box::pin(self.use_reasoning(String::new())).await,
            Ok(reply) => Ok(self.judge.written(mode, reply)),
            Err(failure) => self.judge.failed(failure),
        }
    }

    /// A refusal without a stated reason: of the probabilities, of their number, of parameter names, or of this prompt.
    async fn unknown(&self, status: u16, message: String) -> Result<Outcome, HttpError> {
        let outcome = Outcome::Unknown { status, message };
        // The forms are tried on one prompt only; a later refusal concerns its own prompt.
        if self.judge.has_tried_forms() {
            return Ok(outcome);
        }
        let before = self.judge.form();
        let changes: [fn(&mut RequestForm); 3] = [
            |_| {},
            |form| {
                form.token_limit = match form.token_limit {
                    TokenLimit::MaxTokens => TokenLimit::MaxCompletionTokens,
                    TokenLimit::MaxCompletionTokens => TokenLimit::MaxTokens,
                }
            },
            |form| (form.temperature, form.seed) = (false, false),
        ];
        for change in changes {
            self.judge.change_form(change);
            let written = match self.send(Mode::Sampled).await {
                Ok(written) => written,
                Err(Failure::Unknown { .. }) => continue,
                Err(failure) => return self.judge.failed(failure),
            };
            let form = self.judge.form();
            if form != before {
                self.judge.note("the server accepts requests in another form only: max_completion_tokens, temperature");
                if let Ok(reply) = self.send_at_most(Mode::Distribution, 1).await {
                    return self.examine(reply).await;
                }
            }
            // The number of alternatives may have been too great.
            self.judge.change_form(|form| form.top_logprobs = form.top_logprobs.min(FEW_ALTERNATIVES));
            match self.send_at_most(Mode::Distribution, 1).await {
                Ok(reply) if reply.top.is_some() => {
                    self.judge.note("the server returns fewer than 20 alternatives per token");
                    return self.examine(reply).await;
                }
                _ => self.judge.change_form(|form| form.top_logprobs = before.top_logprobs),
            }
            if self.requires() {
                return Err(self.judge.no_logprobs());
            }
            self.judge.note("the server refuses to return log-probabilities; written numbers are used");
            if written.is_thinking() {
                return self.text(Mode::Sampled).await;
            }
            return Ok(self.judge.written(Mode::Sampled, written));
        }
        self.judge.change_form(|form| *form = before);
        Ok(outcome)
    }

    /// A server that fails on every request for probabilities and on no other.
    async fn fails_on_logprobs(&self, failure: Failure) -> Result<Outcome, HttpError> {
        if self.requires() {
            return self.judge.failed(failure);
        }
        let written = match self.send_at_most(Mode::Sampled, MAX_FAILURES).await {
            Ok(written) => written,
            Err(Failure::End(error)) => return Err(error),
            // The server fails on every request.
            Err(_) => return self.judge.failed(failure),
        };
        match self.send_at_most(Mode::Distribution, 1).await {
            // The failure had another cause.
            Ok(reply) => self.examine(reply).await,
            Err(Failure::Server { status: Some(500), .. }) => {
                self.judge.note("the server fails when log-probabilities are requested; written numbers are used");
                Ok(self.judge.written(Mode::Sampled, written))
            }
            Err(failure) => self.judge.failed(failure),
        }
    }
}
