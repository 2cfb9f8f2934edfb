//! The one interface of all judges.

use std::ops::ControlFlow;

use crate::{Result, Rubric, Verdict};

/// A question and the answer to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answered<'a> {
    /// What was asked.
    pub question: &'a str,
    /// What was answered.
    pub answer: &'a str,
}

/// A verdict that has just been reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The index of the answer.
    pub answer: usize,
    /// The index of the rubric.
    pub rubric: usize,
    /// The verdict.
    pub verdict: Verdict,
    /// How many verdicts there are by now.
    pub done: usize,
    /// How many there will be.
    pub total: usize,
}

/// The verdicts on one answer, one per rubric, in the order of the rubrics.
pub type Verdicts = Vec<Verdict>;

/// Scores answers by rubrics.
///
/// A judge is a value that knows everything it needs (a client, a model, a rule). Judging blocks the calling thread, and
/// may be done inside or outside of an asynchronous runtime.
pub trait Judge {
    /// Who judges, for files that hold its scores: "gpt-4.1-mini at api.openai.com", "the organism's exact judge".
    fn name(&self) -> String;

    /// Judges every answer by every rubric. Verdicts are reported as they are reached, in any order; the caller may break
    /// off, and keeps what was reported.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled) when broken off; what keeps the judge from going on. Verdicts that
    /// were reported before are good.
    fn judge(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
    ) -> Result<Vec<Verdicts>>;
}
