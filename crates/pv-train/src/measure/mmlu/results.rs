//! The results of MMLU.

use std::collections::BTreeMap;
use std::path::Path;

use pv_data::tables::{CsvTable, pretty_json};
use pv_model::ModelIdentity;
use pv_statistics::proportion::mean_proportion;
use pv_statistics::{Interval, Proportion};
use serde::{Deserialize, Serialize};

use super::question::Question;
use crate::measure::{Result, read_json};

/// A model's answer to one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Answer {
    /// The question's index among the test questions.
    pub question: usize,
    /// The number of examples before the question.
    pub shots: usize,
    /// The log-probability of each choice after the prompt, in nats.
    pub log_probs: [f64; 4],
}

impl Answer {
    /// The most likely choice, as an index from 0 to 3; of equally likely ones, the first.
    pub fn choice(&self) -> usize {
        (1..4).fold(0, |best, at| if self.log_probs[at] > self.log_probs[best] { at } else { best })
    }
}

/// The results of a subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SubjectResult {
    /// The name of the subject.
    pub subject: String,
    /// The proportion of correct answers.
    pub accuracy: Proportion,
}

/// The results of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MmluResults {
    /// The model.
    pub model: ModelIdentity,
    /// The requested number of examples; questions that are too long have fewer.
    pub shots: usize,
    /// The description of the hook; `None` without a hook.
    pub intervention: Option<String>,
    /// The results per subject, in alphabetical order.
    pub subjects: Vec<SubjectResult>,
    /// The accuracy over all questions, with equal weights.
    pub micro: Proportion,
    /// The mean of the subjects' accuracies, with equal weights, 0 to 1.
    pub macro_average: f64,
    /// Its 95 % interval, computed from the subjects' Wilson intervals: the distances of their ends from the accuracies
    /// are combined like independent errors, by the root of the sum of squares (Zou and Donner, Statistics in Medicine
    /// 2008).
    pub macro_interval: Interval,
    /// All answers.
    pub answers: Vec<Answer>,
}

impl MmluResults {
    /// Computes the results from the answers to all questions; `None` if there are no questions.
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
        let accuracies: Vec<Proportion> = subjects.iter().map(|found| found.accuracy).collect();
        let (macro_average, macro_interval) = mean_proportion(&accuracies)?;
        Some(Self { model, shots, intervention, subjects, micro, macro_average, macro_interval, answers })
    }

    /// The results as JSON.
    pub fn to_json(&self) -> String {
        pretty_json(self)
    }

    /// The results as CSV: a row per subject, then those of all questions ("micro") and of the mean over subjects
    /// ("macro").
    ///
    /// # Errors
    /// None, except if memory runs out.
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

    /// Loads a run's `results.json`.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read), [`MeasureError::Json`](crate::measure::MeasureError::Json).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        read_json(path.as_ref())
    }
}
