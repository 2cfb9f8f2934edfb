//! The first prompts, one after the other until there is a number; what is held back meanwhile, and what is given up.

use std::sync::atomic::AtomicBool;

use super::{HttpJudge, Outcome, UNEXPLAINED};
use crate::http::HttpError;
use crate::http::plan::{Job, Plan};
use crate::http::tally::Tally;
use crate::http::way::Probe;
use crate::http::wire::Mode;
use crate::{Abstention, Error, Judge, Result, ScoreMode, Verdict};

impl HttpJudge {
    /// Asks one prompt after the other until one has a number; `None` when all have been asked. Verdicts are held back until
    /// then: should there be no number, they are worth nothing.
    pub(super) async fn begin(
        &self,
        plan: &Plan<'_>,
        stopping: &AtomicBool,
        tally: &mut Tally<'_>,
    ) -> Result<Option<Mode>> {
        let mut held = Vec::new();
        for job in &plan.jobs {
            let (known, numbered) = {
                let state = self.state();
                (state.mode, state.numbered)
            };
            if let (Some(mode), true) = (known, numbered) {
                self.release(tally, held)?;
                return Ok(Some(mode));
            }
            let outcome = match known {
                None => Probe::new(self, plan, job, stopping).run().await?,
                Some(mode) => match self.cached(job, mode)? {
                    Some(reply) => Outcome::open(reply.verdict(mode)),
                    None => self.ask(plan, job, mode, stopping).await?,
                },
            };
            self.check_mode()?;
            self.check_numbers(&outcome)?;
            held.push((job, outcome));
        }
        self.release(tally, held)?;
        Ok(None)
    }

    /// Refuses a mode in which scores would be mixed with others.
    pub(super) fn check_mode(&self) -> Result<()> {
        let state = self.state();
        match (state.mode, state.wanted) {
            (Some(given), Some(saved)) if given != saved => {
                Err(self.other_mode(saved.score_mode(), given.score_mode()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn other_mode(&self, saved: ScoreMode, given: ScoreMode) -> Error {
        Error::OtherMode { judge: self.name(), saved, given }
    }

    /// Counts the first answers without a number, and gives up when they are too many.
    pub(super) fn check_numbers(&self, outcome: &Outcome) -> Result<()> {
        let mut state = self.state();
        let quote = match outcome {
            Outcome::Reached { verdict: Verdict::Scored(_), .. } => {
                state.numbered = true;
                return Ok(());
            }
            // The word for declining was understood.
            Outcome::Reached { verdict: Verdict::Abstained(Abstention::NoMass { refusal: Some(p), .. }), .. }
                if *p > 0.25 =>
            {
                return Ok(());
            }
            Outcome::Reached { quote, .. } => quote.clone(),
            Outcome::Unknown { status, message } => format!("status {status}: {message}"),
        };
        state.numberless += 1;
        if state.wrote.as_deref().is_none_or(str::is_empty) {
            state.wrote = Some(quote);
        }
        let (asked, limit) = (state.numberless, self.options().numberless);
        if state.numbered || limit == 0 || asked < limit {
            return Ok(());
        }
        let wrote = state.wrote.clone().unwrap_or_default();
        let answered = state.answered;
        drop(state);
        let (server, model) = self.names();
        Err(match outcome {
            // It was a refusal every time.
            Outcome::Unknown { status, message } if !answered => {
                HttpError::Refused { server, status: *status, message: message.clone() }
            }
            _ => HttpError::NoNumbers { server, model, asked, wrote },
        }
        .into())
    }

    /// Hands over what was held back.
    pub(super) fn release(&self, tally: &mut Tally<'_>, held: Vec<(&Job, Outcome)>) -> Result<()> {
        for (job, outcome) in held {
            if let Outcome::Reached { reply: Some((mode, reply)), .. } = &outcome {
                self.keep(job, *mode, reply)?;
            }
            let verdict = self.explained(outcome)?;
            self.hand(tally, job, verdict)?;
        }
        Ok(())
    }

    pub(super) fn hand(&self, tally: &mut Tally<'_>, job: &Job, verdict: Verdict) -> Result<()> {
        self.state().verdicts.add(&verdict);
        tally.add(job, &verdict)
    }

    /// The verdict of an outcome. A refusal that does not say what it is about is one of this prompt, if the server answers others.
    pub(super) fn explained(&self, outcome: Outcome) -> Result<Verdict, HttpError> {
        let mut state = self.state();
        match outcome {
            Outcome::Reached { verdict, .. } => {
                state.unexplained = 0;
                Ok(verdict)
            }
            Outcome::Unknown { status, message } => {
                state.unexplained += 1;
                if !state.answered || state.unexplained >= UNEXPLAINED {
                    return Err(HttpError::Refused { server: self.client.server().to_owned(), status, message });
                }
                Ok(Verdict::Abstained(Abstention::Refused { status, message }))
            }
        }
    }
}
