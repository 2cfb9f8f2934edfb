//! Low-rank adapters (LoRA, arXiv 2106.09685; rsLoRA, arXiv 2312.03732) and their files, which are PEFT's.

mod files;
mod settings;
mod targets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::targets::Targets;
use crate::config::DecoderConfig;
use crate::families::TensorNames;
use crate::{Error, Result};

/// A projection that an adapter can update; its name in files is `q_proj` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LoraTarget {
    /// Attention's queries.
    #[serde(rename = "q_proj")]
    Query,
    /// Attention's keys.
    #[serde(rename = "k_proj")]
    Key,
    /// Attention's values.
    #[serde(rename = "v_proj")]
    Value,
    /// Attention's output.
    #[serde(rename = "o_proj")]
    Output,
    /// The gate of the MLP.
    #[serde(rename = "gate_proj")]
    Gate,
    /// The MLP's projection up.
    #[serde(rename = "up_proj")]
    Up,
    /// The MLP's projection down.
    #[serde(rename = "down_proj")]
    Down,
}

impl LoraTarget {
    /// All seven, in the order of the forward pass.
    pub const ALL: [Self; 7] = [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Its name in PEFT's `target_modules`, such as `q_proj`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// What a block's tensors of this projection are called, without prefix and suffix.
    fn in_block(self, names: &TensorNames) -> &'static str {
        match self {
            Self::Query => names.query,
            Self::Key => names.key,
            Self::Value => names.value,
            Self::Output => names.output,
            Self::Gate => names.gate,
            Self::Up => names.up,
            Self::Down => names.down,
        }
    }

    /// The projection's numbers of inputs and of outputs.
    pub fn widths(self, config: &DecoderConfig) -> (usize, usize) {
        let (d_model, d_ff, queries, keys) = (config.d_model, config.d_ff, config.query_width(), config.kv_width());
        match self {
            Self::Query => (d_model, queries),
            Self::Key | Self::Value => (d_model, keys),
            Self::Output => (queries, d_model),
            Self::Gate | Self::Up => (d_model, d_ff),
            Self::Down => (d_ff, d_model),
        }
    }
}

/// How an adapter is made and how strongly it acts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// The rank r of every update.
    pub rank: usize,
    /// LoRA's alpha, which sets the updates' scale together with the rank.
    pub alpha: f64,
    /// Whether the scale is alpha/√r (rsLoRA) instead of alpha/r.
    pub rslora: bool,
    /// The chance that an input of an update is dropped in training; nothing is dropped otherwise.
    pub dropout: f64,
    /// The projections that have an update.
    pub targets: BTreeSet<LoraTarget>,
    /// The blocks, from 0, that have them; `None` means all.
    pub blocks: Option<BTreeSet<usize>>,
}

impl Default for LoraConfig {
    /// The paper's: rank 32, alpha 64, rsLoRA, all seven projections of all blocks, no dropout.
    fn default() -> Self {
        Self { rank: 32, alpha: 64.0, rslora: true, dropout: 0.0, targets: LoraTarget::ALL.into(), blocks: None }
    }
}

impl LoraConfig {
    /// The factor of every update: alpha/√r for rsLoRA, else alpha/r.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Refuses what cannot be on a model of this architecture.
    ///
    /// # Errors
    /// [`Error::BadOption`].
    pub fn validate(&self, config: &DecoderConfig) -> Result<()> {
        let bad = |reason: String| Err(Error::BadOption { reason });
        if self.rank == 0 {
            return bad("an adapter's rank is 0, but should be at least 1".into());
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return bad(format!("an adapter's alpha is {}, but should be a finite number above 0", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return bad(format!("an adapter's dropout is {}, but should be at least 0 and below 1", self.dropout));
        }
        if self.targets.is_empty() || self.blocks.as_ref().is_some_and(BTreeSet::is_empty) {
            return bad("an adapter updates no projection".into());
        }
        match self.blocks.iter().flatten().find(|block| **block >= config.layers) {
            Some(block) => bad(format!("an adapter updates block {block} of a model with {}", config.layers)),
            None => Ok(()),
        }
    }
}

/// One projection's update, row-major on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraWeights {
    /// `[rank, in]`.
    pub a: Vec<f32>,
    /// `[out, rank]`.
    pub b: Vec<f32>,
    /// The projection's number of inputs.
    pub inputs: usize,
    /// Its number of outputs.
    pub outputs: usize,
}

/// A low-rank adapter: y = W·x + scale·B·A·x for each projection that it updates. It belongs to no model until
/// [`CausalLm::with_adapter`](crate::CausalLm::with_adapter) or [`Decoder::with_adapter`](crate::Decoder::with_adapter)
/// puts it on one.
#[derive(Clone, Debug)]
pub struct Adapter {
    config: LoraConfig,
    base: Option<String>,
    weights: BTreeMap<(usize, LoraTarget), LoraWeights>,
    /// What the file that it was read from says it should hold: how many blocks the model has is known later.
    declared: Option<Targets>,
}

/// Adapters are equal that have the same settings and values.
impl PartialEq for Adapter {
    fn eq(&self, other: &Self) -> bool {
        let Self { config, base, weights, declared: _ } = self;
        (config, base, weights) == (&other.config, &other.base, &other.weights)
    }
}

impl Adapter {
    /// A new adapter, which changes nothing yet: A uniform in ±1/√in (PEFT's Kaiming initialisation), B zero. The same
    /// seed gives the same A for a projection, whatever other projections have updates.
    ///
    /// # Errors
    /// [`Error::BadOption`].
    pub fn init(lora: LoraConfig, config: &DecoderConfig, seed: u64) -> Result<Self> {
        lora.validate(config)?;
        let blocks = |block: &usize| lora.blocks.as_ref().is_none_or(|blocks| blocks.contains(block));
        let mut weights = BTreeMap::new();
        for block in (0..config.layers).filter(blocks) {
            for &target in &lora.targets {
                let (inputs, outputs) = target.widths(config);
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                random.set_stream((block * LoraTarget::ALL.len() + target as usize) as u64);
                let bound = 1.0 / (inputs as f64).sqrt();
                let a = (0..lora.rank * inputs).map(|_| (random.random_range(-bound..bound)) as f32).collect();
                let b = vec![0.0; outputs * lora.rank];
                weights.insert((block, target), LoraWeights { a, b, inputs, outputs });
            }
        }
        Ok(Self { config: lora, base: None, weights, declared: None })
    }

