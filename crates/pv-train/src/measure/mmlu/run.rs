//! Runs MMLU on a model.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::runs::through_text;
use pv_data::{Journal, RunFolder};
use pv_hooks::Hook;
use pv_model::continuations::{Continuations, ScoreOptions, ScoredContinuations};
use pv_model::{CausalLm, ModelIdentity};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::prompt::{Encoded, common, encode};
use super::question::{Question, QuestionSet};
use super::results::{Answer, MmluResults};
use crate::measure::{MeasureError, QuestionError, Result, SettingError, check_described};

const FORMAT: &str = "pv-mmlu/1";
const RUN: &str = "run.json";
const JOURNAL: &str = "answers.jsonl";
const RESULTS: &str = "results.json";

/// The options of MMLU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmluOptions {
    /// The number of examples before each question.
    pub shots: usize,
    /// A description, in any format, of the hook of [`Mmlu::run`]; `None` without a hook. A run only resumes with the
    /// same description.
    pub intervention: Option<String>,
}

impl Default for MmluOptions {
    /// Five examples, as in the original.
    fn default() -> Self {
        Self { shots: 5, intervention: None }
    }
}

/// Questions of a subject with the same number of examples, whose prompts have a common prefix.
struct Group {
    beginning: Vec<u32>,
    /// For each question, its index, the rest of its prompt, and its choices.
    rest: Vec<(usize, Vec<u32>, Vec<Vec<u32>>)>,
    shots: usize,
}

/// MMLU on one model.
///
/// A run writes to a folder: `run.json` (its description), `answers.jsonl` (a line per question, as they are answered)
/// and, at the end, `results.json`. A run that was interrupted or killed resumes, and ends with the same files.
///
/// The common prefix of a subject's prompts, which contains the examples, is read once. Then every question is read
/// alone, so that the last bits of an answer do not depend on other questions.
pub struct Mmlu<'a> {
    model: &'a CausalLm,
    options: MmluOptions,
    questions: Vec<Question>,
    groups: Vec<Group>,
    measured: ModelIdentity,
    hash: String,
}

impl std::fmt::Debug for Mmlu<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let questions = self.questions.len();
        f.debug_struct("Mmlu").field("options", &self.options).field("questions", &questions).finish_non_exhaustive()
    }
}

impl<'a> Mmlu<'a> {
    /// Encodes all questions, and refuses those that cannot be used.
    ///
    /// # Errors
    /// No questions, a subject with fewer examples than requested, a model without tokenizer,
    /// [`MeasureError::BadQuestion`] for a question that is too long even without examples, or of which the tokenizer
    /// encodes two choices identically.
    pub fn new(model: &'a CausalLm, set: &QuestionSet, options: &MmluOptions) -> Result<Self> {
        if set.test.is_empty() {
            return Err(SettingError::NoTestQuestions.into());
        }
        let mut groups = BTreeMap::<(&str, usize), Vec<(usize, Encoded)>>::new();
        for (index, question) in set.test.iter().enumerate() {
            let subject = question.subject.as_str();
            let examples = set.dev.iter().filter(|example| example.subject == subject).take(options.shots);
            let examples: Vec<&Question> = examples.collect();
            if examples.len() < options.shots {
                let (subject, found, requested) = (subject.to_owned(), examples.len(), options.shots);
                return Err(SettingError::TooFewExamples { subject, found, requested }.into());
            }
            let bad = |source| MeasureError::BadQuestion { subject: subject.to_owned(), index, source };
            if question.answer >= question.choices.len() {
                return Err(bad(QuestionError::Index { found: question.answer as i64 }));
            }
            let encoded = encode(model, question, &examples)?.map_err(bad)?;
            groups.entry((subject, encoded.shots)).or_default().push((index, encoded));
        }
        let groups = groups.into_iter().map(|((_, shots), encoded)| group(shots, encoded)).collect();
        let hash = hex::encode(Sha256::digest(serde_json::to_vec(set).unwrap_or_default()));
        let (measured, questions) = (model.identity()?, set.test.clone());
        Ok(Self { model, options: options.clone(), questions, groups, measured, hash })
    }

