//! What a sweep consists of: cells, questions, rollouts, and the seed of each.

use pv_hooks::{Layer, LayerSet};
use pv_judge::{Rubric, TraitSpec};
use pv_model::{RenderOptions, Sampling};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Coefficient, Error, Positions, Result};

/// The unit of a sweep's strengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrengthUnit {
    /// [`Coefficient::ResidualNorms`]: the same number is the same relative strength at every layer.
    #[default]
    ResidualNorms,
    /// [`Coefficient::Raw`]: multiples of the raw vector, as in the paper.
    Raw,
}

impl StrengthUnit {
    /// A strength in this unit.
    pub fn coefficient(self, strength: f32) -> Coefficient {
        match self {
            Self::ResidualNorms => Coefficient::ResidualNorms(strength),
            Self::Raw => Coefficient::Raw(strength),
        }
    }

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResidualNorms => "residual_norms",
            Self::Raw => "raw",
        }
    }
}

/// Which cells get which questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Search {
    /// Every cell gets every question.
    #[default]
    Full,
    /// Successive halving: every cell gets a few questions; hopeless ones are dropped; the others get twice as many, and so
    /// on until all questions are asked.
    Halving {
        /// How many questions every cell gets.
        first: usize,
    },
}

/// How a sweep is done.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepOptions {
    /// Where to steer. [`LayerSet::All`] takes every layer at which the vector has a direction.
    pub layers: LayerSet,
    /// How strongly.
    pub strengths: Vec<f32>,
    /// In which unit.
    pub unit: StrengthUnit,
    /// At which tokens.
    pub positions: Positions,
    /// Which cells get which questions.
    pub search: Search,
    /// The system prompt; none by default.
    pub system: Option<String>,
    /// How prompts are rendered.
    pub render: RenderOptions,
    /// How many answers to each question in a cell.
    pub per_question: usize,
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Whether what steering changes is kept out of the KV cache; see
    /// [`GenerateOptions::clean_cache`](pv_model::GenerateOptions::clean_cache).
    pub clean_cache: bool,
    /// The most answers that are generated together. It is no part of what a sweep is: one may go on with another.
    pub batch_size: usize,
    /// What the seeds of all answers are derived from.
    pub seed: u64,
    /// What coherence is judged by.
    pub coherence: Rubric,
    /// The mean coherence, 0 to 100, below which a cell is not chosen.
    pub coherence_min: f64,
}

impl Default for SweepOptions {
    /// All layers at a tenth to a half of the residual's norm, one answer of at most 1000 tokens to each question at
    /// temperature 1, and coherence of at least 75 (method: paper, appendix on layer choice).
    fn default() -> Self {
        Self {
            layers: LayerSet::All,
            strengths: vec![0.1, 0.2, 0.3, 0.4, 0.5],
            unit: StrengthUnit::default(),
            positions: Positions::default(),
            search: Search::default(),
            system: None,
            render: RenderOptions::default(),
            per_question: 1,
            max_new_tokens: 1000,
            sampling: Sampling::temperature(1.0),
            clean_cache: false,
            batch_size: 16,
            seed: 0,
            coherence: Rubric::coherence(),
            coherence_min: 75.0,
        }
    }
}

/// What decides a sweep's results, beside the model, the vector and the judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepPlan {
    /// The trait's name.
    pub trait_name: String,
    /// The layers, from the lowest up.
    pub layers: Vec<Layer>,
    /// The strengths, from the least up.
    pub strengths: Vec<f32>,
    /// The strengths' unit.
    pub unit: StrengthUnit,
    /// At which tokens.
    pub positions: Positions,
    /// Which cells get which questions.
    pub search: Search,
    /// The questions.
    pub questions: Vec<String>,
    /// The system prompt.
    pub system: Option<String>,
    /// How prompts are rendered.
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
    /// How many answers to each question in a cell.
    pub per_question: usize,
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Whether what steering changes is kept out of the KV cache.
    pub clean_cache: bool,
    /// What the seeds are derived from.
    pub seed: u64,
    /// What the trait and what coherence are judged by.
    pub rubrics: [Rubric; 2],
    /// The mean coherence below which a cell is not chosen.
    pub coherence_min: f64,
}

/// Which answer of a sweep. Ordered as a sweep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) cell: usize,
    pub(crate) question: usize,
    pub(crate) rollout: usize,
}

