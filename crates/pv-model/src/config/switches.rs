//! The choices by which architectures differ.

use std::path::Path;

use serde::Serialize;

use super::ConfigError;
use super::fields::wrong;

/// Switches in their usual position are not serialised, so that an architecture's hash does not depend on the switches
/// that other architectures need.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(super) fn is_none<T>(value: &Option<T>) -> bool {
    value.is_none()
}

/// The nonlinearity of the feed-forward gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// The approximation of GELU with a hyperbolic tangent (`gelu_pytorch_tanh`).
    GeluTanh,
    /// x · sigmoid(1.702·x) of x up to 7, times one plus up, which is limited to −7 to 7 (gpt-oss).
    ClampedSwiGlu,
}

impl Activation {
    /// The same for the CPU's kernels.
    pub(crate) fn kernel(self) -> pv_kernels::gated::Activation {
        match self {
            Self::Silu => pv_kernels::gated::Activation::Silu,
            Self::GeluTanh => pv_kernels::gated::Activation::GeluTanh,
            Self::ClampedSwiGlu => pv_kernels::gated::Activation::ClampedSwiGlu,
        }
    }
}

/// Which attention projections have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionBias {
    /// None.
    None,
    /// Query, key and value (Qwen2).
    Qkv,
    /// Query, key, value and output (`attention_bias` of Llama and Qwen3).
    QkvAndOutput,
}

impl AttentionBias {
    /// Whether the query, key and value projections have a bias.
    pub fn on_qkv(self) -> bool {
        self != Self::None
    }

    /// Whether the output projection has a bias.
    pub fn on_output(self) -> bool {
        self == Self::QkvAndOutput
    }
}

/// Which feed-forward projections have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MlpBias {
    /// None.
    None,
    /// Gate, up and down; of experts, too, and then their router has one as well (gpt-oss).
    All,
}

/// Whether queries and keys are normalised before the rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// Not normalised.
    None,
    /// An RMS norm over each head's `head_dim` values, one weight for all heads (Qwen3).
    PerHead,
    /// An RMS norm over the values of all heads (OLMo 2).
    Whole,
}

/// The source of the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputHead {
    /// The embedding, transposed.
    Tied,
    /// A separate matrix.
    Untied,
}

/// Token ids with a special role. `generation_config.json` may add stop tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpecialTokens {
    /// Starts a sequence.
    pub bos: Option<u32>,
    /// Each ends a sequence.
    pub eos: Vec<u32>,
    /// Pads a batch.
    pub pad: Option<u32>,
}

/// Where the norms of a block are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// Before attention and before the feed-forward part.
    #[default]
    Before,
    /// After each of the two, before its result is added to the residual (OLMo 2).
    After,
    /// Before and after each of the two (Gemma, GLM-4).
    Both,
}

impl NormPlacement {
    /// Whether each of the two parts has a norm before it.
    pub fn before(self) -> bool {
        self != Self::After
    }

    /// Whether each of the two parts has a norm after it.
    pub fn after(self) -> bool {
        self != Self::Before
    }
}

/// What the weights of norms mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NormWeights {
    /// They are factors.
    #[default]
    Factors,
    /// One plus the weight is the factor (Gemma).
    OnePlus,
}

/// Which dimensions of a head are rotated together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RotaryPairs {
    /// Dimension i with i + half of the number of rotated dimensions.
    #[default]
    Halves,
    /// Dimensions 2i and 2i + 1 (GLM-4).
    Neighbours,
}

/// Constant factors. All are finite and above 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scales {
    /// The factor of the embeddings (Gemma, Granite).
    pub embedding: f64,
    /// The factor of the attention scores; `None` for 1/√`head_dim`.
    pub attention: Option<f64>,
    /// The factor of what attention and the feed-forward part add to the residual (Granite).
    pub residual: f64,
    /// The divisor of the logits (Granite).
    pub logits: f64,
}

impl Default for Scales {
    fn default() -> Self {
        Self { embedding: 1.0, attention: None, residual: 1.0, logits: 1.0 }
    }
}

impl Scales {
    pub(super) fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let Self { embedding, attention, residual, logits } = *self;
        positive(path, "embedding_multiplier", Some(embedding))?;
        positive(path, "attention_multiplier", attention)?;
        positive(path, "residual_multiplier", Some(residual))?;
        positive(path, "logits_scaling", Some(logits))
    }
}

/// Bounds c of values x, which become c·tanh(x/c). All are finite and above 0; `None` means no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Softcaps {
    /// The bound of the attention scores.
    pub attention: Option<f64>,
    /// The bound of the logits.
    pub logits: Option<f64>,
}

impl Softcaps {
    pub(super) fn check(&self, path: &Path) -> Result<(), ConfigError> {
        positive(path, "attn_logit_softcapping", self.attention)?;
        positive(path, "final_logit_softcapping", self.logits)
    }
}

fn positive(path: &Path, key: &str, value: Option<f64>) -> Result<(), ConfigError> {
    // Also in f32, in which the values are used.
    match value.filter(|value| !(*value as f32 > 0.0 && (*value as f32).is_finite())) {
        None => Ok(()),
        Some(value) => Err(wrong(path, key, format!("{value:?}"), "a finite number above 0")),
    }
}
