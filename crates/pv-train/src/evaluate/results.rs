//! What an evaluation found.

use std::path::Path;

use pv_judge::VerdictCounts;
use pv_model::FinishReason;
use pv_model::ModelIdentity;
use pv_steer::{AnswerScores, Estimate};
use pv_vectors::{JudgedAnswers, pretty_json};
use serde::{Deserialize, Serialize};

use super::plan::{EvaluationPlan, Place};
use crate::measure::{Result, read_json};

/// What was measured on one trait's questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraitResult {
    /// The trait's name.
    pub trait_name: String,
    /// How many answers there are.
    pub answers: usize,
    /// How many of them are without tokens.
    pub empty: usize,
    /// How many were cut at the most tokens.
    pub cut: usize,
    /// The trait's expression, 0 to 100.
    pub expression: Estimate,
    /// The coherence, 0 to 100.
    pub coherence: Estimate,
    /// How the verdicts by the trait's rubric were got: the scores by their mode, the abstentions by their kind.
    #[serde(default)]
    pub verdicts: VerdictCounts,
    /// The same by that of coherence.
    #[serde(default)]
    pub coherence_verdicts: VerdictCounts,
    /// The scores of each answer; `None` where the judge gave none.
    pub scores: Vec<AnswerScores>,
}

impl TraitResult {
    /// For each question with a scored answer, its index and the mean over its answers.
    pub(super) fn by_question(&self, score: impl Fn(&AnswerScores) -> Option<f64>) -> Vec<(usize, f64)> {
        let mean = |scores: &[AnswerScores]| {
            let scored: Vec<f64> = scores.iter().filter_map(&score).collect();
            let question = scores.first()?.question;
            (!scored.is_empty()).then(|| (question, scored.iter().sum::<f64>() / scored.len() as f64))
        };
        self.scores.chunk_by(|a, b| a.question == b.question).filter_map(mean).collect()
    }
}

/// The results of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationResults {
    /// The model.
    pub model: ModelIdentity,
    /// Who judged.
    pub judge: String,
    /// What was done: questions, seeds, how answers were generated and judged.
    pub plan: EvaluationPlan,
    /// The traits, in the order of the plan.
    pub traits: Vec<TraitResult>,
}

impl EvaluationResults {
    pub(super) fn new(
        model: ModelIdentity,
        judge: String,
        plan: EvaluationPlan,
        answers: &JudgedAnswers<Place>,
    ) -> Self {
        let places = plan.places();
        let of = |which: usize| {
            let found = || {
                let places = places.iter().filter(|place| place.which == which);
                places.filter_map(|&place| Some((place, answers.get(place)?)))
            };
            let scores = found()
                .map(|(place, answer)| AnswerScores::of(answer, place.question, place.rollout, plan.seed(place)));
            let scores: Vec<AnswerScores> = scores.collect();
            let of_trait: Vec<Place> = found().map(|(place, _)| place).collect();
            let [verdicts, coherence_verdicts] = answers.verdict_counts(&of_trait);
            TraitResult {
                trait_name: plan.traits[which].trait_name.clone(),
                answers: scores.len(),
                empty: found().filter(|(_, answer)| answer.tokens == 0).count(),
                cut: found().filter(|(_, answer)| answer.finish == FinishReason::Length).count(),
                expression: Estimate::of(scores.iter().map(|scores| (scores.question, scores.expression))),
                coherence: Estimate::of(scores.iter().map(|scores| (scores.question, scores.coherence))),
                verdicts,
                coherence_verdicts,
                scores,
            }
        };
        let traits = (0..plan.traits.len()).map(of).collect();
        Self { model, judge, traits, plan }
    }

    /// What was measured on a trait's questions.
    pub fn get(&self, trait_name: &str) -> Option<&TraitResult> {
        self.traits.iter().find(|result| result.trait_name == trait_name)
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        pretty_json(self)
    }

    /// Reads a run's `results.json`.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read), [`MeasureError::Json`](crate::MeasureError::Json).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        read_json(path.as_ref())
    }
}
