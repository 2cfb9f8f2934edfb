//! Asks the questions.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::runs::through_text;
use pv_data::{Journal, RunFolder};
use pv_hooks::Hook;
use pv_model::ModelIdentity;
use pv_model::{CausalLm, Continuations, ScoreOptions, ScoredContinuations};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::prompt::{Encoded, common, encode};
use super::question::{Question, QuestionSet};
use super::results::{Answer, MmluResults};
use crate::measure::{MeasureError, Result, check_said};

const FORMAT: &str = "pv-mmlu/1";
const RUN: &str = "run.json";
const JOURNAL: &str = "answers.jsonl";
const RESULTS: &str = "results.json";

/// How questions are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmluOptions {
    /// How many examples stand before a question.
    pub shots: usize,
    /// What the hook of [`Mmlu::run`] does, in any words; `None` when there is none. A run's folder does not go on under
    /// another.
    pub intervention: Option<String>,
}

impl Default for MmluOptions {
    /// Five examples, as in the original.
    fn default() -> Self {
        Self { shots: 5, intervention: None }
    }
}

/// Questions of a subject with as many examples, whose prompts share a beginning.
struct Group {
    beginning: Vec<u32>,
    /// The question's index, the rest of its prompt, its choices.
    rest: Vec<(usize, Vec<u32>, Vec<Vec<u32>>)>,
    shots: usize,
}

/// MMLU on one model.
///
/// A run lives in a folder: `run.json` (what it is), `answers.jsonl` (a line per question, as they are answered) and at the
/// end `results.json`. One that was broken off or killed goes on where it was and ends with the same files.
///
/// What the prompts of a subject begin with, examples above all, is read once; then every question by itself, so that no
/// answer depends on another's in its last bits.
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
    /// Encodes all questions, and refuses those that cannot be asked.
    ///
    /// # Errors
    /// No questions, a subject with fewer examples than were asked for, a model without tokenizer,
    /// [`MeasureError::BadQuestion`] for a question that is too long without any example, or whose choices the tokenizer does
    /// not tell apart.
    pub fn new(model: &'a CausalLm, set: &QuestionSet, options: &MmluOptions) -> Result<Self> {
        if set.test.is_empty() {
            return Err(MeasureError::bad("there is no question"));
        }
        let mut groups = BTreeMap::<(&str, usize), Vec<(usize, Encoded)>>::new();
        for (index, question) in set.test.iter().enumerate() {
            let subject = question.subject.as_str();
            let examples = set.dev.iter().filter(|example| example.subject == subject).take(options.shots);
            let examples: Vec<&Question> = examples.collect();
            if examples.len() < options.shots {
                let (found, asked) = (examples.len(), options.shots);
                let reason = format!("the subject {subject:?} has {found} dev questions; {asked} are to be shown");
                return Err(MeasureError::BadSetting { reason });
            }
            let bad = |reason| MeasureError::BadQuestion { subject: subject.to_owned(), index, reason };
            let choices = question.answer < question.choices.len();
            let encoded = choices.then(|| encode(model, question, &examples)).transpose()?;
            let encoded = encoded.unwrap_or_else(|| Err("its answer is none of its choices".to_owned()));
            let encoded = encoded.map_err(bad)?;
            groups.entry((subject, encoded.shots)).or_default().push((index, encoded));
        }
        let groups = groups.into_iter().map(|((_, shots), encoded)| group(shots, encoded)).collect();
        let hash = hex::encode(Sha256::digest(serde_json::to_vec(set).unwrap_or_default()));
        let (measured, questions) = (model.identity()?, set.test.clone());
        Ok(Self { model, options: options.clone(), questions, groups, measured, hash })
    }

    /// Runs in a folder, or goes on with the run that is there. `on_answer` hears how many questions of how many are
    /// answered, and may break off.
    ///
    /// `hook` acts while prompts and choices are read, [`NoHook`](pv_hooks::NoHook) for none. The shared beginning is read
    /// in a pass of its own that stands for all questions.
    ///
    /// # Errors
    /// A hook of which [`MmluOptions::intervention`] does not say what it does, or one that does not fit; a folder that is
    /// in use, or that holds another run (of another model or other questions); [`MeasureError::Cancelled`]. Whatever the
    /// error, what had been done is kept.
    pub fn run(
        &self,
        folder: impl AsRef<Path>,
        hook: &mut (impl Hook + ?Sized),
        mut on_answer: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<MmluResults> {
        check_said(hook, self.options.intervention.as_deref())?;
        let folder = RunFolder::lock(folder.as_ref())?;
        folder.claim(RUN, &self.header())?;
        let total = self.questions.len();
        let mut answers = BTreeMap::<usize, Answer>::new();
        let mut journal = Journal::open_json(&folder, JOURNAL, |line: Answer| {
            let fresh = line.question < total && !answers.contains_key(&line.question);
            fresh && answers.insert(line.question, line).is_none()
        })?;
        // By one token, no two prompts are read in the same pass.
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
        let results = results.ok_or_else(|| MeasureError::bad("there is no question"))?;
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

/// Parts prompts into what all of them begin with and the rest, of which at least a token is left.
fn group(shots: usize, encoded: Vec<(usize, Encoded)>) -> Group {
    let first = encoded.first().map_or(&[][..], |(_, encoded)| encoded.context.as_slice());
    let shared =
        |(_, encoded): &(usize, Encoded)| common(first, &encoded.context).min(encoded.context.len().saturating_sub(1));
    let shared = encoded.iter().map(shared).min().unwrap_or(0);
    let beginning = first[..shared].to_vec();
    let rest = encoded.into_iter().map(|(index, e)| (index, e.context[shared..].to_vec(), e.choices)).collect();
    Group { beginning, rest, shots }
}
