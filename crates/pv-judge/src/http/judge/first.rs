//! Sends the first prompts one after the other until there is a number; holds their verdicts back, and gives up after
//! too many.

use std::sync::atomic::AtomicBool;

use super::{HttpJudge, Outcome, UNEXPLAINED};
use crate::http::HttpError;
use crate::http::plan::{Job, Plan};
use crate::http::probe::Probe;
use crate::http::tally::Tally;
use crate::http::wire::Mode;
use crate::score::ScoreMode;
use crate::{Abstention, Error, Judge, Result, Verdict};

impl HttpJudge {
    /// Sends one prompt after the other until one has a number; `None` when all have been sent. Verdicts are held back
    /// until then, since without any number they are of no use.
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

    /// Rejects a mode in which scores of different modes would be mixed.
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
            // The word for a refusal was understood.
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
        let (answers, limit) = (state.numberless, self.options().numberless);
        if state.numbered || limit == 0 || answers < limit {
            return Ok(());
        }
        let reply = state.wrote.clone().unwrap_or_default();
        let answered = state.answered;
        drop(state);
        let (server, model) = self.names();
        Err(match outcome {
            // Every reply was a refusal.
            Outcome::Unknown { status, message } if !answered => {
                HttpError::Refused { server, status: *status, message: message.clone() }
            }
            _ => HttpError::NoNumbers { server, model, answers, reply },
        }
        .into())
    }

    /// Reports the verdicts that were held back.
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

    /// The verdict of an outcome. A refusal without a stated reason is attributed to this prompt if the server answers
    /// others.
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
