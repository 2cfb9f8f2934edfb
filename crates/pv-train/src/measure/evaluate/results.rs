//! The results of an evaluation.

use std::path::Path;

use pv_data::tables::pretty_json;
use pv_judge::score::VerdictCounts;
use pv_model::ModelIdentity;
use pv_model::generate::FinishReason;
use pv_steer::sweep::{AnswerScores, Estimate};
use pv_vectors::judged_answers::JudgedAnswers;
use serde::{Deserialize, Serialize};

use super::plan::{EvaluationPlan, Place};
use crate::measure::{Result, read_json};

/// The results on one trait's questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TraitResult {
    /// The trait's name.
    pub trait_name: String,
    /// The number of answers.
    pub answers: usize,
    /// The number of answers without tokens.
    pub empty: usize,
    /// The number of answers that were truncated at the maximum number of tokens.
    pub cut: usize,
    /// The trait expression, 0 to 100.
    pub expression: Estimate,
    /// The coherence, 0 to 100.
    pub coherence: Estimate,
    /// The counts of the verdicts by the trait's rubric: scores by their mode, abstentions by their kind.
    #[serde(default)]
    pub verdicts: VerdictCounts,
    /// The counts of the verdicts by the rubric for coherence.
    #[serde(default)]
    pub coherence_verdicts: VerdictCounts,
    /// The scores of each answer; `None` if the judge abstained.
    pub scores: Vec<AnswerScores>,
}

impl TraitResult {
    /// For each question with a scored answer, its index and the mean score of its answers.
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
#[non_exhaustive]
pub struct EvaluationResults {
    /// The model.
    pub model: ModelIdentity,
    /// The name of the judge.
    pub judge: String,
    /// The plan: questions, seeds, how answers were generated and judged.
    pub plan: EvaluationPlan,
    /// The results per trait, in the order of the plan.
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
            let rubrics = [which, plan.traits.len()];
            let found = || {
                let places = places.iter().filter(|place| place.which == which);
                places.filter_map(|&place| Some((place, answers.get(place)?)))
            };
            let scores = found().map(|(place, answer)| {
                AnswerScores::of(answer, rubrics, place.question, place.rollout, plan.seed(place))
            });
            let scores: Vec<AnswerScores> = scores.collect();
            let of_trait: Vec<Place> = found().map(|(place, _)| place).collect();
            let [verdicts, coherence_verdicts] = answers.verdict_counts(&of_trait, rubrics);
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

    /// The results of a trait.
    pub fn get(&self, trait_name: &str) -> Option<&TraitResult> {
        self.traits.iter().find(|result| result.trait_name == trait_name)
    }

    /// The results as JSON.
    pub fn to_json(&self) -> String {
        pretty_json(self)
    }

    /// Loads a run's `results.json`.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read), [`MeasureError::Json`](crate::measure::MeasureError::Json).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        read_json(path.as_ref())
    }
}
