//! One prompt: the request, and the verdict that follows from its reply or failure.

use std::sync::atomic::AtomicBool;

use super::HttpJudge;
use crate::http::HttpError;
use crate::http::client::Failure;
use crate::http::plan::{Job, Plan};
use crate::http::reply::Reply;
use crate::http::wire::{Mode, scoring, snippet};
use crate::{Abstention, Judge, Verdict};

/// The result of one prompt.
#[derive(Debug)]
pub(in crate::http) enum Outcome {
    /// A verdict.
    Reached {
        verdict: Verdict,
        /// The reply, and the mode under which it may be cached.
        reply: Option<(Mode, Box<Reply>)>,
        /// The reply, for messages.
        quote: String,
    },
    /// A refusal without a stated reason.
    Unknown { status: u16, message: String },
}

impl Outcome {
    /// A verdict that does not determine the mode.
    pub(in crate::http) fn open(verdict: Verdict) -> Self {
        let quote = match &verdict {
            Verdict::Abstained(Abstention::NotANumber { text }) => snippet(text),
            Verdict::Abstained(Abstention::Refused { status, message }) => format!("status {status}: {message}"),
            _ => String::new(),
        };
        Self::Reached { verdict, reply: None, quote }
    }

    pub(in crate::http) fn quoting(self, said: String) -> Self {
        match self {
            Self::Reached { verdict, reply, .. } => Self::Reached { verdict, reply, quote: said },
            unknown => unknown,
        }
    }

    pub(in crate::http) fn has_number(&self) -> bool {
        matches!(self, Self::Reached { verdict: Verdict::Scored(_), .. })
    }
}

impl HttpJudge {
    /// Sends one prompt in the detected mode.
    pub(super) async fn ask(
        &self,
        plan: &Plan<'_>,
        job: &Job,
        mode: Mode,
        stopping: &AtomicBool,
    ) -> Result<Outcome, HttpError> {
        match self.send(plan, job, mode, u32::MAX, stopping).await {
            // The server no longer returns what it returned before.
            Ok(reply) if mode.wants_logprobs() && reply.top.is_none() && reply.declined.is_none() => {
                Err(self.no_logprobs())
            }
            Ok(reply) => {
                self.keep(job, mode, &reply)?;
                let quote = reply.quote();
                Ok(Outcome::open(reply.verdict(mode)).quoting(quote))
            }
            Err(failure) => self.failed(failure),
        }
    }

    /// Sends one request.
    pub(in crate::http) async fn send(
        &self,
        plan: &Plan<'_>,
        job: &Job,
        mode: Mode,
        max_failures: u32,
        stopping: &AtomicBool,
    ) -> Result<Reply, Failure> {
        let (options, prompt) = (self.options(), plan.prompt(job));
        let estimate = self.estimate(&prompt, mode);
        let request = scoring(&options.model, prompt, mode, options.thought_tokens);
        // The timeout for reasoning is the one of the options.
        let timeout = if mode == Mode::Reasoned { options.timeout * 5 } else { options.timeout };
        let mut reply = self.client.ask(&request, estimate, timeout, max_failures, stopping).await?;
        self.state().answered = true;
        if mode != Mode::Digits {
            reply.positions.clear();
        }
        if !mode.wants_logprobs() {
            reply.top = None;
        }
        Ok(reply)
    }

    /// The consequence of a failure for the verdict.
    pub(in crate::http) fn failed(&self, failure: Failure) -> Result<Outcome, HttpError> {
        match failure {
            Failure::Prompt { status, message } => {
                Ok(Outcome::open(Verdict::Abstained(Abstention::Refused { status, message })))
            }
            Failure::Unknown { status, message } => Ok(Outcome::Unknown { status, message }),
            Failure::OutOfTokens => {
                let text = "reasoning that used up all tokens".to_owned();
                Ok(Outcome::open(Verdict::Abstained(Abstention::NotANumber { text })))
            }
            Failure::Parameter { name, .. } if name.ends_with("logprobs") => Err(self.no_logprobs()),
            other => Err(self.client.error(other)),
        }
    }

    /// Sets the mode, given a reply that shows it.
    pub(in crate::http) fn found(&self, mode: Mode, reply: Reply) -> Outcome {
        if self.state().mode.replace(mode) != Some(mode) {
            tracing::info!(judge = self.name(), mode = %mode.score_mode(), "the judge's mode was detected");
        }
        let (verdict, quote) = (reply.verdict(mode), reply.quote());
        Outcome::Reached { verdict, reply: Some((mode, Box::new(reply))), quote }
    }

    /// For a written reply: the mode is detected if the reply is a number.
    pub(in crate::http) fn written(&self, mode: Mode, reply: Reply) -> Outcome {
        let verdict = reply.verdict(mode);
        match verdict.value() {
            Some(_) => self.found(mode, reply),
            None => Outcome::open(verdict).quoting(reply.quote()),
        }
    }
}
