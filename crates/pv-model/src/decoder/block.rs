//! One transformer block: attention and a gated MLP, each behind a norm and added to the residual.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{LayerCache, LoraUpdate};
use crate::config::DecoderConfig;
use crate::ops::{self, AttentionShape, PassContext};

/// A linear map, kept as it is on disk: `[out, in]`.
#[derive(Module, Debug)]
pub struct Projection {
    /// The weight, `[out, in]`; integers and their scales in a decoder that is [quantized](super::Decoder::quantized).
    pub weight: Param<Tensor<2>>,
    /// The bias, `[out]`, where the model has one.
    pub bias: Option<Param<Tensor<1>>>,
    /// Updates of adapters, in the order in which they were put on.
    pub lora: Vec<LoraUpdate>,
}

impl Projection {
    pub(crate) fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self { weight: Param::from_tensor(weight), bias: bias.map(Param::from_tensor), lora: Vec::new() }
    }

    /// `[tokens, in]` to `[tokens, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let bias = self.bias.as_ref().map(Param::val);
        let weight = self.weight_in(x.dtype());
        if self.lora.is_empty() {
            return ops::linear(x, &weight, bias.as_ref());
        }
        let y = ops::linear(x.clone(), &weight, bias.as_ref());
        LoraUpdate::add_all(&self.lora, y, &x)
    }
}

/// One transformer block. Projections that read the same input are stacked, so that each is one product.
#[derive(Module, Debug)]
pub struct Block {
    /// The norm before attention, `[d_model]`.
    pub attention_norm: Param<Tensor<1>>,
    /// Queries, keys and values, stacked: `[(heads + 2·kv_heads)·head_dim, d_model]`.
    pub qkv: Projection,
    /// A norm over each query head, `[head_dim]`, where the model has one.
    pub q_norm: Option<Param<Tensor<1>>>,
    /// A norm over each key head, `[head_dim]`, where the model has one.
    pub k_norm: Option<Param<Tensor<1>>>,
    /// The heads' outputs back to the residual: `[d_model, heads·head_dim]`.
    pub out: Projection,
    /// The norm before the MLP, `[d_model]`.
    pub mlp_norm: Param<Tensor<1>>,
    /// Gate and up projections, stacked: `[2·d_ff, d_model]`.
    pub gate_up: Projection,
    /// Down projection, `[d_model, d_ff]`.
    pub down: Projection,
}

impl Block {
    pub(crate) fn new(
        attention_norm: Tensor<1>,
        qkv: Projection,
        qk_norm: Option<(Tensor<1>, Tensor<1>)>,
        out: Projection,
        mlp_norm: Tensor<1>,
        gate_up: Projection,
        down: Projection,
    ) -> Self {
        let (q_norm, k_norm) = qk_norm.unzip();
        Self {
            attention_norm: Param::from_tensor(attention_norm),
            qkv,
            q_norm: q_norm.map(Param::from_tensor),
            k_norm: k_norm.map(Param::from_tensor),
            out,
            mlp_norm: Param::from_tensor(mlp_norm),
            gate_up,
            down,
        }
    }

    /// The residual `[tokens, d_model]` before the block to the residual after it.
    pub(crate) fn forward(
        &self,
        x: Tensor<2>,
        context: &PassContext,
        window: Option<usize>,
        cache: Option<&mut LayerCache>,
        config: &DecoderConfig,
    ) -> Tensor<2> {
        let shape = AttentionShape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            window,
            scale: 1.0 / (config.head_dim as f64).sqrt(),
        };
        let qkv = self.qkv.forward(ops::rms_norm(x.clone(), &self.attention_norm.val(), config.norm_eps));
        let qkv = match (&self.q_norm, &self.k_norm) {
            (Some(q), Some(k)) => ops::qk_norm(qkv, &q.val(), &k.val(), &shape, config.norm_eps),
            _ => qkv,
        };
        let attended = ops::attention(qkv, &shape, context, cache);
        let (x, normed) = ops::add_rms_norm(x, self.out.forward(attended), &self.mlp_norm.val(), config.norm_eps);
        let gate_up = self.gate_up.forward(normed);
        ops::add(x, self.down.forward(ops::swiglu(gate_up)))
    }
}
