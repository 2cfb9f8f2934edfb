//! Numbers in and out of tensors, and a model that consists of its residuals.

use burn::tensor::{Device, Tensor, TensorData};
use pv_hooks::tokens::RowSpans;
use pv_hooks::{Hook, Layer, LayerSet, ModelShape, Phase, ResidualContext, TokenSpans};

/// The model of these tests: the layers 0, 1, 2 and 3.
pub(crate) const SHAPE: ModelShape = ModelShape { blocks: 3, d_model: 5 };

pub(crate) fn layers() -> impl Iterator<Item = Layer> {
    LayerSet::All.resolve(SHAPE.blocks).into_iter()
}

pub(crate) fn tensor(values: Vec<f32>, dims: [usize; 3], device: &Device) -> Tensor<3> {
    Tensor::from_data(TensorData::new(values, dims), device)
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32 values")
}

pub(crate) fn spans(rows: Vec<RowSpans>, seq: usize) -> TokenSpans {
    TokenSpans::new(rows, seq).expect("possible spans")
}

/// Calls the hook as a model would: at its requested layers, from the lowest up. Each layer's residual is given by
/// `residual`, whatever the result at the layer below.
pub(crate) fn pass(
    hook: &mut (impl Hook + ?Sized),
    phase: Phase,
    spans: &TokenSpans,
    residual: impl Fn(Layer) -> Tensor<3>,
) {
    for layer in layers() {
        if hook.wants(layer) {
            hook.on_residual(&ResidualContext { layer, phase, spans }, residual(layer));
        }
    }
}

/// Reproducible numbers (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between 0 and `n - 1`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Between -4 and 4.
    pub(crate) fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 21) as f32 - 4.0
    }

    /// At least one of the items, in any order.
    pub(crate) fn some<T>(&mut self, items: Vec<T>) -> Vec<T> {
        let mut items = self.shuffled(items);
        items.truncate(1 + self.below(items.len()));
        items
    }

    pub(crate) fn shuffled<T>(&mut self, mut items: Vec<T>) -> Vec<T> {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
        items
    }
}
