//! The architecture of a decoder, read from Hugging Face's `config.json`.

mod difference;
mod dtype;
mod error;
mod experts;
mod fields;
mod names;
mod parts;
mod rope;
mod rope_settings;
mod switches;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Serialize;

pub use dtype::StoredDtype;
pub use error::ConfigError;
pub use experts::ExpertConfig;
pub(crate) use experts::MAX_EXPERTS;
pub(crate) use fields::{Fields, shortened, wrong};
pub use names::TensorNames;
pub use parts::ExpectedTensor;
pub(crate) use parts::{BlockParts, GatedParts, MlpParts, Part, Role, Stack, expected_tensors};
pub use rope::RotaryTable;
pub(crate) use rope_settings::RopeFamily;
pub use rope_settings::{RopeConfig, RopeScaling};
pub use switches::{
    Activation, AttentionBias, MlpBias, NormPlacement, NormWeights, OutputHead, QkNorm, RotaryPairs, Scales, Softcaps,
    SpecialTokens,
};
use switches::{is_default, is_none};

// Far above any model of these families, and small enough that no product of two of them overflows 64 bits.
pub(crate) const MAX_WIDTH: usize = 1 << 20;
pub(crate) const MAX_BLOCKS: usize = 1 << 12;
pub(crate) const MAX_HEADS: usize = 1 << 14;
pub(crate) const MAX_HEAD_DIM: usize = 1 << 13;
pub(crate) const MAX_VOCAB: usize = 1 << 26;
pub(crate) const MAX_POSITIONS: usize = 1 << 30;

/// The architecture of a decoder: everything that distinguishes two decoders except their weights.
///
/// Read it with [`DecoderConfig::from_folder`]. Call [`DecoderConfig::validate`] on one that was built by hand.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecoderConfig {
    /// Hugging Face's name of the family, such as `"qwen2"`.
    pub model_type: String,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; `heads · head_dim` may differ from `d_model`.
    pub head_dim: usize,
    /// Width of the feed-forward part; in a model with experts, that of the blocks without them.
    pub d_ff: usize,
    /// The experts of a mixture-of-experts model.
    #[serde(skip_serializing_if = "is_none")]
    pub experts: Option<ExpertConfig>,
    /// Rows of the embedding.
    pub vocab: usize,
    /// The longest sequence that the model was trained for.
    pub max_positions: usize,
    /// The number added to the mean square in every RMS norm.
    pub norm_eps: f64,
    /// The nonlinearity of the feed-forward gate.
    pub activation: Activation,
    /// How positions are converted to angles.
    pub rope: RopeConfig,
    /// Like `rope`, for the blocks with a window, if they differ (Gemma 3).
    #[serde(skip_serializing_if = "is_none")]
    pub local_rope: Option<RopeConfig>,
    /// The number of dimensions of a head that are rotated, from the first on; `None` for all.
    #[serde(skip_serializing_if = "is_none")]
    pub rotary_dim: Option<usize>,
    /// Which dimensions of a head are rotated together.
    #[serde(skip_serializing_if = "is_default")]
    pub rotary_pairs: RotaryPairs,
    /// Where the norms of a block are.
    #[serde(skip_serializing_if = "is_default")]
    pub norms: NormPlacement,
    /// What the weights of norms mean.
    #[serde(skip_serializing_if = "is_default")]
    pub norm_weights: NormWeights,
    /// Constant factors.
    #[serde(skip_serializing_if = "is_default")]
    pub scales: Scales,
    /// Bounds of scores and logits.
    #[serde(skip_serializing_if = "is_default")]
    pub softcaps: Softcaps,
    /// Which attention projections have a bias.
    pub attention_bias: AttentionBias,
    /// Whether each query head has a sink: a number that joins the softmax's sum like the score of one more key (gpt-oss).
    #[serde(skip_serializing_if = "is_default")]
    pub attention_sinks: bool,
    /// Which feed-forward projections have a bias.
    pub mlp_bias: MlpBias,
    /// Whether queries and keys are normalised.
    pub qk_norm: QkNorm,
    /// One entry per block. With `Some(w)`, the query at position i sees the keys at positions j with i − w < j ≤ i.
    pub windows: Vec<Option<usize>>,
    /// The source of the logits.
    pub output_head: OutputHead,
    /// Tokens with a special role.
    pub tokens: SpecialTokens,
    /// The storage type of the weights according to the configuration. A hint only; the weights file decides.
    pub stored_dtype: Option<StoredDtype>,
    /// The names of the tensors in the checkpoint.
    #[serde(skip)]
    pub names: TensorNames,
}

