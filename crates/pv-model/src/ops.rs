//! The decoder's operations: on any device through Burn's tensors, and on the CPU through our own kernels for f32
//! tensors, with gradients or without. The tests compare all implementations with the same references.
//!
//! A device with gradient checkpointing uses the portable operations, also on the CPU.

mod cpu;
mod cpu_autodiff;
mod experts;
mod kv_cache;
mod lora;
mod packed;
mod portable;
mod ragged;
mod rotary;
#[cfg(test)]
mod tests;
mod weight;

use std::ops::Range;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use pv_hooks::TokenSpans;

use crate::Result;
use crate::config::{Activation, DecoderConfig, NormWeights, RotaryPairs};
use crate::tensors::to_f32;

pub(crate) use experts::Routing;
pub(crate) use kv_cache::LayerCache;
pub use kv_cache::{CacheType, KvCache};
pub(crate) use lora::{LoraPlace, LoraTerm, lora_add};
pub use packed::PackedMatrix;
pub(crate) use portable::PassContext;
pub(crate) use ragged::Ragged;
pub(crate) use rotary::{RotaryAngles, RotaryTable};
pub use weight::Weight;

/// Indices as a tensor, `[n]`.
pub(crate) fn indices(values: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// The position of a pass's window in the cached columns.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// The length of the window.
    pub(crate) seq: usize,
    /// The first column of the window.
    pub(crate) column: usize,
    /// The first column of each row that contains a token.
    pub(crate) starts: Vec<usize>,
}

impl Window {
    /// A window without a cache.
    pub(crate) fn whole(spans: &TokenSpans) -> Self {
        let starts = spans.rows().iter().map(|row| row.padding).collect();
        Self { seq: spans.seq(), column: 0, starts }
    }

    /// The number of tokens in each row.
    fn lengths(&self) -> impl Iterator<Item = usize> {
        self.starts.iter().map(|start| self.seq - start.saturating_sub(self.column).min(self.seq))
    }

    /// The rows, longest first, in groups in which none is less than half as long as the longest.
    fn rows_of_like_length(&self) -> Vec<Vec<usize>> {
        let mut rows: Vec<(usize, usize)> = self.lengths().zip(0..).collect();
        rows.sort_by_key(|(length, row)| (std::cmp::Reverse(*length), *row));
        let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
        for (length, row) in rows {
            match groups.last_mut().filter(|(longest, _)| 2 * length >= *longest) {
                Some((_, group)) => group.push(row),
                None => groups.push((length, vec![row])),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }

    /// The window of some rows alone, without the columns that are padding in all of them.
    fn of_rows(&self, rows: &[usize]) -> Self {
        let lengths: Vec<usize> = self.lengths().collect();
        let seq = rows.iter().map(|row| lengths[*row]).max().unwrap_or(0);
        Self { seq, column: 0, starts: rows.iter().map(|row| seq - lengths[*row]).collect() }
    }

    /// The position of each token, row after row; padding has position 0.
    pub(crate) fn positions(&self) -> Vec<usize> {
        let columns = self.column..self.column + self.seq;
        self.starts.iter().flat_map(|start| columns.clone().map(move |c| c.saturating_sub(*start))).collect()
    }
}

/// The dimensions of attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionShape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) window: Option<usize>,
    pub(crate) scale: f64,
    /// The bound of the scores.
    pub(crate) softcap: Option<f64>,
    /// The index of the rotary settings, see [`RotaryAngles`].
    pub(crate) rope: usize,
    pub(crate) pairs: RotaryPairs,
}

impl AttentionShape {
    /// The attention of a block with this window.
    pub(crate) fn of(config: &DecoderConfig, window: Option<usize>) -> Self {
        Self {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            window,
            scale: config.scales.attention.unwrap_or_else(|| 1.0 / (config.head_dim as f64).sqrt()),
            softcap: config.softcaps.attention,
            rope: usize::from(window.is_some() && config.local_rope.is_some()),
            pairs: config.rotary_pairs,
        }
    }