impl SweepPlan {
    pub(crate) fn new(spec: &TraitSpec, layers: Vec<Layer>, options: &SweepOptions) -> Result<Self> {
        // −0 is 0, and would be another seed.
        let mut strengths: Vec<f32> = options.strengths.iter().map(|strength| strength + 0.0).collect();
        strengths.sort_by(f32::total_cmp);
        let plan = Self {
            trait_name: spec.name.clone(),
            layers,
            strengths,
            unit: options.unit,
            positions: options.positions,
            search: options.search,
            questions: spec.evaluation.clone(),
            system: options.system.clone(),
            render: options.render.closed(),
            per_question: options.per_question,
            max_new_tokens: options.max_new_tokens,
            sampling: options.sampling.clone(),
            clean_cache: options.clean_cache,
            seed: options.seed,
            rubrics: [spec.rubric()?, options.coherence.clone()],
            coherence_min: options.coherence_min,
        };
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::BadSetting { reason });
        if self.strengths.is_empty() {
            return Err(Error::NoStrengths);
        }
        if self.layers.is_empty() {
            return Err(Error::NoLayers);
        }
        if self.questions.is_empty() {
            return Err(Error::NoQuestions { trait_name: self.trait_name.clone() });
        }
        if let Some(strength) = self.strengths.iter().find(|strength| !strength.is_finite()) {
            return bad(format!("the strength {strength} is not a finite number"));
        }
        if let Some(twice) = self.strengths.windows(2).find(|pair| pair[0] == pair[1]) {
            return bad(format!("the strength {} is there twice", twice[0]));
        }
        let first = if let Search::Halving { first } = self.search { first } else { 1 };
        for (name, value) in [
            ("per_question", self.per_question),
            ("max_new_tokens", self.max_new_tokens),
            ("the first number of questions", first),
        ] {
            if value == 0 {
                return bad(format!("{name} is 0"));
            }
        }
        pv_model::Request::count(self.cells().saturating_mul(self.questions.len()), self.per_question)?;
        if !(0.0..=100.0).contains(&self.coherence_min) {
            return bad(format!("a coherence of at least {} is not between 0 and 100", self.coherence_min));
        }
        if self.rubrics[0].name == self.rubrics[1].name {
            return bad(format!("the trait and the rubric for coherence are both called {:?}", self.rubrics[0].name));
        }
        Ok(())
    }

    /// How many cells there are. Cell `i` has layer `i / strengths` and strength `i % strengths`.
    pub fn cells(&self) -> usize {
        self.layers.len() * self.strengths.len()
    }

    /// How many answers there would be if every cell got every question.
    pub fn full_grid(&self) -> usize {
        self.cells() * self.questions.len() * self.per_question
    }

    pub(crate) fn layer_index(&self, cell: usize) -> usize {
        cell / self.strengths.len()
    }

    pub(crate) fn strength(&self, cell: usize) -> f32 {
        self.strengths[cell % self.strengths.len()]
    }

    pub(crate) fn contains(&self, place: Place) -> bool {
        let Place { cell, question, rollout } = place;
        cell < self.cells() && question < self.questions.len() && rollout < self.per_question
    }

    /// The seed of an answer. It depends on the sweep's seed, the layer, the strength, the question's index and the number
    /// of the answer alone: neither other cells nor the order change it.
    pub(crate) fn seed(&self, place: Place) -> u64 {
        let layer = self.layers[self.layer_index(place.cell)].index() as u64;
        let strength = u64::from(self.strength(place.cell).to_bits());
        let parts = [self.seed, layer, strength, place.question as u64, place.rollout as u64];
        let digest = Sha256::digest(parts.map(u64::to_le_bytes).concat());
        digest.iter().take(8).fold(0, |seed, &byte| seed << 8 | u64::from(byte))
    }

    /// How many questions the cells that are left have got after each round; the last number is that of all.
    pub(crate) fn rounds(&self) -> Vec<usize> {
        let all = self.questions.len();
        match self.search {
            Search::Full => vec![all],
            Search::Halving { first } => {
                let doubled = std::iter::successors(Some(first), |n| n.checked_mul(2));
                doubled.take_while(|&n| n < all).chain([all]).collect()
            }
        }
    }

    /// The questions in the order in which they are asked: drawn, where not all are asked at once, since lists of questions
    /// go from subject to subject.
    fn drawn(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.questions.len()).collect();
        if self.search != Search::Full {
            let draw = |question: &usize| {
                let parts = [self.seed, *question as u64].map(u64::to_le_bytes).concat();
                Sha256::digest([b"question".as_slice(), &parts].concat())
            };
            order.sort_by_cached_key(draw);
        }
        order
    }

    /// The first `questions` questions that are asked, from the first of the list on.
    pub(crate) fn asked(&self, questions: usize) -> Vec<usize> {
        let mut asked = self.drawn();
        asked.truncate(questions);
        asked.sort_unstable();
        asked
    }

    /// All answers of cells to the first `questions` questions, in order.
    pub(crate) fn places(&self, cells: &[usize], questions: usize) -> Vec<Place> {
        let asked = self.asked(questions);
        let rollouts = |(cell, question)| (0..self.per_question).map(move |rollout| Place { cell, question, rollout });
        cells.iter().flat_map(|&cell| asked.iter().map(move |&question| (cell, question))).flat_map(rollouts).collect()
    }
}

#[cfg(test)]
mod tests;
