//! What checkpoints call their tensors.

use crate::config::{DecoderConfig, MlpBias, OutputHead, QkNorm};

/// What a checkpoint calls its tensors. Names within a block lack the block's prefix; see [`TensorNames::in_block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorNames {
    /// The embedding, `[vocab, d_model]`.
    pub embedding: &'static str,
    /// What comes before the block's index.
    pub blocks: &'static str,
    /// The norm before attention, `[d_model]`.
    pub attention_norm: &'static str,
    /// Query projection without `.weight` or `.bias`.
    pub query: &'static str,
    /// Key projection.
    pub key: &'static str,
    /// Value projection.
    pub value: &'static str,
    /// Attention's output projection.
    pub output: &'static str,
    /// The norm of each query head, `[head_dim]`.
    pub query_norm: &'static str,
    /// The norm of each key head, `[head_dim]`.
    pub key_norm: &'static str,
    /// The norm before the feed-forward part, `[d_model]`.
    pub mlp_norm: &'static str,
    /// Gate projection.
    pub gate: &'static str,
    /// Up projection.
    pub up: &'static str,
    /// Down projection.
    pub down: &'static str,
    /// The norm after the last block, `[d_model]`.
    pub final_norm: &'static str,
    /// The untied output head, `[vocab, d_model]`.
    pub output_head: &'static str,
}

impl TensorNames {
    /// The names that all supported families share.
    pub const HUGGING_FACE: Self = Self {
        embedding: "model.embed_tokens.weight",
        blocks: "model.layers",
        attention_norm: "input_layernorm.weight",
        query: "self_attn.q_proj",
        key: "self_attn.k_proj",
        value: "self_attn.v_proj",
        output: "self_attn.o_proj",
        query_norm: "self_attn.q_norm.weight",
        key_norm: "self_attn.k_norm.weight",
        mlp_norm: "post_attention_layernorm.weight",
        gate: "mlp.gate_proj",
        up: "mlp.up_proj",
        down: "mlp.down_proj",
        final_norm: "model.norm.weight",
        output_head: "lm_head.weight",
    };

    /// The full name of a block's tensor, such as `model.layers.3.input_layernorm.weight`.
    pub fn in_block(&self, block: usize, name: &str) -> String {
        format!("{}.{block}.{name}", self.blocks)
    }
}

/// A tensor that a decoder needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape there; a projection's is `[out, in]`.
    pub shape: Vec<usize>,
}

/// Every tensor of the decoder in the order of the forward pass; a tied output head is none.
///
/// An iterator, so that counting a hostile configuration's parameters allocates nothing large.
pub(crate) fn expected_tensors(config: &DecoderConfig) -> impl Iterator<Item = ExpectedTensor> + '_ {
    let names = &config.names;
    let tensor = |name: &str, shape: &[usize]| ExpectedTensor { name: name.into(), shape: shape.into() };
    let before = [tensor(names.embedding, &[config.vocab, config.d_model])];
    let blocks = (0..config.layers).flat_map(|block| in_block(config, block));
    let head = match config.output_head {
        OutputHead::Tied => None,
        OutputHead::Untied => Some(tensor(names.output_head, &[config.vocab, config.d_model])),
    };
    let after = [tensor(names.final_norm, &[config.d_model])];
    before.into_iter().chain(blocks).chain(after).chain(head)
}

fn in_block(config: &DecoderConfig, block: usize) -> Vec<ExpectedTensor> {
    let names = &config.names;
    let (d_model, d_ff, queries, keys) = (config.d_model, config.d_ff, config.query_width(), config.kv_width());
    let vector = |name: &str, width: usize| ExpectedTensor { name: names.in_block(block, name), shape: vec![width] };
    let mut tensors = vec![vector(names.attention_norm, d_model)];
    let qkv = config.attention_bias.on_qkv();
    let mlp = config.mlp_bias == MlpBias::All;
    let mut linear = |name: &str, output: usize, input: usize, bias: bool| {
        let name = names.in_block(block, name);
        tensors.push(ExpectedTensor { name: format!("{name}.weight"), shape: vec![output, input] });
        if bias {
            tensors.push(ExpectedTensor { name: format!("{name}.bias"), shape: vec![output] });
        }
    };
    linear(names.query, queries, d_model, qkv);
    linear(names.key, keys, d_model, qkv);
    linear(names.value, keys, d_model, qkv);
    linear(names.output, d_model, queries, config.attention_bias.on_output());
    linear(names.gate, d_ff, d_model, mlp);
    linear(names.up, d_ff, d_model, mlp);
    linear(names.down, d_model, d_ff, mlp);
    if config.qk_norm == QkNorm::PerHead {
        tensors.push(vector(names.query_norm, config.head_dim));
        tensors.push(vector(names.key_norm, config.head_dim));
    }
    tensors.push(vector(names.mlp_norm, d_model));
    tensors
}
