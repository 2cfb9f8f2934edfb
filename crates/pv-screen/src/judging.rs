//! A judge's verdicts on a data set's samples, stored as they are reached.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::files::sha256;
use pv_data::{Journal, RunFolder};
use pv_judge::judge::{Answered, judge_each};
use pv_judge::score::VerdictCounts;
use pv_judge::{Judge, Rubric, Verdict};
use pv_vectors::error::RunPart;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::SettingError;
use crate::{Error, Result};

const FORMAT: &str = "pv-judging/1";
const HEADER: &str = "judging.json";
const VERDICTS: &str = "verdicts.jsonl";

/// A sample to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgeSample<'a> {
    /// A unique id that does not depend on the place, such as that of a [`ScoreRow`](crate::scores::ScoreRow).
    pub id: &'a str,
    /// The question.
    pub question: &'a str,
    /// The answer.
    pub answer: &'a str,
}

impl JudgeSample<'_> {
    /// A hash of question and answer.
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

/// A judge's verdicts on samples by a rubric, in a folder: `judging.json` (the judge and the rubric) and
/// `verdicts.jsonl` (a line per sample, written as soon as its verdict is reached).
///
/// A judging that was interrupted or killed at any time resumes: a sample with a verdict is never judged again,
/// whatever the verdict, and an abstention is a verdict too. If the judge cannot give a verdict, for example because a
/// server is unreachable, that is an error, and the sample is judged again next time.
///
/// A local judge reads several samples in one pass: the last digits of its scores may depend on which samples were
/// still missing.
/// missing.
pub struct Judging<'a> {
    judge: &'a dyn Judge,
    rubric: Rubric,
    chunk: usize,
    folder: RunFolder,
    journal: Journal,
    /// The verdicts, by the sample's id.
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
    /// The default number of samples that are passed to the judge at a time.
    pub const CHUNK: usize = 64;

    /// Opens a folder, and locks it until the value is dropped.
    ///
    /// # Errors
    /// A folder that is in use, that cannot be written, or whose verdicts are by another judge (by its name) or another
    /// rubric ([`RunError::OtherRun`](pv_data::RunError::OtherRun), which names the difference).
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

    /// Sets the number of samples that are passed to the judge at a time.
    ///
    /// # Errors
    /// [`SettingError::Zero`] for 0.
    pub fn with_chunk(self, chunk: usize) -> Result<Self> {
        match chunk {
            0 => Err(SettingError::Zero { name: "chunk" }.into()),
            _ => Ok(Self { chunk, ..self }),
        }
    }

    /// The number of samples with a verdict.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no sample has a verdict.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The verdict on a sample, if there is one.
    pub fn verdict(&self, id: &str) -> Option<&Verdict> {
        self.known.get(id).map(|known| &known.verdict)
    }

    /// The counts of the verdicts: scores by their mode, abstentions by their kind.
    pub fn verdict_counts(&self) -> VerdictCounts {
        self.known.values().map(|known| &known.verdict).collect()
    }

    /// The verdicts on samples, in their order. The missing ones are requested from the judge, once per id.
    /// [`JudgedSamples::of`](crate::select::JudgedSamples::of) splits the samples by a score.
    ///
    /// After each verdict, `on_progress` receives the number of distinct samples with a verdict and their total; it may
    /// cancel.
    ///
    /// # Errors
    /// [`Error::OtherTexts`] for an id with two questions or answers, before any request to the judge; those of the
    /// judge; [`Error::Cancelled`]; a file that cannot be written; [`pv_vectors::Error::IncompleteRun`] if the judge
    /// omits verdicts. After any error, the verdicts that were reported before are kept.
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
            let (path, part) = (self.folder.path().to_owned(), RunPart::VerdictsOf { judge: self.judge.name() });
            return Err(pv_vectors::Error::IncompleteRun { path, part, done, total }.into());
        }
        Ok(samples.iter().filter_map(|sample| self.verdict(sample.id).cloned()).collect())
    }

    /// Judges samples that have no verdict, with distinct ids.
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
