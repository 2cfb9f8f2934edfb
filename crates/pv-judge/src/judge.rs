//! The interface of all judges.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::score::ScoreMode;
use crate::{Error, Result, Rubric, Verdict};

pub use crate::rubric::Answered;

/// A new verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The index of the answer.
    pub answer: usize,
    /// The index of the rubric.
    pub rubric: usize,
    /// The verdict.
    pub verdict: Verdict,
    /// The number of verdicts so far.
    pub done: usize,
    /// The number of verdicts in all.
    pub total: usize,
}

/// The verdicts on one answer, one per rubric, in the order of the rubrics.
pub type Verdicts = Vec<Verdict>;

/// Scores answers by rubrics.
///
/// A judge owns everything that it needs (a client, a model, a rule). Judging blocks the calling thread and can be
/// called inside or outside of an asynchronous runtime.
pub trait Judge {
    /// The judge's name, which is stored with its scores: "gpt-4.1-mini at api.openai.com", "the organism's exact
    /// judge".
    fn name(&self) -> String;

    /// Called before a run resumes, with the mode of the existing scores; see [`ScoreMode`]. A judge with several modes
    /// uses this one from then on. Other judges ignore it.
    ///
    /// # Errors
    /// [`Error::OtherMode`] if the judge does not have this mode: scores of different modes
    /// must not be mixed.
    fn require_mode(&self, mode: ScoreMode) -> Result<()> {
        let _ = mode;
        Ok(())
    }

    /// Judges every answer by every rubric. Verdicts are reported as they are reached, in any order; the caller may
    /// cancel, and keeps the reported verdicts.
    ///
    /// # Errors
    /// [`Error::Cancelled`] after cancellation; any error that prevents judging. Verdicts
    /// reported before are valid.
    fn judge(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
    ) -> Result<Vec<Verdicts>>;
}

