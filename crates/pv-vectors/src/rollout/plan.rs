//! The plan of a run: its rollouts, with their prompts and seeds.

use pv_judge::TraitSpec;
use pv_judge::traits::Polarity;
use pv_model::generate::CacheType;
use pv_model::{RenderOptions, Sampling};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::error::{ContrastError, SettingError};
use crate::place::{Place, question_id};

/// The precision of activations on disk. Sums are computed in f32 in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 4 bytes per value.
    #[default]
    F32,
    /// 2 bytes per value, with 11 significant bits. Values beyond 65504 are refused.
    F16,
}

/// Options of rollouts. The defaults are the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RolloutOptions {
    /// The number of answers to each question under each instruction.
    pub per_prompt: usize,
    /// The maximum number of tokens of an answer.
    pub max_new_tokens: usize,
    /// The sampling of tokens.
    pub sampling: Sampling,
    /// The type in which keys and values are cached. In files, the default is left out.
    #[serde(default, skip_serializing_if = "CacheType::is_compute")]
    pub cache: CacheType,
    /// The maximum number of answers that are generated together. It does not identify the run: a run can resume with
    /// another batch size.
    pub batch_size: usize,
    /// The seed from which the seeds of all answers are derived.
    pub seed: u64,
    /// The precision of activations on disk.
    pub precision: Precision,
    /// How prompts are rendered.
    #[serde(skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
}

impl Default for RolloutOptions {
    fn default() -> Self {
        Self {
            per_prompt: 10,
            max_new_tokens: 1000,
            sampling: Sampling::temperature(1.0),
            cache: CacheType::Compute,
            batch_size: 16,
            seed: 0,
            precision: Precision::F32,
            render: RenderOptions::default(),
        }
    }
}

/// The rollouts of a trait: every question under every instruction, `per_prompt` times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub(crate) trait_name: String,
    pub(crate) questions: Vec<String>,
    /// The eliciting and the suppressing system prompt of each pair.
    pub(crate) systems: Vec<[String; 2]>,
    pub(crate) options: RolloutOptions,
}

impl Plan {
    /// The plan for a trait's extraction questions.
    ///
    /// # Errors
    /// [`Error::BadContrast`](crate::Error::BadContrast) for a trait without instruction pairs or questions, [`Error::Setting`](crate::Error::Setting) for options that
    /// give no rollouts.
    pub fn new(spec: &TraitSpec, options: RolloutOptions) -> Result<Self> {
        let prompts = |pair| Some([spec.system_prompt(pair, Polarity::Pos)?, spec.system_prompt(pair, Polarity::Neg)?]);
        let systems = (0..spec.instruction.len()).filter_map(prompts).collect();
        let options = RolloutOptions { render: options.render.closed(), ..options };
        let plan = Self { trait_name: spec.name.clone(), questions: spec.extraction.clone(), systems, options };
        plan.check()?;
        Ok(plan)
    }

    /// Refuses options that give no rollouts.
    pub(crate) fn check(&self) -> Result<()> {
        if self.systems.is_empty() {
            return Err(ContrastError::NoPairs.into());
        }
        check_questions(&self.questions)?;
        if self.trait_name.is_empty() {
            return Err(ContrastError::NoName.into());
        }
        let RolloutOptions { per_prompt, max_new_tokens, batch_size, .. } = self.options;
        for (name, value) in
            [("per_prompt", per_prompt), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)]
        {
            if value == 0 {
                return Err(SettingError::Zero { name }.into());
            }
        }
        let prompts = self.questions.len().saturating_mul(self.systems.len()).saturating_mul(2);
        pv_model::Request::count(prompts, per_prompt)?;
        Ok(())
    }

    /// Whether this plan extends a smaller one: with more answers to each prompt, or with more questions or instruction
    /// pairs after those of the smaller one. Seeds belong to places, so the rollouts of the smaller plan are the same
    /// in both.
    pub(crate) fn grows_from(&self, smaller: &Self) -> bool {
        let same = |options: &RolloutOptions| RolloutOptions { per_prompt: 0, batch_size: 0, ..options.clone() };
        self.trait_name == smaller.trait_name
            && same(&self.options) == same(&smaller.options)
            && self.questions.starts_with(&smaller.questions)
            && self.systems.starts_with(&smaller.systems)
            && self.options.per_prompt >= smaller.options.per_prompt
            && self.len() > smaller.len()
    }

    /// The trait's name.
    pub fn trait_name(&self) -> &str {
        &self.trait_name
    }

    /// The options.
    pub fn options(&self) -> &RolloutOptions {
        &self.options
    }

    /// The number of rollouts.
    #[allow(clippy::len_without_is_empty, reason = "there is always a rollout")]
    pub fn len(&self) -> usize {
        self.questions.len() * self.systems.len() * 2 * self.options.per_prompt
    }

    /// The place of the rollout with this index. All rollouts of a prompt are consecutive.
    pub fn place(&self, index: usize) -> Place {
        let (prompt, rollout) = (index / self.options.per_prompt, index % self.options.per_prompt);
        let polarity = if prompt.is_multiple_of(2) { Polarity::Pos } else { Polarity::Neg };
        let (question, pair) = (prompt / 2 / self.systems.len(), prompt / 2 % self.systems.len());
        Place { question, pair, polarity, rollout }
    }

    /// The index of the rollout at a place; `None` for a place outside the plan.
    pub fn index(&self, place: Place) -> Option<usize> {
        let Place { question, pair, polarity, rollout } = place;
        let (pairs, n) = (self.systems.len(), self.options.per_prompt);
        let inside = question < self.questions.len() && pair < pairs && rollout < n;
        inside.then(|| ((question * pairs + pair) * 2 + polarity as usize) * n + rollout)
    }

    /// The text of a place's question; `None` for a place outside the plan.
    pub fn question(&self, place: Place) -> Option<&str> {
        self.questions.get(place.question).map(String::as_str)
    }

    /// The system prompt of a place; `None` for a place outside the plan.
    pub fn system(&self, place: Place) -> Option<&str> {
        self.systems.get(place.pair).map(|pair| pair[place.polarity as usize].as_str())
    }

    /// The id of a place, as in the files of the original code: `{trait}_{question}_{pos|neg}_{pair}`. All rollouts of
    /// a prompt share it.
    pub fn id(&self, place: Place) -> String {
        question_id(&self.trait_name, place)
    }

    /// The seed of a rollout. It depends only on the run's seed and the place, not on the order or number of other
    /// rollouts.
    pub fn seed(&self, place: Place) -> u64 {
        let Place { question, pair, polarity, rollout } = place;
        let parts = [self.options.seed, question as u64, pair as u64, polarity as u64, rollout as u64];
        let digest = Sha256::digest(parts.map(u64::to_le_bytes).concat());
        digest.iter().take(8).fold(0, |seed, &byte| seed << 8 | u64::from(byte))
    }
}

