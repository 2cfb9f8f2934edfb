//! The decoder's operations on the CPU backend's own storage.

use super::{AttentionShape, LayerCache, PassContext, Tensor};

pub(super) fn linear(_x: &Tensor<2>, _w: &Tensor<2>, _bias: Option<&Tensor<1>>) -> Option<Tensor<2>> {
    None
}

pub(super) fn rms_norm(_x: &Tensor<2>, _w: &Tensor<1>, _eps: f64) -> Option<Tensor<2>> {
    None
}

pub(super) fn swiglu(_gate_up: &Tensor<2>) -> Option<Tensor<2>> {
    None
}

pub(super) fn attention(
    _qkv: &Tensor<2>,
    _shape: &AttentionShape,
    _context: &PassContext,
    _cache: Option<&mut LayerCache>,
) -> Option<Tensor<2>> {
    None
}
