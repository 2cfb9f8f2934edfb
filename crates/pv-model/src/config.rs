//! The shape of a decoder, read from Hugging Face's `config.json`.

mod fields;
mod json;
mod rope_settings;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::families::{self, ExpectedTensor, TensorNames};
use crate::weights::{StoredDtype, describe_folder, read_limited};

pub(crate) use fields::{Fields, shortened, wrong};
pub use rope_settings::{RopeConfig, RopeScaling};

/// No configuration is longer; a longer file is not one.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

// Far beyond any model of these families, and small enough that no product of two of them overflows 64 bits.
pub(crate) const MAX_WIDTH: usize = 1 << 20;
pub(crate) const MAX_BLOCKS: usize = 1 << 12;
pub(crate) const MAX_HEADS: usize = 1 << 14;
pub(crate) const MAX_HEAD_DIM: usize = 1 << 13;
pub(crate) const MAX_VOCAB: usize = 1 << 26;
pub(crate) const MAX_POSITIONS: usize = 1 << 30;

/// Everything that tells one decoder from another, apart from its weights.
///
/// Read one with [`DecoderConfig::from_folder`]; one made by hand should pass [`DecoderConfig::validate`].
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
    /// Width of the feed-forward part.
    pub d_ff: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// The longest sequence that the model was made for.
    pub max_positions: usize,
    /// Added to the mean square in every RMS norm.
    pub norm_eps: f64,
    /// The feed-forward gate's nonlinearity.
    pub activation: Activation,
    /// How positions turn into angles.
    pub rope: RopeConfig,
    /// Which attention projections have a bias.
    pub attention_bias: AttentionBias,
    /// Which feed-forward projections have a bias.
    pub mlp_bias: MlpBias,
    /// Whether queries and keys are normalised.
    pub qk_norm: QkNorm,
    /// One entry per block. With `Some(w)`, the query at position i sees the keys at positions j with i − w < j ≤ i.
    pub windows: Vec<Option<usize>>,
    /// Where logits come from.
    pub output_head: OutputHead,
    /// Tokens with a role.
    pub tokens: SpecialTokens,
    /// The type that the configuration says its weights are stored in; a hint, the weights file decides.
    pub stored_dtype: Option<StoredDtype>,
    /// What the checkpoint calls its tensors.
    #[serde(skip)]
    pub names: TensorNames,
}

/// The feed-forward gate's nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
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
    /// Whether the query, key and value projections have one.
    pub fn on_qkv(self) -> bool {
        self != Self::None
    }

    /// Whether the output projection has one.
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
    /// Gate, up and down.
    All,
}

/// Whether queries and keys are normalised before they are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// They are not.
    None,
    /// An RMS norm over each head's `head_dim` values, one weight for all heads (Qwen3).
    PerHead,
}

/// Where logits come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputHead {
    /// The embedding, transposed.
    Tied,
    /// A matrix of its own.
    Untied,
}

/// Token ids with a role. A folder's `generation_config.json` may know more ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpecialTokens {
    /// Begins a sequence.
    pub bos: Option<u32>,
    /// Each ends a sequence.
    pub eos: Vec<u32>,
    /// Fills up a batch.
    pub pad: Option<u32>,
}

impl DecoderConfig {
    /// Reads `config.json` in a model folder.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join("config.json");
        if !path.is_file() {
            let found = describe_folder(folder)?;
            return Err(Error::NotAModelFolder { path: folder.into(), wanted: "config.json", found });
        }
        let bytes = read_limited(&path, MAX_CONFIG_BYTES)?;
        let value = serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: path.clone(), source })?;
        families::decoder_config(&Fields::root(&path, &value)?)
    }

    /// Reads the content of a `config.json`.
    pub fn from_json(value: &Value) -> Result<Self> {
        families::decoder_config(&Fields::root(Path::new("config.json"), value)?)
    }

    /// Refuses a configuration that no decoder can have.
    ///
    /// After it, sizes are neither zero nor so large that a product of them overflows.
    pub fn validate(&self) -> Result<()> {
        self.check(Path::new("DecoderConfig"))
    }

    /// As [`DecoderConfig::validate`], for a configuration from the file at `path`.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
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
                return Err(wrong(path, key, value, format!("a whole number from 1 to {most}")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("a divisor of num_attention_heads, which is {}", self.heads);
            return Err(wrong(path, "num_key_value_heads", self.kv_heads, expected));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(wrong(path, "head_dim", self.head_dim, "an even number, because dimensions rotate in pairs"));
        }
        if self.heads * self.head_dim > MAX_WIDTH {
            let expected = format!("at most {MAX_WIDTH} over all {} heads", self.heads);
            return Err(wrong(path, "head_dim", self.head_dim, expected));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(wrong(path, "rms_norm_eps", format!("{:?}", self.norm_eps), "a number between 0 and 1"));
        }
        self.rope.check(path, self.head_dim)?;
        if self.windows.len() != self.layers {
            let expected = format!("one entry for each of the {} blocks", self.layers);
            return Err(wrong(path, "layer_types", format!("of length {}", self.windows.len()), expected));
        }
        if let Some(window) = self.windows.iter().flatten().find(|w| !(1..=MAX_POSITIONS).contains(*w)) {
            return Err(wrong(path, "sliding_window", window, format!("a whole number from 1 to {MAX_POSITIONS}")));
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

    /// Every tensor that the decoder needs, in the order of the forward pass; a tied output head is none.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        families::expected_tensors(self).collect()
    }

    /// The number of parameters, a tied output head counted once.
    pub fn parameters(&self) -> u128 {
        let shapes = families::expected_tensors(self);
        shapes.map(|tensor| tensor.shape.iter().map(|n| *n as u128).product::<u128>()).sum()
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
