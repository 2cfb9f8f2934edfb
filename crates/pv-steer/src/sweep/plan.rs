//! The plan of a sweep: cells, questions, rollouts, and the seed of each.

use std::cmp::Ordering;

use pv_hooks::{Layer, LayerSet};
use pv_judge::{Rubric, TraitSpec};
use pv_model::generate::CacheType;
use pv_model::{RenderOptions, Sampling};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{SettingError, SweepError};
use crate::{Coefficient, Positions, Result};

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
    /// The coefficient of a strength in this unit.
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

/// The search over the cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Search {
    /// Every cell gets every question.
    #[default]
    Full,
    /// Successive halving: every cell gets a few questions; the worst cells are dropped; the others get twice as many,
    /// and so on until all questions are asked.
    Halving {
        /// The number of questions for every cell in the first round.
        first: usize,
    },
}

/// Options of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepOptions {
    /// The layers. [`LayerSet::All`] takes every layer at which the vector has a direction.
    pub layers: LayerSet,
    /// The strengths.
    pub strengths: Vec<f32>,
    /// The unit of the strengths.
    pub unit: StrengthUnit,
    /// The tokens.
    pub positions: Positions,
    /// The search over the cells.
    pub search: Search,
    /// The system prompt; `None` by default.
    pub system: Option<String>,
    /// How prompts are rendered.
    pub render: RenderOptions,
    /// The number of answers to each question in a cell.
    pub per_question: usize,
    /// The maximum number of tokens of an answer.
    pub max_new_tokens: usize,
    /// The sampling of tokens.
    pub sampling: Sampling,
    /// Whether the KV cache excludes the effect of steering; see
    /// [`GenerateOptions::clean_cache`](pv_model::GenerateOptions::clean_cache).
    pub clean_cache: bool,
    /// The type in which keys and values are cached.
    pub cache: CacheType,
    /// The maximum number of answers that are generated together. It does not identify the sweep: a sweep can resume
    /// with another batch size.
    pub batch_size: usize,
    /// The seed from which the seeds of all answers are derived.
    pub seed: u64,
    /// The rubric for coherence.
    pub coherence: Rubric,
    /// The mean coherence, 0 to 100, below which a cell is not chosen.
    pub coherence_min: f64,
    /// The fraction of the questions, from 0 to 1, that are held out from the choice. The chosen cell is reported on
    /// them, because its scores on the questions that it was chosen by are the luckiest of many. With 0, no question is
    /// held out and there is no report.
    pub report_share: f64,
}

impl Default for SweepOptions {
    /// All layers at a tenth to a half of the residual's norm, one answer of at most 1000 tokens to each question at
    /// temperature 1, and coherence of at least 75 (method: paper, appendix on layer choice); chosen on half of the
    /// questions, reported on the others.
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
            cache: CacheType::Compute,
            batch_size: 16,
            seed: 0,
            coherence: Rubric::coherence(),
            coherence_min: 75.0,
            report_share: 0.5,
        }
    }
}

/// Everything that determines the results of a sweep, besides the model, the vector and the judge.
///
/// The answers do not depend on the grid, on the search, on which questions are held out or on the minimum coherence. A
/// sweep's folder therefore serves plans that differ in these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SweepPlan {
    /// The trait's name.
    pub trait_name: String,
    /// The layers, in ascending order.
    pub layers: Vec<Layer>,
    /// The strengths, in ascending order.
    pub strengths: Vec<f32>,
    /// The strengths' unit.
    pub unit: StrengthUnit,
    /// The tokens.
    pub positions: Positions,
    /// The search over the cells.
    pub search: Search,
    /// The questions.
    pub questions: Vec<String>,
    /// The indices of the held-out questions, on which the chosen cell is reported. Empty in files of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reported: Vec<usize>,
    /// The system prompt.
    pub system: Option<String>,
    /// How prompts are rendered.
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
    /// The number of answers to each question in a cell.
    pub per_question: usize,
    /// The maximum number of tokens of an answer.
    pub max_new_tokens: usize,
    /// The sampling of tokens.
    pub sampling: Sampling,
    /// Whether the KV cache excludes the effect of steering.
    pub clean_cache: bool,
    /// The type in which keys and values are cached. In files, the default is left out.
    #[serde(default, skip_serializing_if = "CacheType::is_compute")]
    pub cache: CacheType,
    /// The seed from which the answers' seeds are derived.
    pub seed: u64,
    /// The rubrics of the trait and of coherence.
    pub rubrics: [Rubric; 2],
    /// The mean coherence, 0 to 100, below which a cell is not chosen.
    pub coherence_min: f64,
}

