use std::ops::ControlFlow;

use super::plan::{Job, Plan};
use super::{HttpError, Spent};
use crate::judge::{Judged, Verdicts};
use crate::{Error, Result, Verdict};

/// The verdicts so far.
pub(super) struct Tally<'a> {
    verdicts: Vec<Vec<Option<Verdict>>>,
    done: usize,
    total: usize,
    report: &'a mut (dyn FnMut(Judged) -> ControlFlow<()> + Send),
}

impl<'a> Tally<'a> {
    pub(super) fn new(
        plan: &Plan<'_>,
        rubrics: usize,
        answers: usize,
        report: &'a mut (dyn FnMut(Judged) -> ControlFlow<()> + Send),
    ) -> Self {
        Self { verdicts: vec![vec![None; rubrics]; answers], done: 0, total: plan.total(), report }
    }

    pub(super) fn has(&self, job: &Job) -> bool {
        job.pairs.iter().all(|(answer, rubric)| self.verdicts[*answer][*rubric].is_some())
    }

    /// Records and reports the verdicts of one prompt.
    pub(super) fn add(&mut self, job: &Job, verdict: &Verdict) -> Result<()> {
        let total = self.total;
        for &(answer, rubric) in &job.pairs {
            self.verdicts[answer][rubric] = Some(verdict.clone());
            self.done += 1;
            let judged = Judged { answer, rubric, verdict: verdict.clone(), done: self.done, total };
            if (self.report)(judged).is_break() {
                return Err(Error::Cancelled { done: self.done, total });
            }
        }
        Ok(())
    }

    /// Adds the progress and the amount spent to errors that contain them.
    pub(super) fn explain(&self, error: Error, spent: Spent) -> Error {
        match error {
            Error::Http(HttpError::Budget { .. }) => {
                HttpError::Budget { done: self.done, total: self.total, spent }.into()
            }
            error => error,
        }
    }

    pub(super) fn finish(self) -> Result<Vec<Verdicts>> {
        let unfinished = Error::Cancelled { done: self.done, total: self.total };
        let all = self.verdicts.into_iter().map(|row| row.into_iter().collect::<Option<Verdicts>>());
        all.collect::<Option<Vec<_>>>().ok_or(unfinished)
    }
}
