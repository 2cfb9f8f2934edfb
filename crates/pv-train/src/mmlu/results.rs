//! What a model knows.

use std::collections::BTreeMap;
use std::path::Path;

use pv_model::ModelIdentity;
use pv_vectors::{CsvTable, Interval, pretty_json};
use serde::{Deserialize, Serialize};

use super::question::Question;
use crate::measure::{Proportion, Result, read_json};

/// What a model chose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The question's index among the test questions.
    pub question: usize,
    /// How many examples stood before it.
    pub shots: usize,
    /// The log-probability of each choice after the prompt, in nats.
    pub log_probs: [f64; 4],
}

impl Answer {
    /// The likeliest choice; of equals, the first.
    pub fn choice(&self) -> usize {
        (1..4).fold(0, |best, at| if self.log_probs[at] > self.log_probs[best] { at } else { best })
    }
}

/// A subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubjectResult {
    /// Its name.
    pub subject: String,
    /// How many of its questions were answered rightly.
    pub accuracy: Proportion,
}

/// The results of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MmluResults {
    /// The model.
    pub model: ModelIdentity,
    /// How many examples were asked for; questions that are too long got fewer.
    pub shots: usize,
    /// What the hook did.
    pub intervention: Option<String>,
    /// The subjects, in alphabetical order.
    pub subjects: Vec<SubjectResult>,
    /// Over all questions, each counting the same.
    pub micro: Proportion,
    /// Over subjects, each counting the same.
    pub macro_average: f64,
    /// Its 95 % interval, from the subjects' Wilson intervals: the distances of their ends are added as independent errors
    /// are, by squares (Zou and Donner, Statistics in Medicine 2008).
    pub macro_interval: Interval,
    /// Every answer.
    pub answers: Vec<Answer>,
}

impl MmluResults {
    /// From the answers to all questions; `None` where there is no question.
    pub(super) fn new(
        model: ModelIdentity,
        shots: usize,
        intervention: Option<String>,
        questions: &[Question],
        answers: Vec<Answer>,
    ) -> Option<Self> {
        let mut counts = BTreeMap::<&str, (usize, usize)>::new();
        for answer in &answers {
            let question = &questions[answer.question];
            let (right, all) = counts.entry(&question.subject).or_default();
            *right += usize::from(answer.choice() == question.answer);
            *all += 1;
        }
        let subject = |(name, (right, all)): (&&str, &(usize, usize))| {
            Some(SubjectResult { subject: (*name).to_owned(), accuracy: Proportion::new(*right, *all)? })
        };
        let subjects: Vec<SubjectResult> = counts.iter().filter_map(subject).collect();
        let right = counts.values().map(|(right, _)| right).sum();
        let micro = Proportion::new(right, answers.len())?;
        let n = subjects.len() as f64;
        let over = |value: &dyn Fn(&Proportion) -> f64| subjects.iter().map(|s| value(&s.accuracy)).sum::<f64>();
        let macro_average = over(&|p| p.value) / n;
        let below = over(&|p| (p.value - p.low).powi(2)).sqrt() / n;
        let above = over(&|p| (p.high - p.value).powi(2)).sqrt() / n;
        let macro_interval = Interval { low: (macro_average - below).max(0.0), high: (macro_average + above).min(1.0) };
        Some(Self { model, shots, intervention, subjects, micro, macro_average, macro_interval, answers })
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        pretty_json(self)
    }

    /// A row per subject, then those of all questions ("micro") and of the mean over subjects ("macro").
    ///
    /// # Errors
    /// None that memory does not give.
    pub fn to_csv(&self) -> Result<String> {
        let mut csv = CsvTable::default();
        csv.fields(["model", "subject", "correct", "questions", "accuracy", "low", "high"]).end();
        let rows = self.subjects.iter().map(|found| (found.subject.as_str(), &found.accuracy));
        for (name, accuracy) in rows.chain([("micro", &self.micro)]) {
            let Proportion { successes, trials, value, low, high } = *accuracy;
            csv.fields([self.model.name.as_str(), name]).fields([successes, trials]);
            csv.fields([value, low, high]).end();
        }
        let Interval { low, high } = self.macro_interval;
        csv.fields([self.model.name.as_str(), "macro"]).fields([self.micro.successes, self.micro.trials]);
        csv.fields([self.macro_average, low, high]).end();
        Ok(csv.finish()?)
    }

    /// Reads a run's `results.json`.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read), [`MeasureError::Json`](crate::MeasureError::Json).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        read_json(path.as_ref())
    }
}
