//! Comparison of several evaluations.

use pv_data::tables::{CsvTable, pretty_json};
use pv_steer::sweep::{AnswerScores, Estimate};
use serde::{Deserialize, Serialize};

use super::results::{EvaluationResults, TraitResult};
use crate::measure::{BootstrapOptions, Change, MeasureError, Result, SettingError, change};

/// A trait's scores for one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ComparisonRow {
    /// The trait's name.
    pub trait_name: String,
    /// The model's name in the comparison.
    pub model: String,
    /// The trait expression, 0 to 100.
    pub expression: Estimate,
    /// The coherence, 0 to 100.
    pub coherence: Estimate,
    /// The change of the expression from that of the first model, over the questions for which both have scored
    /// answers. `None` for the first model, or without such questions.
    pub expression_change: Option<Change>,
    /// The change of the coherence, likewise.
    pub coherence_change: Option<Change>,
}

/// Evaluations of several models on the same questions: before and after finetuning, with and without a mitigation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Comparison {
    /// The name of the judge of all evaluations.
    pub judge: String,
    /// The names of the models; changes are relative to the first.
    pub models: Vec<String>,
    /// The bootstrap options of the intervals.
    pub bootstrap: BootstrapOptions,
    /// The rows: for each trait, one row per model.
    pub rows: Vec<ComparisonRow>,
}

impl Comparison {
    /// Compares named evaluations, which may differ in model, system prompt and intervention.
    ///
    /// # Errors
    /// No evaluations, duplicate names, [`MeasureError::Mismatch`] if judges, traits, questions, rubrics, seeds or
    /// sampling differ; invalid bootstrap options.
    pub fn new(evaluations: &[(String, EvaluationResults)], bootstrap: &BootstrapOptions) -> Result<Self> {
        let Some((_, first)) = evaluations.first() else {
            return Err(SettingError::NoEvaluations.into());
        };
        let models: Vec<String> = evaluations.iter().map(|(name, _)| name.clone()).collect();
        if let Some(twice) = (1..models.len()).find(|&at| models[..at].contains(&models[at])) {
            return Err(SettingError::NameTwice { name: models[twice].clone() }.into());
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

    /// The row of a trait and a model.
    pub fn get(&self, trait_name: &str, model: &str) -> Option<&ComparisonRow> {
        self.rows.iter().find(|row| row.trait_name == trait_name && row.model == model)
    }

    /// The comparison as JSON.
    pub fn to_json(&self) -> String {
        pretty_json(self)
    }

    /// The comparison as CSV, with a row per trait and model.
    ///
    /// # Errors
    /// None, except if memory runs out.
    pub fn to_csv(&self) -> Result<String> {
        let mut csv = CsvTable::default();
        csv.fields(["trait", "model", "judge"])
            .fields(Estimate::columns("expression"))
            .fields(Estimate::columns("coherence"));
        csv.fields(change::columns("expression_change")).fields(change::columns("coherence_change")).end();
        for row in &self.rows {
            csv.fields([&row.trait_name, &row.model, &self.judge]);
            csv.fields(row.expression.fields()).fields(row.coherence.fields());
            for change in [&row.expression_change, &row.coherence_change] {
                csv.fields(change::fields(change.as_ref()));
            }
            csv.end();
        }
        Ok(csv.finish()?)
    }
}

/// Pairs of mean scores (before, after), one per question for which both have scored answers.
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
    MeasureError::unless_same("number of answers per question", &a.per_question, &b.per_question)?;
    MeasureError::unless_same("maximum number of tokens of an answer", &a.max_new_tokens, &b.max_new_tokens)?;
    MeasureError::unless_same("sampling", &format!("{:?}", a.sampling), &format!("{:?}", b.sampling))?;
    MeasureError::unless_same("seed", &a.seed, &b.seed)
}