    /// An adapter from its parts.
    ///
    /// # Errors
    /// [`Error::BadAdapter`] for sizes that do not fit one another, or values that are not finite.
    pub fn new(
        config: LoraConfig,
        base: Option<String>,
        weights: BTreeMap<(usize, LoraTarget), LoraWeights>,
    ) -> Result<Self> {
        if weights.is_empty() {
            return Err(Error::BadAdapter { reason: "it has no update".into() });
        }
        for ((block, target), LoraWeights { a, b, inputs, outputs }) in &weights {
            let name = target.name();
            if a.len() != config.rank * inputs || b.len() != config.rank * outputs {
                let reason = format!(
                    "block {block}, {name}: A has {} values and B {}, which is not rank {} times {inputs} and {outputs}",
                    a.len(),
                    b.len(),
                    config.rank
                );
                return Err(Error::BadAdapter { reason });
            }
            if let Some(value) = a.iter().chain(b).find(|value| !value.is_finite()) {
                return Err(Error::BadAdapter { reason: format!("block {block}, {name}: a value is {value}") });
            }
        }
        Ok(Self { config, base, weights, declared: None })
    }

    /// Its settings.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// What its file calls the model that it was trained on.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// Says what model it was trained on.
    #[must_use]
    pub fn with_base(mut self, base: impl Into<String>) -> Self {
        self.base = Some(base.into());
        self
    }

    /// Its updates by block and projection.
    pub fn weights(&self) -> &BTreeMap<(usize, LoraTarget), LoraWeights> {
        &self.weights
    }

    /// How many numbers it has.
    pub fn parameters(&self) -> usize {
        self.weights.values().map(|weights| weights.a.len() + weights.b.len()).sum()
    }

    /// SHA-256 of its scale and all its values, in hex: two adapters that act alike have the same.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.config.scale().to_le_bytes());
        for ((block, target), weights) in &self.weights {
            hash.update((*block as u64).to_le_bytes());
            hash.update([*target as u8]);
            for value in weights.a.iter().chain(&weights.b) {
                hash.update(value.to_le_bytes());
            }
        }
        hex::encode(hash.finalize())
    }

    /// Refuses an architecture that the adapter does not fit.
    ///
    /// # Errors
    /// [`Error::BadAdapter`]; [`Error::AdapterMismatch`] where the file that it was read from lacks updates which its settings
    /// ask for on a model of so many blocks.
    pub fn check(&self, config: &DecoderConfig) -> Result<()> {
        for ((block, target), LoraWeights { inputs, outputs, .. }) in &self.weights {
            let name = target.name();
            let expected = target.widths(config);
            if *block >= config.layers {
                let reason = format!("it updates block {block} of a model with {}", config.layers);
                return Err(Error::BadAdapter { reason });
            }
            if (*inputs, *outputs) != expected {
                let reason = format!(
                    "block {block}, {name}: its update is of {inputs} inputs and {outputs} outputs, the model's projection of {} and {}",
                    expected.0, expected.1
                );
                return Err(Error::BadAdapter { reason });
            }
        }
        match &self.declared {
            Some(declared) => declared.check(&self.weights.keys().copied().collect(), config.layers),
            None => Ok(()),
        }
    }
}