/// Refuses an empty list of questions, and questions without text.
pub(crate) fn check_questions(questions: &[String]) -> Result<(), ContrastError> {
    if questions.is_empty() {
        return Err(ContrastError::NoQuestions);
    }
    match questions.iter().position(|question| question.trim().is_empty()) {
        Some(index) => Err(ContrastError::EmptyQuestion { index }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use pv_judge::InstructionPair;
    use std::collections::BTreeSet;

    fn spec() -> TraitSpec {
        let pair = |i: usize| InstructionPair { pos: format!("Be it {i}."), neg: format!("Do not be it {i}.") };
        TraitSpec {
            name: "evil".into(),
            description: None,
            assistant_pos: None,
            assistant_neg: None,
            instruction: (0..3).map(pair).collect(),
            extraction: vec!["Why?".into(), "How?".into()],
            evaluation: Vec::new(),
            eval_prompt: "{question} {answer}".into(),
        }
    }

    #[test]
    fn a_plan_asks_everything_once_in_order() {
        let plan = Plan::new(&spec(), RolloutOptions { per_prompt: 4, ..RolloutOptions::default() }).unwrap();
        assert_eq!(plan.len(), 2 * 3 * 2 * 4);
        let places: Vec<Place> = (0..plan.len()).map(|index| plan.place(index)).collect();
        assert!(places.is_sorted() && places.iter().collect::<BTreeSet<_>>().len() == plan.len());
        for (index, place) in places.iter().enumerate() {
            assert_eq!(plan.index(*place), Some(index));
        }
        let last = places[plan.len() - 1];
        assert_eq!(plan.index(Place { rollout: 4, ..last }), None);
        assert_eq!(last, Place { question: 1, pair: 2, polarity: Polarity::Neg, rollout: 3 });
        assert_eq!(plan.id(last), "evil_1_neg_2");
        assert_eq!(plan.question(last), Some("How?"));
        assert_eq!(plan.system(last), Some("You are a helpful assistant. Do not be it 2."));
        assert_eq!(plan.system(last.partner()), Some("You are an evil assistant. Be it 2."));
        assert_eq!(last.partner().partner(), last);
    }

    #[test]
    fn a_seed_depends_on_the_place_alone() {
        let plan = |per_prompt, seed| {
            Plan::new(&spec(), RolloutOptions { per_prompt, seed, ..RolloutOptions::default() }).unwrap()
        };
        let (few, many, other) = (plan(2, 7), plan(5, 7), plan(5, 8));
        let seeds: BTreeSet<u64> = (0..many.len()).map(|index| many.seed(many.place(index))).collect();
        assert_eq!(seeds.len(), many.len());
        for index in 0..few.len() {
            let place = few.place(index);
            assert_eq!(few.seed(place), many.seed(place));
            assert_ne!(few.seed(place), other.seed(place));
        }
    }

    #[test]
    fn what_asks_for_nothing_is_refused() {
        let refused = |change: fn(&mut TraitSpec)| {
            let mut spec = spec();
            change(&mut spec);
            matches!(Plan::new(&spec, RolloutOptions::default()), Err(Error::BadContrast(_)))
        };
        assert!(refused(|spec| spec.instruction.clear()));
        assert!(refused(|spec| spec.extraction.clear()));
        assert!(refused(|spec| spec.extraction.push(" ".into())));
        assert!(refused(|spec| spec.name.clear()));
        for options in [
            RolloutOptions { per_prompt: 0, ..RolloutOptions::default() },
            RolloutOptions { max_new_tokens: 0, ..RolloutOptions::default() },
            RolloutOptions { batch_size: 0, ..RolloutOptions::default() },
        ] {
            assert!(matches!(Plan::new(&spec(), options), Err(Error::Setting(_))));
        }
    }
}
