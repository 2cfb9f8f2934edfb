//! A judge for tests.

use std::cell::Cell;
use std::ops::ControlFlow;

use pv_judge::judge::{Answered, Judged, Verdicts};
use pv_judge::{Error, Judge, Result, Rubric, Verdict};

/// A judge by a rule from rubric and answer to a verdict. It judges the last answer first.
pub struct RuleJudge<F> {
    /// The judge's name.
    pub name: &'static str,
    /// Whether verdicts are reported one by one, or only returned.
    pub reports: bool,
    /// The number of verdicts so far.
    pub asked: Cell<usize>,
    /// The rule.
    pub rule: F,
}

impl<F: Fn(&Rubric, &Answered<'_>) -> Verdict> RuleJudge<F> {
    /// A judge that reports its verdicts one by one.
    pub fn new(name: &'static str, rule: F) -> Self {
        Self { name, reports: true, asked: Cell::new(0), rule }
    }
}

impl<F: Fn(&Rubric, &Answered<'_>) -> Verdict> Judge for RuleJudge<F> {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn judge(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
    ) -> Result<Vec<Verdicts>> {
        let total = rubrics.len() * answers.len();
        let mut done = 0;
        let mut all = vec![Vec::new(); answers.len()];
        for (answer, answered) in answers.iter().enumerate().rev() {
            for (rubric, asked) in rubrics.iter().enumerate() {
                self.asked.set(self.asked.get() + 1);
                done += 1;
                let verdict = (self.rule)(asked, answered);
                all[answer].push(verdict.clone());
                if self.reports && on_verdict(Judged { answer, rubric, verdict, done, total }).is_break() {
                    return Err(Error::Cancelled { done, total });
                }
            }
        }
        Ok(all)
    }
}