    /// Runs MMLU in a folder, or resumes the run in it. `on_answer` receives the number of answered questions and their
    /// total, and may cancel.
    ///
    /// `hook` acts while prompts and choices are read; use [`NoHook`](pv_hooks::NoHook) for none. The common prefix is
    /// read in a pass of its own, whose result all questions use.
    ///
    /// # Errors
    /// A hook without a description in [`MmluOptions::intervention`], or one that does not fit; a folder that is in use
    /// or contains another run (of another model or other questions); [`MeasureError::Cancelled`]. After any error, the
    /// answers that are done are kept.
    pub fn run(
        &self,
        folder: impl AsRef<Path>,
        hook: &mut (impl Hook + ?Sized),
        mut on_answer: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<MmluResults> {
        check_described(hook, self.options.intervention.as_deref())?;
        let folder = RunFolder::lock(folder.as_ref())?;
        folder.claim(RUN, &self.header())?;
        let total = self.questions.len();
        let mut answers = BTreeMap::<usize, Answer>::new();
        let mut journal = Journal::open_json(&folder, JOURNAL, |line: Answer| {
            let fresh = line.question < total && !answers.contains_key(&line.question);
            fresh && answers.insert(line.question, line).is_none()
        })?;
        // With a limit of one token, no two prompts are read in the same pass.
        let options = ScoreOptions { prefill_tokens: 1, ..ScoreOptions::default() };
        for Group { beginning, rest, shots } in &self.groups {
            let missing: Vec<_> = rest.iter().filter(|(index, ..)| !answers.contains_key(index)).collect();
            let asked = missing.iter().map(|(_, prompt, continuations)| Continuations { prompt, continuations });
            let asked: Vec<Continuations<'_>> = asked.collect();
            let mut failure = None;
            let mut keep = |scored: ScoredContinuations| -> Result<()> {
                let sums: Vec<f64> = scored.log_probs.iter().map(|tokens| tokens.iter().sum()).collect();
                let log_probs = sums.try_into().unwrap_or([f64::NEG_INFINITY; 4]);
                let question = missing[scored.prompt].0;
                let line = journal.append_json(&Answer { question, shots: *shots, log_probs })?;
                answers.insert(question, line);
                if on_answer(answers.len(), total).is_break() { Err(MeasureError::Cancelled) } else { Ok(()) }
            };
            self.model.score_continuations_after(beginning, &asked, &options, hook, |scored| match keep(scored) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            })?;
            if let Some(failure) = failure {
                return Err(failure);
            }
            journal.sync()?;
        }
        journal.sort(|line: &Answer| line.question)?;
        let MmluOptions { shots, intervention } = self.options.clone();
        let answers = answers.into_values().collect();
        let results = MmluResults::new(self.measured.clone(), shots, intervention, &self.questions, answers);
        let results = results.ok_or(SettingError::NoTestQuestions)?;
        folder.write(RESULTS, |file| file.write_all(results.to_json().as_bytes()))?;
        Ok(results)
    }

    fn header(&self) -> Value {
        json!({
            "format": FORMAT,
            "model": through_text(&self.measured),
            "shots": self.options.shots,
            "intervention": self.options.intervention,
            "questions": { "number": self.questions.len(), "sha256": self.hash },
        })
    }
}

/// Splits prompts into their common prefix and the rest, which has at least one token.
fn group(shots: usize, encoded: Vec<(usize, Encoded)>) -> Group {
    let first = encoded.first().map_or(&[][..], |(_, encoded)| encoded.context.as_slice());
    let shared =
        |(_, encoded): &(usize, Encoded)| common(first, &encoded.context).min(encoded.context.len().saturating_sub(1));
    let shared = encoded.iter().map(shared).min().unwrap_or(0);
    let beginning = first[..shared].to_vec();
    let rest = encoded.into_iter().map(|(index, e)| (index, e.context[shared..].to_vec(), e.choices)).collect();
    Group { beginning, rest, shots }
}
