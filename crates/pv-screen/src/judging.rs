//! A judge's verdicts on a data set's samples, kept as they are reached.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::{Journal, RunFolder, sha256};
use pv_judge::{Answered, Judge, Rubric, Verdict, VerdictCounts, judge_each};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Error, Result};

const FORMAT: &str = "pv-judging/1";
const HEADER: &str = "judging.json";
const VERDICTS: &str = "verdicts.jsonl";

/// A sample that a judge is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgeSample<'a> {
    /// What identifies it wherever it stands, such as a [`ScoreRow`](crate::ScoreRow)'s.
    pub id: &'a str,
    /// What was asked.
    pub question: &'a str,
    /// What was answered.
    pub answer: &'a str,
}

impl JudgeSample<'_> {
    /// What tells its texts from others.
    fn texts(&self) -> String {
        let length = (self.question.len() as u64).to_le_bytes();
        let mut hash = sha256([&length, self.question.as_bytes(), self.answer.as_bytes()].concat());
        hash.truncate(32);
        hash
    }
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    id: String,
    texts: String,
    verdict: Verdict,
}

#[derive(Debug)]
struct Known {
    texts: String,
    verdict: Verdict,
}

/// A judge's verdicts on samples by a rubric, in a folder: `judging.json` (who judges by what) and `verdicts.jsonl` (a line per
/// sample, as soon as its verdict is reached).
///
/// Judging that was broken off or killed, at any moment, goes on where it was: a sample that has its verdict is never asked about
/// again, whatever the verdict. That the judge gave no score is a verdict too. What keeps a judge from giving one, such as a
/// server that cannot be reached, is an error, after which the sample is asked about the next time.
///
/// A local judge reads several samples in one pass: its scores may differ in their last digits with the samples that were still
/// missing.
pub struct Judging<'a> {
    judge: &'a dyn Judge,
    rubric: Rubric,
    chunk: usize,
    folder: RunFolder,
    journal: Journal,
    /// By the sample's id.
    known: HashMap<String, Known>,
}

impl std::fmt::Debug for Judging<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judging")
            .field("judge", &self.judge.name())
            .field("rubric", &self.rubric.name)
            .field("known", &self.known.len())
            .finish_non_exhaustive()
    }
}

impl<'a> Judging<'a> {
    /// So many samples are given to the judge at a time, where nothing else is said.
    pub const CHUNK: usize = 64;

    /// Opens a folder, and locks it until this is dropped.
    ///
    /// # Errors
    /// A folder that is in use, that cannot be written, or whose verdicts are another judge's (by its name) or by another rubric
    /// ([`RunError::OtherRun`](pv_data::RunError::OtherRun), which says which).
    pub fn open(folder: &Path, judge: &'a dyn Judge, rubric: &Rubric) -> Result<Self> {
        let folder = RunFolder::lock(folder)?;
        folder.claim(
            HEADER,
            &json!({
                "format": FORMAT, "judge": judge.name(),
                "rubric": { "name": rubric.name, "template_sha256": sha256(&rubric.template) },
            }),
        )?;
        let mut known = HashMap::new();
        let journal = Journal::open_json(&folder, VERDICTS, |line: Line| {
            let fresh = !known.contains_key(&line.id);
            if fresh {
                known.insert(line.id, Known { texts: line.texts, verdict: line.verdict });
            }
            fresh
        })?;
        Ok(Self { judge, rubric: rubric.clone(), chunk: Self::CHUNK, folder, journal, known })
    }

    /// Sets how many samples are given to the judge at a time.
    ///
    /// # Errors
    /// [`Error::BadSetting`] for none.
    pub fn with_chunk(self, chunk: usize) -> Result<Self> {
        match chunk {
            0 => Err(Error::bad("judging of no samples at a time")),
            _ => Ok(Self { chunk, ..self }),
        }
    }

    /// How many samples have their verdict.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The verdict on a sample, where there is one.
    pub fn verdict(&self, id: &str) -> Option<&Verdict> {
        self.known.get(id).map(|known| &known.verdict)
    }

    /// How the verdicts were got: the scores by their mode, the abstentions by their kind.
    pub fn verdict_counts(&self) -> VerdictCounts {
        self.known.values().map(|known| &known.verdict).collect()
    }

    /// The verdicts on samples, in their order; the judge is asked for those that are missing, once for each id.
    /// [`JudgedSamples::of`](crate::JudgedSamples::of) says which samples they are on the two sides of a score.
    ///
    /// After each verdict `on_progress` is told how many of the distinct samples have theirs, and how many there are; it may
    /// break off.
    ///
    /// # Errors
    /// [`Error::OtherTexts`] for an id with two questions or answers, before the judge is asked anything; those of the judge; [`Error::Cancelled`]; a file that cannot be written;
    /// [`pv_vectors::Error::IncompleteRun`] when the judge leaves verdicts out. Whatever the error, verdicts that were
    /// reported before are kept.
    pub fn run(
        &mut self,
        samples: &[JudgeSample<'_>],
        mut on_progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<Verdict>> {
        let mut distinct: HashMap<&str, String> = HashMap::new();
        let mut missing = Vec::new();
        for (at, sample) in samples.iter().enumerate() {
            let texts = sample.texts();
            let kept = self.known.get(sample.id);
            if kept.map(|known| &known.texts).or(distinct.get(sample.id)).is_some_and(|known| *known != texts) {
                return Err(Error::OtherTexts { id: sample.id.to_owned() });
            }
            if distinct.insert(sample.id, texts).is_none() && kept.is_none() {
                missing.push(at);
            }
        }
        let total = distinct.len();
        let mut done = total - missing.len();
        for chunk in missing.chunks(self.chunk) {
            self.ask(samples, chunk, &mut || {
                done += 1;
                on_progress(done, total)
            })?;
        }
        if done < total {
            let (path, what) = (self.folder.path().to_owned(), format!("verdicts of {}", self.judge.name()));
            return Err(pv_vectors::Error::IncompleteRun { path, what, done, total }.into());
        }
        Ok(samples.iter().filter_map(|sample| self.verdict(sample.id).cloned()).collect())
    }

    /// Asks about samples that have no verdict, each with an id of its own.
    fn ask(
        &mut self,
        samples: &[JudgeSample<'_>],
        chunk: &[usize],
        on_verdict: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<()> {
        let saved = [self.verdict_counts().mode()];
        let Self { judge, rubric, journal, known, .. } = self;
        let answered = chunk.iter().map(|&at| Answered { question: samples[at].question, answer: samples[at].answer });
        let answered: Vec<Answered<'_>> = answered.collect();
        let outcome = judge_each(*judge, std::slice::from_ref(rubric), &answered, &saved, |answer, _, verdict| {
            let sample = &samples[chunk[answer]];
            let line = Line { id: sample.id.to_owned(), texts: sample.texts(), verdict };
            let Line { id, texts, verdict } = journal.append_json(&line)?;
            known.insert(id, Known { texts, verdict });
            match on_verdict() {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(Error::Cancelled),
            }
        });
        journal.sync()?;
        outcome
    }
}
