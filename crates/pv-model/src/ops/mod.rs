//! The decoder's operations: on any device through Burn's tensors, and on the CPU through kernels of our own where a
//! tensor is plain f32, with gradients or without. All ways are held to the same references by the tests.
//!
//! A device with gradient checkpointing takes the portable operations, on the CPU too.

mod cpu;
mod cpu_autodiff;
mod lora;
mod portable;
mod ragged;
#[cfg(test)]
mod tests;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use pv_hooks::TokenSpans;

use crate::decoder::{LayerCache, RotaryAngles};
use crate::{Result, to_f32};

pub(crate) use lora::{LoraPlace, LoraTerm, lora_add};
pub(crate) use portable::PassContext;
pub(crate) use ragged::Ragged;

/// Indices as a tensor, `[n]`.
pub(crate) fn indices(values: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// Where a pass's window lies among the cached columns.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// The window's length.
    pub(crate) seq: usize,
    /// Its first column.
    pub(crate) column: usize,
    /// The first column of each row that holds a token.
    pub(crate) starts: Vec<usize>,
}

impl Window {
    /// A window that is all there is.
    pub(crate) fn whole(spans: &TokenSpans) -> Self {
        let starts = spans.rows().iter().map(|row| row.padding).collect();
        Self { seq: spans.seq(), column: 0, starts }
    }

    /// The position of each token, row after row; padding counts as position 0.
    pub(crate) fn positions(&self) -> Vec<usize> {
        let columns = self.column..self.column + self.seq;
        self.starts.iter().flat_map(|start| columns.clone().map(move |c| c.saturating_sub(*start))).collect()
    }
}

/// The attention's dimensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionShape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) window: Option<usize>,
    pub(crate) scale: f64,
}

/// `x · wᵀ + bias`: `[tokens, in]`, `[out, in]`, `[out]` to `[tokens, out]`.
pub(crate) fn linear(x: Tensor<2>, w: &Tensor<2>, bias: Option<&Tensor<1>>) -> Tensor<2> {
    cpu::linear(&x, w, bias)
        .or_else(|| cpu_autodiff::linear(&x, w, bias))
        .unwrap_or_else(|| portable::linear(x, w, bias))
}

/// `x / rms(x) · w` over the last dimension, `[tokens, d]`; the norm itself in f32.
pub(crate) fn rms_norm(x: Tensor<2>, w: &Tensor<1>, eps: f64) -> Tensor<2> {
    cpu::rms_norm(&x, w, eps)
        .or_else(|| cpu_autodiff::rms_norm(&x, w, eps))
        .unwrap_or_else(|| portable::rms_norm(x, w, eps))
}

/// `x + delta`, all of one shape.
pub(crate) fn add(x: Tensor<2>, delta: Tensor<2>) -> Tensor<2> {
    cpu::add(x, &delta).unwrap_or_else(|x| x + delta)
}

/// `x + delta`, and the norm of that: both are needed where a sublayer ends and the next begins.
pub(crate) fn add_rms_norm(x: Tensor<2>, delta: Tensor<2>, w: &Tensor<1>, eps: f64) -> (Tensor<2>, Tensor<2>) {
    cpu::add_rms_norm(x, &delta, w, eps).unwrap_or_else(|x| {
        cpu_autodiff::add_rms_norm(&x, &delta, w, eps).unwrap_or_else(|| {
            let sum = x + delta;
            (sum.clone(), portable::rms_norm(sum, w, eps))
        })
    })
}

/// `silu(gate) · up` of stacked `[tokens, 2·d_ff]`, to `[tokens, d_ff]`.
pub(crate) fn swiglu(gate_up: Tensor<2>) -> Tensor<2> {
    cpu::swiglu(&gate_up).or_else(|| cpu_autodiff::swiglu(&gate_up)).unwrap_or_else(|| portable::swiglu(gate_up))
}

/// The per-head norms of queries and keys inside the stacked `[tokens, (heads + 2·kv_heads)·head_dim]`.
pub(crate) fn qk_norm(qkv: Tensor<2>, q: &Tensor<1>, k: &Tensor<1>, shape: &AttentionShape, eps: f64) -> Tensor<2> {
    cpu::qk_norm(&qkv, q, k, shape, eps)
        .or_else(|| cpu_autodiff::qk_norm(&qkv, q, k, shape, eps))
        .unwrap_or_else(|| portable::qk_norm(qkv, q, k, shape, eps))
}

/// Causal grouped-query attention of a window, rotary embedding included: stacked queries, keys and values
/// `[tokens, (heads + 2·kv_heads)·head_dim]` to the heads' outputs `[tokens, heads·head_dim]`. With a cache, the
/// window's keys and values are written into it and all its columns are read. Where the context leaves padding out, so do
/// argument and result.
pub(crate) fn attention(
    qkv: Tensor<2>,
    shape: &AttentionShape,
    context: &PassContext,
    cache: Option<&mut LayerCache>,
) -> Tensor<2> {
    context.leave_out(padded_attention(context.fill_in(qkv), shape, context, cache))
}

fn padded_attention(
    qkv: Tensor<2>,
    shape: &AttentionShape,
    context: &PassContext,
    mut cache: Option<&mut LayerCache>,
) -> Tensor<2> {
    if let Some(out) = cpu::attention(&qkv, shape, context, cache.as_deref_mut()) {
        return out;
    }
    let recorded = if cache.is_none() { cpu_autodiff::attention(&qkv, shape, context) } else { None };
    recorded.unwrap_or_else(|| portable::attention(qkv, shape, context, cache))
}

/// The sum over rows of logits, `[n, vocab]` in f32, of the cross-entropy −log softmax at the row's target: `[1]`.
/// Differentiable with respect to the logits.
///
/// # Panics
/// When there are not as many targets as rows, or one is not below `vocab`.
pub fn cross_entropy(logits: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let [n, vocab] = logits.dims();
    assert!(
        targets.len() == n && targets.iter().all(|target| (*target as usize) < vocab),
        "targets do not fit the logits"
    );
    cpu::cross_entropy(&logits, targets)
        .or_else(|| cpu_autodiff::cross_entropy(&logits, targets))
        .unwrap_or_else(|| portable::cross_entropy(logits, targets))
}

/// The natural logarithm of the probability that rows of logits, `[n, vocab]` in f32, give their targets, which are below
/// `vocab`.
pub(crate) fn log_probs(logits: Tensor<2>, targets: &[u32]) -> Result<Vec<f32>> {
    match cpu::log_probs(&logits, targets) {
        Some(found) => Ok(found),
        None => to_f32(portable::log_probs(logits, targets)),
    }
}
