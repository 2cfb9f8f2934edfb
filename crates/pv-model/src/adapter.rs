//! Low-rank adapters (LoRA, arXiv 2106.09685; rsLoRA, arXiv 2312.03732) and their files, in PEFT's format.

mod error;
mod files;
mod modules;
mod settings;
mod targets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::modules::Fused;
use self::targets::Targets;
use crate::config::{BlockParts, DecoderConfig, Role};

pub use error::{AdapterError, AdapterFolder, TensorProblem};

/// A projection that an adapter can update. Its name in files is that of PEFT, such as `q_proj`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LoraTarget {
    /// The query projection of attention.
    #[serde(rename = "q_proj")]
    Query,
    /// The key projection of attention.
    #[serde(rename = "k_proj")]
    Key,
    /// The value projection of attention.
    #[serde(rename = "v_proj")]
    Value,
    /// The output projection of attention.
    #[serde(rename = "o_proj")]
    Output,
    /// The gate projection of the MLP.
    #[serde(rename = "gate_proj")]
    Gate,
    /// The up projection of the MLP.
    #[serde(rename = "up_proj")]
    Up,
    /// The down projection of the MLP.
    #[serde(rename = "down_proj")]
    Down,
}

impl fmt::Display for LoraTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl LoraTarget {
    /// All seven projections, in the order of the forward pass.
    pub const ALL: [Self; 7] = [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// The name in PEFT's `target_modules`, such as `q_proj`.
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

    /// The part of a block that this projection is.
    pub(crate) fn role(self) -> Role {
        match self {
            Self::Query => Role::Query,
            Self::Key => Role::Key,
            Self::Value => Role::Value,
            Self::Output => Role::Output,
            Self::Gate => Role::Gate,
            Self::Up => Role::Up,
            Self::Down => Role::Down,
        }
    }

    /// The numbers of inputs and outputs of a block's projection in the model's files, which may contain others too
    /// (Phi-3's `qkv_proj`). `None` if the block has experts in place of an MLP with this projection.
    pub fn widths(self, config: &DecoderConfig, block: usize) -> Option<(usize, usize)> {
        let parts = BlockParts::of(config, block);
        parts.projection(self.role()).map(|(stored, inputs)| (inputs, stored.rows))
    }
}

/// The settings of an adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// The rank r of every update.
    pub rank: usize,
    /// LoRA's alpha, which determines the scale of the updates together with the rank.
    pub alpha: f64,
    /// Whether the scale is alpha/√r (rsLoRA) instead of alpha/r.
    pub rslora: bool,
    /// The probability with which an input of an update is dropped in training. There is no dropout outside of
    /// training.
    pub dropout: f64,
    /// The projections with an update.
    pub targets: BTreeSet<LoraTarget>,
    /// The blocks, from 0, with updates; `None` means all.
    pub blocks: Option<BTreeSet<usize>>,
}

impl Default for LoraConfig {
    /// The paper's settings: rank 32, alpha 64, rsLoRA, all seven projections of all blocks, no dropout.
    fn default() -> Self {
        Self { rank: 32, alpha: 64.0, rslora: true, dropout: 0.0, targets: LoraTarget::ALL.into(), blocks: None }
    }
}

impl LoraConfig {
    /// The scale of every update: alpha/√r for rsLoRA, else alpha/r.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// The number of parameters of an adapter with these settings. Projections that a block lacks are not counted.
    pub fn parameters(&self, config: &DecoderConfig) -> usize {
        let fused = Fused::of(config);
        let targets: Vec<&LoraTarget> = self.targets.iter().filter(|target| fused.is_first(**target)).collect();
        let widths = |block| {
            let widths = targets.iter().filter_map(move |target| target.widths(config, block));
            widths.map(|(inputs, outputs)| inputs + outputs).sum::<usize>()
        };
        self.rank * self.updated(config).map(widths).sum::<usize>()
    }

    /// The model's blocks with updates.
    fn updated(&self, config: &DecoderConfig) -> impl Iterator<Item = usize> {
        (0..config.layers).filter(|block| self.blocks.as_ref().is_none_or(|blocks| blocks.contains(block)))
    }

    /// Rejects settings that are invalid for a model of this architecture.
    ///
    /// # Errors
    /// [`AdapterError::Setting`], [`AdapterError::Empty`], [`AdapterError::SharedModule`],
    /// [`AdapterError::BlockOutOfRange`], [`AdapterError::Experts`].
    pub fn validate(&self, config: &DecoderConfig) -> Result<(), AdapterError> {
        let bad = |name, value, expected| Err(AdapterError::Setting { name, value, expected });
        if self.rank == 0 {
            return bad("rank", 0.0, "at least 1");
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return bad("alpha", self.alpha, "a finite number above 0");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return bad("dropout", self.dropout, "at least 0 and below 1");
        }
        if self.targets.is_empty() || self.blocks.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(AdapterError::Empty);
        }
        let fused = Fused::of(config);
        for &target in &self.targets {
            if let Some(&missing) = fused.together(target).iter().find(|other| !self.targets.contains(other)) {
                return Err(AdapterError::SharedModule { module: fused.in_block(target), target, missing });
            }
        }
        if let Some(&block) = self.blocks.iter().flatten().find(|block| **block >= config.layers) {
            return Err(AdapterError::BlockOutOfRange { block, blocks: config.layers });
        }
        let experts = config.experts.as_ref();
        let sparse = self.updated(config).find(|block| experts.is_some_and(|experts| experts.in_block(*block)));
        let lacking = sparse.and_then(|block| {
            let target = self.targets.iter().find(|target| target.widths(config, block).is_none())?;
            Some(AdapterError::Experts { block, target: *target })
        });
        lacking.map_or(Ok(()), Err)
    }
}