    /// The columns of stacked queries, keys and values that contain no values: the queries' and the keys'.
    fn parts(&self) -> [Range<usize>; 2] {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        [0..queries, queries..queries + keys]
    }
}

/// The factors of a norm from its weights. One plus a weight is computed in f32, which half precision would round; the
/// norm's result is rounded after the product then.
pub(crate) fn norm_factors(w: Tensor<1>, kind: NormWeights) -> Tensor<1> {
    match kind {
        NormWeights::Factors => w,
        NormWeights::OnePlus => w.cast(DType::F32) + 1.0,
    }
}

/// `c · tanh(x / c)`.
pub(crate) fn softcap<const D: usize>(x: Tensor<D>, c: f64) -> Tensor<D> {
    (x / c).tanh() * c
}

/// `x · wᵀ + bias`: `[tokens, in]`, `[out, in]`, `[out]` to `[tokens, out]`.
pub(crate) fn linear(x: Tensor<2>, w: &Weight, bias: Option<&Tensor<1>>) -> Tensor<2> {
    let w = match w {
        Weight::Packed(matrix) => return packed::linear(x, matrix, bias),
        Weight::Tensor(tensor) => tensor.val(),
    };
    let w = if matches!(w.dtype(), DType::QFloat(_)) { w.dequantize().cast(x.dtype()) } else { w };
    cpu::linear(&x, &w, bias)
        .or_else(|| cpu_autodiff::linear(&x, &w, bias, true))
        .unwrap_or_else(|| portable::linear(x, &w, bias))
}

/// Like [`linear`], for a result whose gradient is needed and whose values are not: they are arbitrary, and not computed
/// where there is a way without.
pub(crate) fn linear_for_gradient(x: Tensor<2>, w: &Weight, bias: Option<&Tensor<1>>) -> Tensor<2> {
    let recorded = match w {
        _ if !x.is_autodiff() => None,
        Weight::Packed(matrix) => packed::recorded(&x, matrix, bias, false),
        Weight::Tensor(tensor) => cpu_autodiff::linear(&x, &tensor.val(), bias, false),
    };
    recorded.unwrap_or_else(|| linear(x, w, bias))
}

/// `x / rms(x) · w` over the last dimension, `[tokens, d]`; the norm is computed in f32.
pub(crate) fn rms_norm(x: Tensor<2>, w: &Tensor<1>, eps: f64) -> Tensor<2> {
    cpu::rms_norm(&x, w, eps)
        .or_else(|| cpu_autodiff::rms_norm(&x, w, eps))
        .unwrap_or_else(|| portable::rms_norm(x, w, eps))
}

/// `x + delta`, of equal shapes.
pub(crate) fn add(x: Tensor<2>, delta: Tensor<2>) -> Tensor<2> {
    cpu::add(x, &delta).unwrap_or_else(|x| x + delta)
}

/// `x + delta`, and the norm of that sum: both are needed between two sublayers.
pub(crate) fn add_rms_norm(x: Tensor<2>, delta: Tensor<2>, w: &Tensor<1>, eps: f64) -> (Tensor<2>, Tensor<2>) {
    cpu::add_rms_norm(x, &delta, w, eps).unwrap_or_else(|x| {
        cpu_autodiff::add_rms_norm(&x, &delta, w, eps).unwrap_or_else(|| {
            let sum = x + delta;
            (sum.clone(), portable::rms_norm(sum, w, eps))
        })
    })
}

/// `activation(gate) · up`, or its clamped form, of stacked `[tokens, 2·d_ff]`, to `[tokens, d_ff]`.
pub(crate) fn gated(gate_up: Tensor<2>, activation: Activation) -> Tensor<2> {
    cpu::gated(&gate_up, activation)
        .or_else(|| cpu_autodiff::gated(&gate_up, activation))
        .unwrap_or_else(|| portable::gated(gate_up, activation))
}

/// The norms of queries and keys inside the stacked `[tokens, (heads + 2·kv_heads)·head_dim]`: of each head, or of all
/// heads together, as the widths of the weights say.
pub(crate) fn qk_norm(qkv: Tensor<2>, q: &Tensor<1>, k: &Tensor<1>, shape: &AttentionShape, eps: f64) -> Tensor<2> {
    cpu::qk_norm(&qkv, q, k, shape, eps)
        .or_else(|| cpu_autodiff::qk_norm(&qkv, q, k, shape, eps))
        .unwrap_or_else(|| portable::qk_norm(qkv, q, k, shape, eps))
}

/// Causal grouped-query attention of a window, including the rotary embedding: stacked queries, keys and values
/// `[tokens, (heads + 2·kv_heads)·head_dim]` to the heads' outputs `[tokens, heads·head_dim]`. With a cache, the
/// window's keys and values are written to it and all its columns are read. If the context is packed, so are the
/// argument and the result. `sinks`, `[heads]`, join the softmax's sum. Without a cache, rows of very different lengths are
/// computed apart, so that a long row costs the short ones neither memory nor time.
pub(crate) fn attention(
    qkv: Tensor<2>,
    sinks: Option<&Tensor<1>>,
    shape: &AttentionShape,
    context: &PassContext,
    cache: Option<&mut LayerCache>,
) -> Tensor<2> {
    let qkv = match shape.pairs {
        RotaryPairs::Halves => qkv,
        // The order of a head's dimensions changes no score, as long as it is that of queries and keys.
        RotaryPairs::Neighbours => qkv.select(1, context.neighbours_apart(shape)),
    };
    if context.buckets.is_empty() {
        return context.pack(padded_attention(context.unpack(qkv), sinks, shape, context, cache));
    }
    let width = qkv.dims()[1];
    let bucket = |(tokens, context): &(Range<usize>, PassContext)| {
        let qkv = qkv.clone().slice([tokens.clone(), 0..width]);
        context.pack(padded_attention(context.unpack(qkv), sinks, shape, context, None))
    };
    Tensor::cat(context.buckets.iter().map(bucket).collect(), 0)
}

fn padded_attention(
    qkv: Tensor<2>,
    sinks: Option<&Tensor<1>>,
    shape: &AttentionShape,
    context: &PassContext,
    mut cache: Option<&mut LayerCache>,
) -> Tensor<2> {
    if let Some(out) = cpu::attention(&qkv, sinks, shape, context, cache.as_deref_mut()) {
        return out;
    }
    let recorded = if cache.is_none() { cpu_autodiff::attention(&qkv, sinks, shape, context) } else { None };
    // Half precision on the CPU: in f32, which needs no matrix of scores.
    let wide =
        || (cache.is_none() && context.on_cpu()).then(|| attention_in_f32(&qkv, sinks, shape, context)).flatten();
    recorded.or_else(wide).unwrap_or_else(|| portable::attention(qkv, sinks, shape, context, cache))
}

fn attention_in_f32(
    qkv: &Tensor<2>,
    sinks: Option<&Tensor<1>>,
    shape: &AttentionShape,
    context: &PassContext,
) -> Option<Tensor<2>> {
    let dtype = qkv.dtype();
    let wide = Some(qkv).filter(|_| dtype != DType::F32)?.clone().cast(DType::F32);
    let sinks = sinks.map(|sinks| sinks.clone().cast(DType::F32));
    let out = cpu::attention(&wide, sinks.as_ref(), shape, context, None)
        .or_else(|| cpu_autodiff::attention(&wide, sinks.as_ref(), shape, context))?;
    Some(out.cast(dtype))
}

/// One step of AdamW on the CPU for a parameter and its two moments, `[n]` in f32 without autodiff, in their own storage if
/// they are its only owners. Returns the arguments as the error on other devices and for other types.
#[doc(hidden)]
#[expect(clippy::result_large_err, reason = "the error is the arguments themselves")]
pub fn adamw(
    rule: &pv_kernels::adamw::AdamW,
    gradient: &Tensor<1>,
    state: [Tensor<1>; 3],
) -> Result<[Tensor<1>; 3], [Tensor<1>; 3]> {
    cpu::adamw(rule, gradient, state)
}

/// The sum over rows of logits, `[n, vocab]` in f32, of the cross-entropy −log softmax at the row's target: `[1]`.
/// Differentiable with respect to the logits.
///
/// # Panics
/// If the numbers of targets and rows differ, or a target is not below `vocab`.
pub fn cross_entropy(logits: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let [n, vocab] = logits.dims();
    assert!(
        targets.len() == n && targets.iter().all(|target| (*target as usize) < vocab),
        "targets do not match the logits"
    );
    cpu::cross_entropy(&logits, targets)
        .or_else(|| cpu_autodiff::cross_entropy(&logits, targets))
        .unwrap_or_else(|| portable::cross_entropy(logits, targets))
}

/// The natural logarithm of the probability of each row's target under its logits, `[n, vocab]` in f32. Targets are
/// below `vocab`.
pub(crate) fn log_probs(logits: Tensor<2>, targets: &[u32]) -> Result<Vec<f32>> {
    match cpu::log_probs(&logits, targets) {
        Some(found) => Ok(found),
        None => to_f32(portable::log_probs(logits, targets)),
    }
}