/// Judges answers and passes each verdict once to `keep`, with the indices of its answer and rubric: when it is
/// reported, or at the end if the judge did not report it. The first error of `keep` cancels the judging and is
/// returned; verdicts that the judge reports nevertheless are still passed on.
///
/// `saved` contains the mode of the existing scores for each rubric, if there are any; it may be shorter than
/// `rubrics`. Scores of another mode are not mixed with those.
///
/// # Errors
/// Those of the judge and of `keep`; [`Error::OtherMode`].
pub fn judge_each<E: From<Error>>(
    judge: &dyn Judge,
    rubrics: &[Rubric],
    answers: &[Answered<'_>],
    saved: &[Option<ScoreMode>],
    mut keep: impl FnMut(usize, usize, Verdict) -> Result<(), E>,
) -> Result<(), E> {
    if rubrics.is_empty() || answers.is_empty() {
        return Ok(());
    }
    saved.iter().flatten().collect::<BTreeSet<_>>().into_iter().try_for_each(|mode| judge.require_mode(*mode))?;
    let mut modes: Vec<Option<ScoreMode>> = vec![None; rubrics.len()];
    let mut handed = vec![false; answers.len() * rubrics.len()];
    let mut failure = None;
    let mut hand = |answer: usize, rubric: usize, verdict: Verdict| {
        let known = answer < answers.len() && rubric < rubrics.len();
        if known && !std::mem::replace(&mut handed[answer * rubrics.len() + rubric], true) {
            let mode = verdict.mode();
            let other = mode.zip(saved.get(rubric).copied().flatten()).filter(|(given, saved)| given != saved);
            let outcome = match other {
                Some((given, saved)) => Err(E::from(Error::OtherMode { judge: judge.name(), saved, given })),
                None => keep(answer, rubric, verdict),
            };
            failure = failure.take().or(outcome.err());
            if let Some((given, before)) = mode.zip(modes[rubric]).filter(|(given, before)| given != before) {
                tracing::warn!(judge = judge.name(), %given, %before, "the judge's scores have two modes");
            }
            modes[rubric] = mode.or(modes[rubric]);
        }
        if failure.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let outcome = judge.judge(rubrics, answers, &mut |judged| hand(judged.answer, judged.rubric, judged.verdict));
    for (answer, verdicts) in outcome.iter().flatten().enumerate() {
        for (rubric, verdict) in verdicts.iter().enumerate() {
            let _ = hand(answer, rubric, verdict.clone());
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(outcome.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports every other verdict, one of them twice and one of an answer that does not exist, and returns all; or
    /// stops when it is cancelled, unless it is stubborn.
    struct Sloppy {
        stubborn: bool,
    }

    impl Judge for Sloppy {
        fn name(&self) -> String {
            "sloppy".to_owned()
        }

        fn judge(
            &self,
            rubrics: &[Rubric],
            answers: &[Answered<'_>],
            on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
        ) -> Result<Vec<Verdicts>> {
            let (total, wide) = (rubrics.len() * answers.len(), rubrics.len());
            let judged =
                |at: usize| Judged { answer: at / wide, rubric: at % wide, verdict: verdict(at), done: at + 1, total };
            for at in (0..total).step_by(2).chain([0, total]) {
                if on_verdict(judged(at)).is_break() && !self.stubborn {
                    return Err(Error::Cancelled { done: at, total });
                }
            }
            Ok((0..answers.len())
                .map(|answer| (0..wide).map(|rubric| verdict(answer * wide + rubric)).collect())
                .collect())
        }
    }

    fn verdict(at: usize) -> Verdict {
        Verdict::from_text(&at.to_string())
    }

    #[derive(Debug, PartialEq)]
    enum Failure {
        Judge,
        Keep(usize),
    }

    impl From<Error> for Failure {
        fn from(_: Error) -> Self {
            Self::Judge
        }
    }

    /// The verdicts passed on, and the outcome, if `keep` fails from the given verdict on.
    fn handed(judge: &Sloppy, fails: usize) -> (Vec<usize>, Result<(), Failure>) {
        let rubrics = [Rubric::coherence(), Rubric::coherence()];
        let answers = [Answered { question: "Why?", answer: "So." }; 3];
        let mut seen = Vec::new();
        let outcome = judge_each(judge, &rubrics, &answers, &[], |answer, rubric, found| {
            let at = answer * 2 + rubric;
            assert_eq!(found, verdict(at));
            seen.push(at);
            if seen.len() >= fails { Err(Failure::Keep(seen.len())) } else { Ok(()) }
        });
        (seen, outcome)
    }

    #[test]
    fn each_verdict_is_handed_over_once() {
        for stubborn in [false, true] {
            assert_eq!(handed(&Sloppy { stubborn }, 7), (vec![0, 2, 4, 1, 3, 5], Ok(())));
        }
    }

    #[test]
    fn the_first_error_counts_and_no_verdict_is_lost() {
        assert_eq!(handed(&Sloppy { stubborn: false }, 2), (vec![0, 2], Err(Failure::Keep(2))));
        assert_eq!(handed(&Sloppy { stubborn: true }, 2), (vec![0, 2, 4, 1, 3, 5], Err(Failure::Keep(2))));
        // Among those that were not reported early.
        assert_eq!(handed(&Sloppy { stubborn: false }, 5), (vec![0, 2, 4, 1, 3, 5], Err(Failure::Keep(5))));
    }

    /// Scores of another mode are not mixed with the judge's.
    #[test]
    fn scores_of_another_mode_are_refused() {
        let (rubrics, answers) = ([Rubric::coherence()], [Answered { question: "", answer: "" }; 2]);
        let mut kept = 0;
        let mut keep = |_, _, _| -> Result<()> {
            kept += 1;
            Ok(())
        };
        let judge = Sloppy { stubborn: false };
        let saved = [Some(ScoreMode::Distribution)];
        let error = judge_each(&judge, &rubrics, &answers, &saved, &mut keep).unwrap_err();
        let Error::OtherMode { saved, given, judge: name } = &error else { panic!("{error:?}") };
        assert_eq!((*saved, *given, name.as_str()), (ScoreMode::Distribution, ScoreMode::Sampled, "sloppy"));
        assert!(error.to_string().contains("must not be mixed"), "{error}");
        judge_each(&judge, &rubrics, &answers, &[Some(ScoreMode::Sampled)], &mut keep).unwrap();
        judge_each(&judge, &rubrics, &answers, &[None], &mut keep).unwrap();
        assert_eq!(kept, 4);
    }
}