/// The update of one projection, row-major on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraWeights {
    /// `[rank, in]`.
    pub a: Vec<f32>,
    /// `[out, rank]`.
    pub b: Vec<f32>,
    /// The number of inputs of the projection.
    pub inputs: usize,
    /// The number of outputs of the projection.
    pub outputs: usize,
}

/// A low-rank adapter: y = W·x + scale·B·A·x for each projection that it updates. It is independent of a model until
/// [`CausalLm::with_adapter`](crate::CausalLm::with_adapter) or
/// [`Decoder::with_adapter`](crate::decoder::Decoder::with_adapter) applies it to one.
#[derive(Clone, Debug)]
pub struct Adapter {
    config: LoraConfig,
    base: Option<String>,
    weights: BTreeMap<(usize, LoraTarget), LoraWeights>,
    fused: Fused,
    /// The updates that the adapter's file specifies. How many blocks the model has is known only later.
    declared: Option<Targets>,
}

/// Adapters are equal if their settings and values are equal.
impl PartialEq for Adapter {
    fn eq(&self, other: &Self) -> bool {
        let Self { config, base, weights, fused, declared: _ } = self;
        (config, base, weights, fused) == (&other.config, &other.base, &other.weights, &other.fused)
    }
}

impl Adapter {
    /// A new adapter, which changes nothing yet: A is uniform in ±1/√in (PEFT's Kaiming initialisation), B is zero. The
    /// same seed gives the same A for a projection, whatever other projections have updates.
    ///
    /// # Errors
    /// Those of [`LoraConfig::validate`].
    pub fn init(lora: LoraConfig, config: &DecoderConfig, seed: u64) -> Result<Self, AdapterError> {
        lora.validate(config)?;
        let mut weights = BTreeMap::new();
        let fused = Fused::of(config);
        for block in lora.updated(config) {
            for &target in lora.targets.iter().filter(|target| fused.is_first(**target)) {
                let Some((inputs, outputs)) = target.widths(config, block) else { continue };
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                random.set_stream((block * LoraTarget::ALL.len() + target as usize) as u64);
                let bound = 1.0 / (inputs as f64).sqrt();
                let a = (0..lora.rank * inputs).map(|_| (random.random_range(-bound..bound)) as f32).collect();
                let b = vec![0.0; outputs * lora.rank];
                weights.insert((block, target), LoraWeights { a, b, inputs, outputs });
            }
        }
        Ok(Self { config: lora, base: None, weights, fused, declared: None })
    }

    /// An adapter from its parts.
    ///
    /// # Errors
    /// [`AdapterError::Empty`], [`AdapterError::Sizes`], [`AdapterError::NotFinite`].
    pub fn new(
        config: LoraConfig,
        base: Option<String>,
        weights: BTreeMap<(usize, LoraTarget), LoraWeights>,
    ) -> Result<Self, AdapterError> {
        if weights.is_empty() {
            return Err(AdapterError::Empty);
        }
        for (&(block, target), LoraWeights { a, b, inputs, outputs }) in &weights {
            if a.len() != config.rank * inputs || b.len() != config.rank * outputs {
                return Err(AdapterError::Sizes {
                    block,
                    target,
                    a: a.len(),
                    b: b.len(),
                    rank: config.rank,
                    inputs: *inputs,
                    outputs: *outputs,
                });
            }
            if let Some(&value) = a.iter().chain(b).find(|value| !value.is_finite()) {
                return Err(AdapterError::NotFinite { block, target, value });
            }
        }
        Ok(Self { config, base, weights, fused: Fused::default(), declared: None })
    }

    /// Names modules in files as those of a model of this architecture are named.
    #[must_use]
    pub fn for_model(mut self, config: &DecoderConfig) -> Self {
        self.fused = Fused::of(config);
        self
    }

    /// The settings.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The name of the base model, as in the adapter's file.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// Sets the name of the base model.
    #[must_use]
    pub fn with_base(mut self, base: impl Into<String>) -> Self {
        self.base = Some(base.into());
        self
    }

    /// The updates, by block and projection. The update of a module that contains several projections is under the first
    /// of them.
    pub fn weights(&self) -> &BTreeMap<(usize, LoraTarget), LoraWeights> {
        &self.weights
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        self.weights.values().map(|weights| weights.a.len() + weights.b.len()).sum()
    }

    /// SHA-256 of the scale and all values, in hexadecimal. Adapters with the same effect have the same hash.
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

    /// Rejects an architecture that the adapter does not match.
    ///
    /// # Errors
    /// [`AdapterError::BlockOutOfRange`], [`AdapterError::Experts`], [`AdapterError::Widths`];
    /// [`AdapterError::Mismatch`] if the adapter's file lacks updates that its settings specify for this model.
    pub fn check(&self, config: &DecoderConfig) -> Result<(), AdapterError> {
        for (&(block, target), &LoraWeights { inputs, outputs, .. }) in &self.weights {
            if block >= config.layers {
                return Err(AdapterError::BlockOutOfRange { block, blocks: config.layers });
            }
            let Some(expected) = target.widths(config, block) else {
                return Err(AdapterError::Experts { block, target });
            };
            let found = (inputs, outputs);
            if found != expected || !Fused::of(config).is_first(target) {
                return Err(AdapterError::Widths { block, target, expected, found });
            }
        }
        match &self.declared {
            Some(declared) => {
                let exists = |block, target: LoraTarget| target.widths(config, block).is_some();
                declared.check(&self.weights.keys().copied().collect(), self.fused, config.layers, exists)
            }
            None => Ok(()),
        }
    }
}