/// The place of an answer in a sweep, independent of the grid. Ordered as a sweep is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) layer: Layer,
    pub(crate) strength: f32,
    pub(crate) question: usize,
    pub(crate) rollout: usize,
}

impl Place {
    /// Whether two places have the same layer and strength.
    pub(crate) fn same_cell(&self, other: &Self) -> bool {
        self.layer == other.layer && self.strength.total_cmp(&other.strength).is_eq()
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        let rest = |place: &Self| (place.question, place.rollout);
        let cell = self.layer.cmp(&other.layer).then(self.strength.total_cmp(&other.strength));
        cell.then_with(|| rest(self).cmp(&rest(other)))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place {}

impl SweepPlan {
    pub(crate) fn new(spec: &TraitSpec, layers: Vec<Layer>, options: &SweepOptions) -> Result<Self> {
        // −0 equals 0, but would give another seed.
        let mut strengths: Vec<f32> = options.strengths.iter().map(|strength| strength + 0.0).collect();
        strengths.sort_by(f32::total_cmp);
        let mut plan = Self {
            trait_name: spec.name.clone(),
            layers,
            strengths,
            unit: options.unit,
            positions: options.positions,
            search: options.search,
            questions: spec.evaluation.clone(),
            reported: Vec::new(),
            system: options.system.clone(),
            render: options.render.closed(),
            per_question: options.per_question,
            max_new_tokens: options.max_new_tokens,
            sampling: options.sampling.clone(),
            clean_cache: options.clean_cache,
            cache: options.cache,
            seed: options.seed,
            rubrics: [spec.rubric()?, options.coherence.clone()],
            coherence_min: options.coherence_min,
        };
        plan.check()?;
        let share = options.report_share;
        if !(0.0..1.0).contains(&share) {
            let name = "report_share";
            return Err(SettingError::OutOfRange { name, value: share, allowed: "at least 0 and below 1" }.into());
        }
        // At least one question remains for the choice.
        let held_out = (share * plan.questions.len() as f64) as usize;
        plan.reported = plan.shuffled("report", (0..plan.questions.len()).collect());
        plan.reported.truncate(held_out);
        plan.reported.sort_unstable();
        Ok(plan)
    }

    fn check(&self) -> Result<()> {
        if self.strengths.is_empty() {
            return Err(SweepError::NoStrengths.into());
        }
        if self.layers.is_empty() {
            return Err(SweepError::NoLayers.into());
        }
        if self.questions.is_empty() {
            return Err(SweepError::NoQuestions { trait_name: self.trait_name.clone() }.into());
        }
        if let Some(strength) = self.strengths.iter().find(|strength| !strength.is_finite()) {
            let (name, value) = ("the strength", f64::from(*strength));
            return Err(SettingError::OutOfRange { name, value, allowed: "a finite number" }.into());
        }
        if let Some(twice) = self.strengths.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SettingError::StrengthTwice { strength: twice[0] }.into());
        }
        let first = if let Search::Halving { first } = self.search { first } else { 1 };
        for (name, value) in [
            ("per_question", self.per_question),
            ("max_new_tokens", self.max_new_tokens),
            ("the first number of questions", first),
        ] {
            if value == 0 {
                return Err(SettingError::Zero { name }.into());
            }
        }
        pv_model::Request::count(self.cells().saturating_mul(self.questions.len()), self.per_question)?;
        if !(0.0..=100.0).contains(&self.coherence_min) {
            let (name, value) = ("coherence_min", self.coherence_min);
            return Err(SettingError::OutOfRange { name, value, allowed: "from 0 to 100" }.into());
        }
        if self.rubrics[0].name == self.rubrics[1].name {
            return Err(SettingError::SameRubrics { name: self.rubrics[0].name.clone() }.into());
        }
        Ok(())
    }

