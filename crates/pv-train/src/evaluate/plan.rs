//! What an evaluation consists of.

use pv_judge::{Rubric, TraitSpec};
use pv_model::{RenderOptions, Sampling};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::measure::{MeasureError, Result};

/// How answers are generated and judged.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluateOptions {
    /// The system prompt; none by default.
    pub system: Option<String>,
    /// How prompts are rendered.
    pub render: RenderOptions,
    /// What the hook of [`Evaluation::run`](super::Evaluation::run) does, in any words; `None` when there is none. A run's
    /// folder does not go on under another.
    pub intervention: Option<String>,
    /// How many answers to each question.
    pub per_question: usize,
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most answers that are generated together. It is no part of what an evaluation is: one may go on with another.
    pub batch_size: usize,
    /// What the seeds of all answers are derived from. With one seed, models are compared on the same random numbers.
    pub seed: u64,
    /// What coherence is judged by.
    pub coherence: Rubric,
}

impl Default for EvaluateOptions {
    /// Ten answers of at most 1000 tokens to each question at temperature 1, without system prompt (method: paper, section
    /// 2.1).
    fn default() -> Self {
        Self {
            system: None,
            render: RenderOptions::default(),
            intervention: None,
            per_question: 10,
            max_new_tokens: 1000,
            sampling: Sampling::temperature(1.0),
            batch_size: 16,
            seed: 0,
            coherence: Rubric::coherence(),
        }
    }
}

/// A trait as it is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraitQuestions {
    /// The trait's name.
    pub trait_name: String,
    /// The questions.
    pub questions: Vec<String>,
    /// What their answers are judged by.
    pub rubric: Rubric,
}

/// What decides an evaluation's results, beside the model, the hook and the judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationPlan {
    /// The traits, each with its questions.
    pub traits: Vec<TraitQuestions>,
    /// What the coherence of all answers is judged by.
    pub coherence: Rubric,
    /// The system prompt.
    pub system: Option<String>,
    /// How prompts are rendered.
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
    /// What the hook does.
    pub intervention: Option<String>,
    /// How many answers to each question.
    pub per_question: usize,
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What the seeds are derived from.
    pub seed: u64,
}

/// Which answer of an evaluation. Ordered as an evaluation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    #[serde(rename = "trait")]
    pub(super) which: usize,
    pub(super) question: usize,
    pub(super) rollout: usize,
}

impl EvaluationPlan {
    pub(super) fn new(specs: &[TraitSpec], options: &EvaluateOptions) -> Result<Self> {
        let of = |spec: &TraitSpec| -> Result<TraitQuestions> {
            let (trait_name, questions) = (spec.name.clone(), spec.evaluation.clone());
            Ok(TraitQuestions { trait_name, questions, rubric: spec.rubric()? })
        };
        let plan = Self {
            traits: specs.iter().map(of).collect::<Result<_>>()?,
            coherence: options.coherence.clone(),
            system: options.system.clone(),
            render: options.render.closed(),
            intervention: options.intervention.clone(),
            per_question: options.per_question,
            max_new_tokens: options.max_new_tokens,
            sampling: options.sampling.clone(),
            seed: options.seed,
        };
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<()> {
        let bad = |reason: String| Err(MeasureError::BadSetting { reason });
        if self.traits.is_empty() {
            return bad("there is no trait to measure".to_owned());
        }
        for (index, TraitQuestions { trait_name, questions, .. }) in self.traits.iter().enumerate() {
            if questions.is_empty() {
                return bad(format!("the trait {trait_name:?} has no evaluation question"));
            }
            if self.traits[..index].iter().any(|earlier| earlier.trait_name == *trait_name) {
                return bad(format!("the trait {trait_name:?} is there twice"));
            }
            if *trait_name == self.coherence.name {
                return bad(format!("a trait and the rubric for coherence are both called {trait_name:?}"));
            }
        }
        for (name, value) in [("per_question", self.per_question), ("max_new_tokens", self.max_new_tokens)] {
            if value == 0 {
                return bad(format!("{name} is 0"));
            }
        }
        let questions = self.traits.iter().map(|questions| questions.questions.len()).sum();
        pv_model::Request::count(questions, self.per_question)?;
        Ok(())
    }

    /// How many answers there are.
    pub fn answers(&self) -> usize {
        self.traits.iter().map(|questions| questions.questions.len() * self.per_question).sum()
    }

    pub(super) fn contains(&self, place: Place) -> bool {
        let questions = self.traits.get(place.which).map_or(0, |which| which.questions.len());
        place.question < questions && place.rollout < self.per_question
    }

    /// The seed of an answer. It depends on the evaluation's seed, the trait's name, the question's index and the number of
    /// the answer alone: neither other traits nor the order change it.
    pub(super) fn seed(&self, place: Place) -> u64 {
        let parts = [self.seed, place.question as u64, place.rollout as u64].map(u64::to_le_bytes).concat();
        let digest = Sha256::digest([parts.as_slice(), self.traits[place.which].trait_name.as_bytes()].concat());
        digest.iter().take(8).fold(0, |seed, &byte| seed << 8 | u64::from(byte))
    }

    /// All answers, in order.
    pub(super) fn places(&self) -> Vec<Place> {
        let questions = |which: usize| {
            let questions = 0..self.traits[which].questions.len();
            questions.flat_map(move |question| (0..self.per_question).map(move |rollout| (question, rollout)))
        };
        let place = |which| questions(which).map(move |(question, rollout)| Place { which, question, rollout });
        (0..self.traits.len()).flat_map(place).collect()
    }
}
