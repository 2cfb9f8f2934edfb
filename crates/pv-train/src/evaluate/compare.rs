//! Several evaluations side by side.

use pv_steer::{AnswerScores, Estimate};
use pv_vectors::{CsvTable, pretty_json};
use serde::{Deserialize, Serialize};

use super::results::{EvaluationResults, TraitResult};
use crate::measure::{BootstrapOptions, Change, MeasureError, Result};

/// A trait under one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparisonRow {
    /// The trait's name.
    pub trait_name: String,
    /// What the model is called in the comparison.
    pub model: String,
    /// The trait's expression.
    pub expression: Estimate,
    /// The coherence.
    pub coherence: Estimate,
    /// How much the expression differs from that of the first model, over the questions that both have scored answers to;
    /// `None` for the first model and without such questions.
    pub expression_change: Option<Change>,
    /// The same for the coherence.
    pub coherence_change: Option<Change>,
}

/// Evaluations of several models on the same questions: before and after finetuning, with and without a countermeasure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Who judged all of them.
    pub judge: String,
    /// What the models are called; changes are from the first.
    pub models: Vec<String>,
    /// How the intervals of changes were resampled.
    pub bootstrap: BootstrapOptions,
    /// For each trait a row per model.
    pub rows: Vec<ComparisonRow>,
}

impl Comparison {
    /// Of named evaluations, which may differ in model, system prompt and intervention.
    ///
    /// # Errors
    /// None to compare, a name that is there twice, [`MeasureError::Mismatch`] for another judge, other traits, questions,
    /// rubrics, seeds or ways of sampling; bad bootstrap options.
    pub fn new(evaluations: &[(String, EvaluationResults)], bootstrap: &BootstrapOptions) -> Result<Self> {
        let Some((_, first)) = evaluations.first() else {
            return Err(MeasureError::bad("there is no evaluation to compare"));
        };
        let models: Vec<String> = evaluations.iter().map(|(name, _)| name.clone()).collect();
        if let Some(twice) = (1..models.len()).find(|&at| models[..at].contains(&models[at])) {
            return Err(MeasureError::bad(format!("two evaluations are called {:?}", models[twice])));
        }
        for (_, other) in &evaluations[1..] {
            check_alike(first, other)?;
        }
        let mut rows = Vec::new();
        for (which, base) in first.traits.iter().enumerate() {
            for (at, (name, results)) in evaluations.iter().enumerate() {
                let found = &results.traits[which];
                let change = |score: fn(&AnswerScores) -> Option<f64>| match at {
                    0 => Ok(None),
                    _ => Change::of(&pairs(base, found, score), bootstrap),
                };
                rows.push(ComparisonRow {
                    trait_name: found.trait_name.clone(),
                    model: name.clone(),
                    expression: found.expression,
                    coherence: found.coherence,
                    expression_change: change(|scores| scores.expression)?,
                    coherence_change: change(|scores| scores.coherence)?,
                });
            }
        }
        Ok(Self { judge: first.judge.clone(), models, bootstrap: *bootstrap, rows })
    }

    /// The row of a trait and model.
    pub fn get(&self, trait_name: &str, model: &str) -> Option<&ComparisonRow> {
        self.rows.iter().find(|row| row.trait_name == trait_name && row.model == model)
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        pretty_json(self)
    }

    /// A row per trait and model.
    ///
    /// # Errors
    /// None that memory does not give.
    pub fn to_csv(&self) -> Result<String> {
        let mut csv = CsvTable::default();
        csv.fields(["trait", "model", "judge"])
            .fields(Estimate::columns("expression"))
            .fields(Estimate::columns("coherence"));
        csv.fields(Change::columns("expression_change")).fields(Change::columns("coherence_change")).end();
        for row in &self.rows {
            csv.fields([&row.trait_name, &row.model, &self.judge]);
            csv.fields(row.expression.fields()).fields(row.coherence.fields());
            for change in [&row.expression_change, &row.coherence_change] {
                csv.fields(Change::fields(change.as_ref()));
            }
            csv.end();
        }
        Ok(csv.finish()?)
    }
}

/// The means of the questions that both have scored answers to.
fn pairs(before: &TraitResult, after: &TraitResult, score: impl Fn(&AnswerScores) -> Option<f64>) -> Vec<(f64, f64)> {
    let after = after.by_question(&score);
    let partner = |(question, value): (usize, f64)| {
        after.iter().find(|(other, _)| *other == question).map(|(_, other)| (value, *other))
    };
    before.by_question(&score).into_iter().filter_map(partner).collect()
}

fn check_alike(first: &EvaluationResults, other: &EvaluationResults) -> Result<()> {
    let (a, b) = (&first.plan, &other.plan);
    let list = |results: &EvaluationResults| {
        results.traits.iter().map(|found| found.trait_name.as_str()).collect::<Vec<_>>().join(", ")
    };
    MeasureError::unless_same("judge", &first.judge, &other.judge)?;
    MeasureError::unless_same("list of traits", &list(first), &list(other))?;
    for (mine, theirs) in a.traits.iter().zip(&b.traits) {
        let what = |what: &str| format!("{what} of {}", mine.trait_name);
        MeasureError::unless_same(&what("questions"), &mine.questions.join(" | "), &theirs.questions.join(" | "))?;
        MeasureError::unless_same(&what("rubric"), &mine.rubric.template, &theirs.rubric.template)?;
    }
    MeasureError::unless_same("rubric for coherence", &a.coherence.template, &b.coherence.template)?;
    MeasureError::unless_same("number of answers to a question", &a.per_question, &b.per_question)?;
    MeasureError::unless_same("most tokens of an answer", &a.max_new_tokens, &b.max_new_tokens)?;
    MeasureError::unless_same("sampling", &format!("{:?}", a.sampling), &format!("{:?}", b.sampling))?;
    MeasureError::unless_same("seed", &a.seed, &b.seed)
}
