//! Finds the way in which a server and its model give numbers, by the first prompts, one after the other.

use std::sync::atomic::AtomicBool;

use super::client::Failure;
use super::judge::{HttpJudge, Outcome};
use super::plan::{Job, Plan};
use super::reply::Reply;
use super::shape::{RequestForm, TokenLimit};
use super::wire::Mode;
use super::{HttpError, Logprobs, Thinking};
use crate::{Abstention, Verdict};

/// How often a server may fail over a request for probabilities before it is asked without.
const FALLS: u32 = 3;

/// Rivals of a token that nearly every server gives.
const FEW_RIVALS: u8 = 5;

/// One prompt by which a way is looked for.
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

    /// Asks until the prompt has its verdict, and remembers the way when there is a number.
    pub(super) async fn run(&self) -> Result<Outcome, HttpError> {
        let options = self.judge.options();
        match (options.thinking, options.logprobs) {
            (Thinking::On, _) => return self.text(Mode::Reasoned).await,
            (_, Logprobs::Ignore) => return self.text(Mode::Sampled).await,
            _ => {}
        }
        match self.send_falling(Mode::Distribution, FALLS).await {
            Ok(reply) => self.look(reply).await,
            Err(Failure::Room) => self.thinks(String::new()).await,
            Err(Failure::Parameter { name, .. }) if name.ends_with("logprobs") => self.no_probabilities().await,
            Err(Failure::Unknown { status, message }) => self.unknown(status, message).await,
            Err(failure @ Failure::Server { status: Some(500), .. }) => self.falls_over(failure).await,
            Err(failure) => self.judge.failed(failure),
        }
    }

    async fn send(&self, mode: Mode) -> Result<Reply, Failure> {
        self.send_falling(mode, u32::MAX).await
    }

    async fn send_falling(&self, mode: Mode, falls: u32) -> Result<Reply, Failure> {
        self.judge.send(self.plan, self.job, mode, falls, self.stopping).await
    }

    /// Looks at the first token's distribution.
    async fn look(&self, mut reply: Reply) -> Result<Outcome, HttpError> {
        if self.asks_for_no_thoughts(&reply) {
            reply = match self.send(Mode::Distribution).await {
                Ok(reply) => reply,
                // It does not know the wish, without a word.
                Err(Failure::Unknown { .. }) => return self.thinks(reply.quote()).await,
                Err(failure) => return self.judge.failed(failure),
            };
        }
        if reply.is_thinking() {
            return self.thinks(reply.quote()).await;
        }
        let verdict = reply.verdict(Mode::Distribution);
        if reply.declined.is_some() {
            return Ok(Outcome::open(verdict));
        }
        // Tokens that are whole numbers. "10" alone may begin "100".
        let whole = verdict.value().is_some() && matches!(reply.largest_number(), Some(11..));
        if whole && reply.begins_by_number() {
            return Ok(self.judge.found(Mode::Distribution, reply));
        }
        match reply.top.as_deref() {
            None => return self.no_probabilities().await,
            // The model ended at once, or declines to score as it was told to.
            Some([]) => return Ok(Outcome::open(verdict)),
            Some(_) if reply.is_refusal() => return Ok(Outcome::open(verdict)),
            Some(_) => {}
        }
        // One digit may be the first of a number, and something else may stand before one.
        let longer = match self.send(Mode::Digits).await {
            Ok(longer) => longer,
            Err(failure) => return self.judge.failed(failure),
        };
        if longer.is_thinking() {
            return self.thinks(longer.quote()).await;
        }
        if whole && longer.written().is_none() {
            return Ok(self.judge.found(Mode::Distribution, reply));
        }
        if longer.tells_digits() {
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
            self.judge.note("the log-probabilities do not tell the whole number; written numbers are taken");
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
        self.judge.note("the server gives no log-probabilities; written numbers are taken");
        self.text(Mode::Sampled).await
    }

    /// Whether the model thinks and can still be asked to leave that out; then it is.
    fn asks_for_no_thoughts(&self, reply: &Reply) -> bool {
        let asks =
            reply.is_thinking() && self.judge.options().thinking == Thinking::Auto && !self.judge.form().thinking_off;
        if asks {
            self.judge.change_form(|form| form.thinking_off = true);
            self.judge.note("the model thinks before it writes; it is asked to leave that out");
        }
        asks
    }

    /// The model thinks whatever it is asked: the number after the thought is taken, unless that is not wanted.
    async fn thinks(&self, quote: String) -> Result<Outcome, HttpError> {
        if self.requires() || self.judge.options().thinking == Thinking::Off {
            let text = format!("a thought: {quote}");
            return Ok(Outcome::open(Verdict::Abstained(Abstention::NotANumber { text: text.clone() })).quoting(text));
        }
        self.judge.change_form(|form| form.thinking_off = false);
        self.judge.note("the model thinks before it writes; the number after the thought is taken");
        self.text(Mode::Reasoned).await
    }

    /// By what is written.
    async fn text(&self, mode: Mode) -> Result<Outcome, HttpError> {
        let mut sent = self.send(mode).await;
        if mode == Mode::Sampled && sent.as_ref().is_ok_and(|reply| self.asks_for_no_thoughts(reply)) {
            sent = match self.send(mode).await {
                // It does not know the wish, without a word.
                Err(Failure::Unknown { .. }) => Err(Failure::Room),
                sent => sent,
            };
        }
        match sent {
            Ok(reply) if mode == Mode::Sampled && reply.is_thinking() => Box::pin(self.thinks(reply.quote())).await,
            Err(Failure::Room) if mode == Mode::Sampled => Box::pin(self.thinks(String::new())).await,
            Ok(reply) => Ok(self.judge.written(mode, reply)),
            Err(failure) => self.judge.failed(failure),
        }
    }

    /// A refusal that says nothing: of the probabilities, of their number, of the names of parameters, or of this prompt.
    async fn unknown(&self, status: u16, message: String) -> Result<Outcome, HttpError> {
        let outcome = Outcome::Unknown { status, message };
        // The forms are tried on one prompt only; what is refused later on is refused for itself.
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
                self.judge.note("the server takes requests in another form only: max_completion_tokens, temperature");
                if let Ok(reply) = self.send_falling(Mode::Distribution, 1).await {
                    return self.look(reply).await;
                }
            }
            // So many rivals may have been too many.
            self.judge.change_form(|form| form.top_logprobs = form.top_logprobs.min(FEW_RIVALS));
            match self.send_falling(Mode::Distribution, 1).await {
                Ok(reply) if reply.top.is_some() => {
                    self.judge.note("the server gives fewer than 20 rivals of a token");
                    return self.look(reply).await;
                }
                _ => self.judge.change_form(|form| form.top_logprobs = before.top_logprobs),
            }
            if self.requires() {
                return Err(self.judge.no_logprobs());
            }
            self.judge.note("the server refuses to give log-probabilities; written numbers are taken");
            if written.is_thinking() {
                return self.text(Mode::Sampled).await;
            }
            return Ok(self.judge.written(Mode::Sampled, written));
        }
        self.judge.change_form(|form| *form = before);
        Ok(outcome)
    }

    /// A server that fails over every request for probabilities, and over no other.
    async fn falls_over(&self, failure: Failure) -> Result<Outcome, HttpError> {
        if self.requires() {
            return self.judge.failed(failure);
        }
        let written = match self.send_falling(Mode::Sampled, FALLS).await {
            Ok(written) => written,
            Err(Failure::End(error)) => return Err(error),
            // It fails over everything.
            Err(_) => return self.judge.failed(failure),
        };
        match self.send_falling(Mode::Distribution, 1).await {
            // It had other troubles.
            Ok(reply) => self.look(reply).await,
            Err(Failure::Server { status: Some(500), .. }) => {
                self.judge.note("the server fails when log-probabilities are asked for; written numbers are taken");
                Ok(self.judge.written(Mode::Sampled, written))
            }
            Err(failure) => self.judge.failed(failure),
        }
    }
}