impl DecoderConfig {
    /// Rejects an invalid configuration. Afterwards, all sizes are positive and small enough that their products do not
    /// overflow.
    ///
    /// # Errors
    /// [`ConfigError::Value`], with the key and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check(Path::new("DecoderConfig"))
    }

    /// Like [`DecoderConfig::validate`], for a configuration from the file at `path`.
    pub(crate) fn check(&self, path: &Path) -> Result<(), ConfigError> {
        for (key, value, most) in [
            ("hidden_size", self.d_model, MAX_WIDTH),
            ("num_hidden_layers", self.layers, MAX_BLOCKS),
            ("num_attention_heads", self.heads, MAX_HEADS),
            ("num_key_value_heads", self.kv_heads, MAX_HEADS),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("intermediate_size", self.d_ff, MAX_WIDTH),
            ("vocab_size", self.vocab, MAX_VOCAB),
            ("max_position_embeddings", self.max_positions, MAX_POSITIONS),
        ] {
            if value == 0 || value > most {
                return Err(wrong(path, key, value, format!("an integer from 1 to {most}")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("a divisor of num_attention_heads, which is {}", self.heads);
            return Err(wrong(path, "num_key_value_heads", self.kv_heads, expected));
        }
        let rotated = self.rotated();
        if rotated == 0 || rotated > self.head_dim || !rotated.is_multiple_of(2) {
            let (key, expected) = match self.rotary_dim {
                None => ("head_dim", "an even number, because dimensions rotate in pairs"),
                Some(_) => ("partial_rotary_factor", "an even number of the dimensions of a head, and at least 2"),
            };
            return Err(wrong(path, key, rotated, expected));
        }
        if self.heads * self.head_dim > MAX_WIDTH {
            let expected = format!("at most {MAX_WIDTH} over all {} heads", self.heads);
            return Err(wrong(path, "head_dim", self.head_dim, expected));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(wrong(path, "rms_norm_eps", format!("{:?}", self.norm_eps), "a number between 0 and 1"));
        }
        for rope in std::iter::once(&self.rope).chain(&self.local_rope) {
            rope.check(path, rotated)?;
        }
        if let Some(experts) = &self.experts {
            experts.check(path, self.layers)?;
        }
        self.scales.check(path)?;
        self.softcaps.check(path)?;
        if self.windows.len() != self.layers {
            let expected = format!("one entry for each of the {} blocks", self.layers);
            return Err(wrong(path, "layer_types", format!("of length {}", self.windows.len()), expected));
        }
        if let Some(window) = self.windows.iter().flatten().find(|w| !(1..=MAX_POSITIONS).contains(*w)) {
            return Err(wrong(path, "sliding_window", window, format!("an integer from 1 to {MAX_POSITIONS}")));
        }
        if let Some(pad) = self.tokens.pad.filter(|pad| *pad as usize >= self.vocab) {
            return Err(wrong(path, "pad_token_id", pad, format!("below vocab_size, which is {}", self.vocab)));
        }
        let bytes = self.parameters().saturating_mul(4);
        if bytes > isize::MAX as u128 {
            return Err(wrong(path, "(all sizes)", format!("{bytes} bytes in f32"), "addressable on this machine"));
        }
        Ok(())
    }

    /// All tensors of the decoder, in the order of the forward pass. A tied output head is not among them.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        expected_tensors(self).collect()
    }

    /// The number of parameters; a tied output head is counted once.
    pub fn parameters(&self) -> u128 {
        let shapes = expected_tensors(self);
        shapes.map(|tensor| tensor.shape.iter().map(|n| *n as u128).product::<u128>()).sum()
    }

    /// The number of dimensions of a head that are rotated.
    pub fn rotated(&self) -> usize {
        self.rotary_dim.unwrap_or(self.head_dim)
    }

    /// The number of tokens beyond which a sequence has other rotary frequencies (LongRoPE): keys that were cached in a
    /// shorter sequence cannot be used in a longer one.
    pub fn rotary_limit(&self) -> Option<usize> {
        match &self.rope.scaling {
            RopeScaling::LongRope { original_max_positions, .. } => Some(*original_max_positions),
            _ => None,
        }
    }

    /// The output width of the query projection.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// The output width of the key projection and of the value projection.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}
