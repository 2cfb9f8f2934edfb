//! The low-rank update of a projection, three ways: on plain f32 tensors of the CPU, as a node of an autodiff graph
//! there, and in Burn's tensors. No way forms a product of a weight's size, forward or backward.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn_flex::FlexTensor;

use super::cpu::{storage, values, writable};
use super::cpu_autodiff::{Argument, held, plain, primitive, product, record, upstream};
use super::{Tensor, cpu};
use crate::kernels;

/// Where an update goes and how strongly: `y[:, first..first + out] += scale · (x·Aᵀ)·Bᵀ`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LoraPlace {
    /// The first column of `y`.
    pub(crate) first: usize,
    /// The factor.
    pub(crate) scale: f64,
}

/// Adds an update to `y` `[tokens, width]`, the frozen projection's output, from its input `x` `[tokens, in]` with `a`
/// `[rank, in]` and `b` `[out, rank]`. `a` and `b` may be of another float type than `x` and `y`: the update is computed
/// in theirs, and rounded to `y`'s when it is added.
pub(crate) fn lora_add(y: Tensor<2>, x: &Tensor<2>, a: &Tensor<2>, b: &Tensor<2>, place: LoraPlace) -> Tensor<2> {
    let y = match on_cpu(y, x, a, b, place) {
        Ok(sum) => return sum,
        Err(y) => y,
    };
    match recorded(y, x, a, b, place) {
        Ok(sum) => sum,
        Err(y) => portable(y, x, a, b, place),
    }
}

/// `(x·Aᵀ)·Bᵀ` added into `y`, and `x·Aᵀ`.
fn add_into(y: &mut [f32], width: usize, x: &[f32], a: &[f32], b: &[f32], rank: usize, place: LoraPlace) -> Vec<f32> {
    let (tokens, inputs, out) = (y.len() / width, a.len() / rank, b.len() / rank);
    let mut low = vec![0.0; tokens * rank];
    kernels::linear(x, a, None, &mut low, tokens, inputs, rank);
    let mut delta = vec![0.0; tokens * out];
    kernels::linear(&low, b, None, &mut delta, tokens, rank, out);
    kernels::add_columns(y, width, place.first, &delta, out, place.scale as f32);
    low
}

#[expect(clippy::result_large_err, reason = "what comes back is the argument, not an error to carry around")]
pub(super) fn on_cpu(
    y: Tensor<2>,
    x: &Tensor<2>,
    a: &Tensor<2>,
    b: &Tensor<2>,
    place: LoraPlace,
) -> Result<Tensor<2>, Tensor<2>> {
    let ([_, width], [rank, _]) = (y.dims(), a.dims());
    let stored = storage(x).zip(storage(a)).zip(storage(b));
    let Some((mut sum, ((x, a), b))) = stored.and_then(|stored| Some((writable(&y)?, stored))) else { return Err(y) };
    let (Some(x), Some(a), Some(b)) = (values(&x), values(&a), values(&b)) else { return Err(y) };
    drop(y);
    add_into(sum.storage_mut::<f32>(), width, x, a, b, rank, place);
    Ok(Tensor::from_primitive::<Flex>(sum))
}

/// `y`, `x`, `a`, `b`.
#[derive(Debug)]
struct LoraAdd;

#[derive(Clone, Debug)]
struct LoraAddState {
    x: FlexTensor,
    a: FlexTensor,
    b: FlexTensor,
    /// `x·Aᵀ`.
    low: FlexTensor,
    place: LoraPlace,
}

impl Backward<Flex, 4> for LoraAdd {
    type State = LoraAddState;

    fn backward(self, ops: Ops<LoraAddState, 4>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream = upstream(&ops, gradients);
        let LoraAddState { x, a, b, low, place } = ops.state;
        let [tokens, width] = [0, 1].map(|dim| upstream.layout().shape()[dim]);
        let out = b.layout().shape()[0];
        // The update's columns of the gradient, scaled.
        let mut columns = vec![0.0; tokens * out];
        kernels::take_columns(held(&upstream), width, place.first, &mut columns, out, place.scale as f32);
        let columns = cpu::tensor(columns, [tokens, out]);
        let [to_y, to_x, to_a, to_b] = ops.parents;
        if to_x.is_some() || to_a.is_some() {
            let low_gradient = plain(&product(columns.clone(), plain(&b)));
            if let Some(node) = to_x {
                gradients.register::<Flex>(node.id, product(low_gradient.clone(), plain(&a)));
            }
            if let Some(node) = to_a {
                gradients.register::<Flex>(node.id, product(low_gradient.transpose(), plain(&x)));
            }
        }
        if let Some(node) = to_b {
            gradients.register::<Flex>(node.id, product(columns.transpose(), plain(&low)));
        }
        if let Some(node) = to_y {
            gradients.register::<Flex>(node.id, upstream);
        }
    }
}

#[expect(clippy::result_large_err, reason = "as for `on_cpu`")]
pub(super) fn recorded(
    y: Tensor<2>,
    x: &Tensor<2>,
    a: &Tensor<2>,
    b: &Tensor<2>,
    place: LoraPlace,
) -> Result<Tensor<2>, Tensor<2>> {
    let ([tokens, width], [rank, _]) = (y.dims(), a.dims());
    let arguments = [&y, x, a, b].map(Argument::of);
    let [Some(summand), Some(x), Some(a), Some(b)] = arguments else { return Err(y) };
    drop(y);
    // In the summand's own storage when nobody else holds it and it is its alone.
    let mut sum = summand.values;
    if size_of_val(held(&sum)) != sum.bytes().len() {
        sum = primitive(held(&sum).to_vec(), [tokens, width]);
    }
    let low = add_into(sum.storage_mut::<f32>(), width, held(&x.values), held(&a.values), held(&b.values), rank, place);
    let nodes = [summand.node, x.node, a.node, b.node];
    let state = || LoraAddState { x: x.values, a: a.values, b: b.values, low: primitive(low, [tokens, rank]), place };
    Ok(record(LoraAdd, nodes, state, sum))
}

pub(super) fn portable(y: Tensor<2>, x: &Tensor<2>, a: &Tensor<2>, b: &Tensor<2>, place: LoraPlace) -> Tensor<2> {
    let ([tokens, width], [out, _]) = (y.dims(), b.dims());
    let x = if x.dtype() == a.dtype() { x.clone() } else { x.clone().cast(a.dtype()) };
    let delta = x.matmul(a.clone().transpose()).matmul(b.clone().transpose()) * place.scale;
    let delta = if delta.dtype() == y.dtype() { delta } else { delta.cast(y.dtype()) };
    if out == width {
        return y + delta;
    }
    let columns = [0..tokens, place.first..place.first + out];
    // A plain tensor cannot take a part that is tracked.
    let y = if delta.is_autodiff() { y.autodiff() } else { y };
    let sum = y.clone().slice(columns.clone()) + delta;
    y.slice_assign(columns, sum)
}
