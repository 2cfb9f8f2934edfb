//! The one interface of all judges.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::{Error, Result, Rubric, ScoreMode, Verdict};

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

    /// Told, before a run goes on, how the scores that are there were got; see [`ScoreMode`]. A judge that can get them in
    /// several ways keeps to that one. The others ignore it.
    ///
    /// # Errors
    /// [`Error::OtherMode`](crate::Error::OtherMode) from a judge that cannot: its scores must not be mixed with those.
    fn keep_to(&self, mode: ScoreMode) -> Result<()> {
        let _ = mode;
        Ok(())
    }

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

/// Has answers judged, and hands over each verdict once, with the indices of its answer and rubric: as it is reported, or at
/// the end where the judge did not report it. The first error of `keep` breaks the judging off and is returned; verdicts that
/// the judge gives nevertheless are handed over all the same.
///
/// `saved` says for each rubric how the scores were got that are there already, where there are any; it may be shorter. Scores of
/// another mode are not mixed with those.
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
    saved.iter().flatten().collect::<BTreeSet<_>>().into_iter().try_for_each(|mode| judge.keep_to(*mode))?;
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
                tracing::warn!(judge = judge.name(), %given, %before, "a judge gives scores of two modes");
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

    /// Reports every other verdict, one of them twice and one of no answer, and returns all; or breaks off where it is told to,
    /// unless it is stubborn.
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

    /// What is handed over, and the outcome, when `keep` fails from so many verdicts on.
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
        // Among those that were not reported on the way.
        assert_eq!(handed(&Sloppy { stubborn: false }, 5), (vec![0, 2, 4, 1, 3, 5], Err(Failure::Keep(5))));
    }

    /// Scores that were got otherwise are not mixed with the judge's.
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