    /// The number of cells. Cell `i` has layer `i / strengths` and strength `i % strengths`.
    pub fn cells(&self) -> usize {
        self.layers.len() * self.strengths.len()
    }

    /// The indices of the questions for the choice.
    pub fn choosing(&self) -> Vec<usize> {
        (0..self.questions.len()).filter(|question| !self.reported.contains(question)).collect()
    }

    /// The number of answers if every cell got every question for the choice.
    pub fn full_grid(&self) -> usize {
        self.cells() * self.choosing().len() * self.per_question
    }

    pub(crate) fn layer_index(&self, cell: usize) -> usize {
        cell / self.strengths.len()
    }

    pub(crate) fn strength(&self, cell: usize) -> f32 {
        self.strengths[cell % self.strengths.len()]
    }

    pub(crate) fn place(&self, cell: usize, question: usize, rollout: usize) -> Place {
        Place { layer: self.layers[self.layer_index(cell)], strength: self.strength(cell), question, rollout }
    }

    /// The seed of an answer. It depends only on the sweep's seed, the layer, the strength, the question's index and
    /// the number of the answer, not on other cells or the order.
    pub(crate) fn seed(&self, place: Place) -> u64 {
        let (layer, strength) = (place.layer.index() as u64, u64::from(place.strength.to_bits()));
        let parts = [self.seed, layer, strength, place.question as u64, place.rollout as u64];
        let digest = Sha256::digest(parts.map(u64::to_le_bytes).concat());
        digest.iter().take(8).fold(0, |seed, &byte| seed << 8 | u64::from(byte))
    }

    /// The number of questions of the remaining cells after each round; the last is that of all questions for the
    /// choice.
    pub(crate) fn rounds(&self) -> Vec<usize> {
        let all = self.choosing().len();
        match self.search {
            Search::Full => vec![all],
            Search::Halving { first } => {
                let doubled = std::iter::successors(Some(first), |n| n.checked_mul(2));
                doubled.take_while(|&n| n < all).chain([all]).collect()
            }
        }
    }

    /// The questions for the choice, in the order in which they are asked: shuffled if they are not asked all at once,
    /// since lists of questions are often grouped by subject.
    fn drawn(&self) -> Vec<usize> {
        match self.search {
            Search::Full => self.choosing(),
            Search::Halving { .. } => self.shuffled("question", self.choosing()),
        }
    }

    /// Questions in an order that depends on the seed and a purpose.
    fn shuffled(&self, purpose: &str, mut questions: Vec<usize>) -> Vec<usize> {
        questions.sort_by_cached_key(|question| {
            let parts = [self.seed, *question as u64].map(u64::to_le_bytes).concat();
            Sha256::digest([purpose.as_bytes(), &parts].concat())
        });
        questions
    }

    /// The first `questions` questions in the order of asking, sorted as in the list.
    pub(crate) fn asked(&self, questions: usize) -> Vec<usize> {
        let mut asked = self.drawn();
        asked.truncate(questions);
        asked.sort_unstable();
        asked
    }

    /// The places of all answers of a cell to the held-out questions.
    pub(crate) fn reported_places(&self, cell: usize) -> Vec<Place> {
        self.places_of(&[cell], &self.reported)
    }

    /// The places of all answers of cells to the first `questions` questions, in order.
    pub(crate) fn places(&self, cells: &[usize], questions: usize) -> Vec<Place> {
        self.places_of(cells, &self.asked(questions))
    }

    fn places_of(&self, cells: &[usize], asked: &[usize]) -> Vec<Place> {
        let rollouts =
            |(cell, question)| (0..self.per_question).map(move |rollout| self.place(cell, question, rollout));
        cells.iter().flat_map(|&cell| asked.iter().map(move |&question| (cell, question))).flat_map(rollouts).collect()
    }
}

#[cfg(test)]
mod tests;
