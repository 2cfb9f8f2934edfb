//! The options and the plan of an evaluation.

use pv_judge::{Rubric, TraitSpec};
use pv_model::{RenderOptions, Sampling};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::measure::{Result, SettingError};

/// Options for generating and judging answers.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluateOptions {
    /// The system prompt, if there is one.
    pub system: Option<String>,
    /// Options for rendering prompts.
    pub render: RenderOptions,
    /// A description, in any format, of the hook of [`Evaluation::run`](super::Evaluation::run); `None` without a hook.
    /// A run only resumes with the same description.
    pub intervention: Option<String>,
    /// The number of answers per question.
    pub per_question: usize,
    /// The maximum number of tokens of an answer.
    pub max_new_tokens: usize,
    /// The sampling of tokens.
    pub sampling: Sampling,
    /// The maximum number of answers that are generated together. It is not part of the plan: a run may resume with
    /// another value.
    pub batch_size: usize,
    /// The seed from which the seeds of all answers are derived. Models evaluated with the same seed use the same
    /// random numbers.
    pub seed: u64,
    /// The rubric for coherence.
    pub coherence: Rubric,
}

impl Default for EvaluateOptions {
    /// Ten answers of at most 1000 tokens to each question at temperature 1, without a system prompt (method: paper,
    /// section 2.1).
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

/// A trait's questions and rubric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TraitQuestions {
    /// The trait's name.
    pub trait_name: String,
    /// The questions.
    pub questions: Vec<String>,
    /// The rubric for the trait.
    pub rubric: Rubric,
}

/// Everything that determines an evaluation's results, except the model, the hook and the judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EvaluationPlan {
    /// The traits, each with its questions.
    pub traits: Vec<TraitQuestions>,
    /// The rubric for the coherence of all answers.
    pub coherence: Rubric,
    /// The system prompt, if there is one.
    pub system: Option<String>,
    /// Options for rendering prompts.
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
    /// The description of the hook; `None` without a hook.
    pub intervention: Option<String>,
    /// The number of answers per question.
    pub per_question: usize,
    /// The maximum number of tokens of an answer.
    pub max_new_tokens: usize,
    /// The sampling of tokens.
    pub sampling: Sampling,
    /// The seed from which the seeds of all answers are derived.
    pub seed: u64,
}

/// Identifies an answer of an evaluation. Ordered by trait, question and rollout.
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
        if self.traits.is_empty() {
            return Err(SettingError::NoTraits.into());
        }
        for (index, TraitQuestions { trait_name, questions, .. }) in self.traits.iter().enumerate() {
            let trait_name = trait_name.clone();
            if questions.is_empty() {
                return Err(SettingError::NoQuestions { trait_name }.into());
            }
            if self.traits[..index].iter().any(|earlier| earlier.trait_name == trait_name) {
                return Err(SettingError::TraitTwice { trait_name }.into());
            }
            if trait_name == self.coherence.name {
                return Err(SettingError::NameOfCoherence { trait_name }.into());
            }
        }
        for (name, value) in [("per_question", self.per_question), ("max_new_tokens", self.max_new_tokens)] {
            if value == 0 {
                return Err(SettingError::Zero { name }.into());
            }
        }
        let questions = self.traits.iter().map(|questions| questions.questions.len()).sum();
        pv_model::Request::count(questions, self.per_question)?;
        Ok(())
    }

    /// Whether this plan extends a smaller one: with more answers to each question, with more questions after those of
    /// a trait, or with more traits after those of the smaller plan. Seeds belong to places, so that the answers of the
    /// smaller plan are the same in both. Other differences are not considered.
    pub(super) fn extends(&self, smaller: &Self) -> bool {
        let mut pairs = self.traits.iter().zip(&smaller.traits);
        self.traits.len() >= smaller.traits.len()
            && pairs
                .all(|(more, less)| more.trait_name == less.trait_name && more.questions.starts_with(&less.questions))
            && self.per_question >= smaller.per_question
            && self.answers() > smaller.answers()
    }

    /// This plan with the size of a smaller one.
    pub(super) fn shrunk_to(&self, smaller: &Self) -> Self {
        let of = |(more, less): (&TraitQuestions, &TraitQuestions)| TraitQuestions {
            questions: more.questions[..less.questions.len()].to_vec(),
            ..more.clone()
        };
        let traits = self.traits.iter().zip(&smaller.traits).map(of).collect();
        Self { traits, per_question: smaller.per_question, ..self.clone() }
    }

    /// This plan with the rubrics of another one, where that has the same traits.
    pub(super) fn with_rubrics_of(&self, other: &Self) -> Self {
        let mut plan = Self { coherence: other.coherence.clone(), ..self.clone() };
        for (mine, theirs) in plan.traits.iter_mut().zip(&other.traits) {
            if mine.trait_name == theirs.trait_name {
                mine.rubric = theirs.rubric.clone();
            }
        }
        plan
    }

    /// The rubric of an answer: that of its trait, or that of coherence.
    pub(super) fn rubric(&self, place: Place, rubric: usize) -> Option<&Rubric> {
        match rubric {
            0 => self.traits.get(place.which).map(|which| &which.rubric),
            1 => Some(&self.coherence),
            _ => None,
        }
    }

    /// The total number of answers.
    pub fn answers(&self) -> usize {
        self.traits.iter().map(|questions| questions.questions.len() * self.per_question).sum()
    }

    pub(super) fn contains(&self, place: Place) -> bool {
        let questions = self.traits.get(place.which).map_or(0, |which| which.questions.len());
        place.question < questions && place.rollout < self.per_question
    }

    /// The seed of an answer. It depends only on the evaluation's seed, the trait's name, the question's index and the
    /// answer's number, so other traits and their order do not change it.
    pub(super) fn seed(&self, place: Place) -> u64 {
        let parts = [self.seed, place.question as u64, place.rollout as u64].map(u64::to_le_bytes).concat();
        let digest = Sha256::digest([parts.as_slice(), self.traits[place.which].trait_name.as_bytes()].concat());
        digest.iter().take(8).fold(0, |seed, &byte| seed << 8 | u64::from(byte))
    }

    /// The places of all answers, in order.
    pub(super) fn places(&self) -> Vec<Place> {
        let questions = |which: usize| {
            let questions = 0..self.traits[which].questions.len();
            questions.flat_map(move |question| (0..self.per_question).map(move |rollout| (question, rollout)))
        };
        let place = |which| questions(which).map(move |(question, rollout)| Place { which, question, rollout });
        (0..self.traits.len()).flat_map(place).collect()
    }
}
