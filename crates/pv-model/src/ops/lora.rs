//! The low-rank updates of a projection in three implementations: on f32 tensors of the CPU without autodiff, as a node
//! of an autodiff graph there, and in Burn's tensors. None of them forms a product of a weight's size, forward or
//! backward.
//!
//! Updates with the same input are combined: their A matrices are stacked, so that the input is read once, and its
//! gradient is one product.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops};
use burn_flex::FlexTensor;
use pv_kernels::linear::{Columns, grad_input, grad_input_of, grad_weight, linear, linear_add};

use super::Tensor;
use super::cpu::{storage, values, writable};
use super::cpu_autodiff::{Argument, held, primitive, record, upstream};

/// The number of updates in one node; a projection of a block has at most three, unless it has several adapters.
const TOGETHER: usize = 3;

/// The columns and the scale of an update: `y[:, first..first + out] += scale · (x·Aᵀ)·Bᵀ`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LoraPlace {
    /// The first column of `y`.
    pub(crate) first: usize,
    /// The factor.
    pub(crate) scale: f64,
}

/// One update: `a` `[rank, in]`, `b` `[out, rank]`.
#[derive(Clone, Debug)]
pub(crate) struct LoraTerm {
    pub(crate) a: Tensor<2>,
    pub(crate) b: Tensor<2>,
    pub(crate) place: LoraPlace,
}

impl LoraTerm {
    fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    fn out(&self) -> usize {
        self.b.dims()[0]
    }
}

/// Adds updates of the input `x` `[tokens, in]` to `y` `[tokens, width]`, the frozen projection's output. Updates may
/// have another float type than `x` and `y`: an update is computed in its own type and rounded to that of `y` when it
/// is added.
pub(crate) fn lora_add(y: Tensor<2>, x: &Tensor<2>, terms: &[LoraTerm]) -> Tensor<2> {
    terms.chunks(TOGETHER).fold(y, |y, terms| {
        let y = match on_cpu(y, x, terms) {
            Ok(sum) => return sum,
            Err(y) => y,
        };
        match recorded(y, x, terms) {
            Ok(sum) => sum,
            Err(y) => portable(y, x, terms),
        }
    })
}

/// The columns of an update in `y` and in the stacked x·Aᵀ.
#[derive(Clone, Copy, Debug)]
struct Part {
    rank: usize,
    /// The first of the update's columns of the stacked product.
    at: usize,
    out: usize,
    first: usize,
    scale: f32,
}

impl Part {
    /// The columns in a result of this width.
    fn of(&self, width: usize) -> Columns {
        Columns { width, first: self.first, count: self.out }
    }

    /// The columns in the stacked x·Aᵀ of this width.
    fn of_low(&self, width: usize) -> Columns {
        Columns { width, first: self.at, count: self.rank }
    }
}

fn parts(terms: &[LoraTerm]) -> Vec<Part> {
    let mut at = 0;
    let part = |term: &LoraTerm| {
        let (rank, LoraPlace { first, scale }) = (term.rank(), term.place);
        at += rank;
        Part { rank, at: at - rank, out: term.out(), first, scale: scale as f32 }
    };
    terms.iter().map(part).collect()
}

/// The stacked matrices A, `[all ranks, in]`.
fn stacked(a: &[FlexTensor], inputs: usize) -> FlexTensor {
    match a {
        [one] => one.clone(),
        several => {
            let all: Vec<f32> = several.iter().flat_map(held).copied().collect();
            let ranks = all.len() / inputs.max(1);
            primitive(all, [ranks, inputs])
        }
    }
}

/// Adds the updates to `y`, and returns scale · x·Aᵀ, `[tokens, all ranks]`.
fn add_into(y: &mut [f32], width: usize, x: &[f32], a: &[f32], b: &[&[f32]], parts: &[Part]) -> Vec<f32> {
    let (tokens, ranks) = (y.len() / width, parts.iter().map(|part| part.rank).sum::<usize>());
    let mut low = vec![0.0; tokens * ranks];
    linear(x, a, None, &mut low, tokens, a.len() / ranks, ranks);
    scale_columns(&mut low, ranks, parts);
    for (part, b) in parts.iter().zip(b) {
        linear_add(&low, part.of_low(ranks), b, y, part.of(width));
    }
    low
}

fn scale_columns(low: &mut [f32], ranks: usize, parts: &[Part]) {
    for row in low.chunks_exact_mut(ranks) {
        for part in parts {
            row[part.at..part.at + part.rank].iter_mut().for_each(|value| *value *= part.scale);
        }
    }
}

#[expect(clippy::result_large_err, reason = "the error is the argument itself")]
pub(super) fn on_cpu(y: Tensor<2>, x: &Tensor<2>, terms: &[LoraTerm]) -> Result<Tensor<2>, Tensor<2>> {
    let ([_, width], [_, inputs], parts) = (y.dims(), x.dims(), parts(terms));
    let all = |of: fn(&LoraTerm) -> &Tensor<2>| terms.iter().map(|term| storage(of(term))).collect::<Option<Vec<_>>>();
    let stored = storage(x).zip(all(|term| &term.a)).zip(all(|term| &term.b));
    let Some((mut sum, ((x, a), b))) = stored.and_then(|stored| Some((writable(&y)?, stored))) else { return Err(y) };
    let Some(x) = values(&x) else { return Err(y) };
    drop(y);
    let (a, b) = (stacked(&a, inputs), b.iter().map(held).collect::<Vec<_>>());
    add_into(sum.storage_mut::<f32>(), width, x, held(&a), &b, &parts);
    Ok(Tensor::from_primitive::<Flex>(sum))
}

/// `y`, `x`, then `a` and `b` of each update.
#[derive(Debug)]
struct LoraAdd;

#[derive(Clone, Debug)]
struct LoraAddState {
    x: FlexTensor,
    /// Stacked.
    a: FlexTensor,
    b: Vec<FlexTensor>,
    /// scale · x·Aᵀ, stacked.
    low: FlexTensor,
    parts: Vec<Part>,
}

impl<const N: usize> Backward<Flex, N> for LoraAdd {
    type State = LoraAddState;

    fn backward(self, ops: Ops<LoraAddState, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream = upstream(&ops, gradients);
        let LoraAddState { x, a, b, low, parts } = ops.state;
        let node = |index: usize| ops.parents.get(index).and_then(Option::as_ref);
        let (tokens, ranks) = (low.layout().shape()[0], low.layout().shape()[1]);
        let (width, inputs) = (upstream.layout().shape()[1], x.layout().shape()[1]);
        let trains_a = (0..parts.len()).any(|i| node(2 + 2 * i).is_some());
        if node(1).is_some() || trains_a {
            let mut low_gradient = vec![0.0; tokens * ranks];
            for (part, b) in parts.iter().zip(&b) {
                let mut here = vec![0.0; tokens * part.rank];
                grad_input_of(held(&upstream), part.of(width), held(b), &mut here, tokens, part.rank);
                let rows = low_gradient.chunks_exact_mut(ranks).zip(here.chunks_exact(part.rank));
                rows.for_each(|(to, from)| to[part.at..part.at + part.rank].copy_from_slice(from));
            }
            scale_columns(&mut low_gradient, ranks, &parts);
            if let Some(x) = node(1) {
                let mut x_gradient = vec![0.0; tokens * inputs];
                grad_input(&low_gradient, held(&a), &mut x_gradient, tokens, inputs, ranks);
                gradients.register::<Flex>(x.id, primitive(x_gradient, [tokens, inputs]));
            }
            if trains_a {
                let mut a_gradient = vec![0.0; ranks * inputs];
                grad_weight(&low_gradient, Columns::all(ranks), held(&x), Columns::all(inputs), &mut a_gradient);
                for (i, part) in parts.iter().enumerate() {
                    let rows = &a_gradient[part.at * inputs..][..part.rank * inputs];
                    if let Some(a) = node(2 + 2 * i) {
                        gradients.register::<Flex>(a.id, primitive(rows.to_vec(), [part.rank, inputs]));
                    }
                }
            }
        }
        for (i, part) in parts.iter().enumerate() {
            if let Some(b) = node(3 + 2 * i) {
                let mut b_gradient = vec![0.0; part.out * part.rank];
                grad_weight(held(&upstream), part.of(width), held(&low), part.of_low(ranks), &mut b_gradient);
                gradients.register::<Flex>(b.id, primitive(b_gradient, [part.out, part.rank]));
            }
        }
        if let Some(y) = node(0) {
            gradients.register::<Flex>(y.id, upstream);
        }
    }
}

#[expect(clippy::result_large_err, reason = "as for `on_cpu`")]
pub(super) fn recorded(y: Tensor<2>, x: &Tensor<2>, terms: &[LoraTerm]) -> Result<Tensor<2>, Tensor<2>> {
    let ([tokens, width], [_, inputs], parts) = (y.dims(), x.dims(), parts(terms));
    let all = |of: fn(&LoraTerm) -> &Tensor<2>| {
        terms.iter().map(|term| Argument::of(of(term))).collect::<Option<Vec<Argument>>>()
    };
    let arguments = Argument::of(&y).zip(Argument::of(x)).zip(all(|term| &term.a).zip(all(|term| &term.b)));
    let Some(((summand, x), (a, b))) = arguments else { return Err(y) };
    let mut nodes = vec![summand.node, x.node];
    let (mut a_values, mut b_values) = (Vec::new(), Vec::new());
    for (a, b) in a.into_iter().zip(b) {
        nodes.extend([a.node, b.node]);
        a_values.push(a.values);
        b_values.push(b.values);
    }
    let Some(nodes) = Nodes::of(nodes) else { return Err(y) };
    drop(y);
    // In the summand's own storage, if it has no other owner and no other content.
    let mut sum = summand.values;
    if size_of_val(held(&sum)) != sum.bytes().len() {
        sum = primitive(held(&sum).to_vec(), [tokens, width]);
    }
    let (a, b) = (stacked(&a_values, inputs), b_values.iter().map(held).collect::<Vec<_>>());
    let low = add_into(sum.storage_mut::<f32>(), width, held(&x.values), held(&a), &b, &parts);
    let ranks = low.len() / tokens.max(1);
    let state = || LoraAddState { x: x.values, a, b: b_values, low: primitive(low, [tokens, ranks]), parts };
    Ok(match nodes {
        Nodes::One(nodes) => record(LoraAdd, nodes, state, sum),
        Nodes::Two(nodes) => record(LoraAdd, nodes, state, sum),
        Nodes::Three(nodes) => record(LoraAdd, nodes, state, sum),
    })
}

/// The arguments' nodes in the graph; their number is part of a node's type.
enum Nodes {
    One([NodeGuard; 4]),
    Two([NodeGuard; 6]),
    Three([NodeGuard; 8]),
}

impl Nodes {
    fn of(nodes: Vec<NodeGuard>) -> Option<Self> {
        match nodes.len() {
            4 => nodes.try_into().ok().map(Self::One),
            6 => nodes.try_into().ok().map(Self::Two),
            8 => nodes.try_into().ok().map(Self::Three),
            _ => None,
        }
    }
}

pub(super) fn portable(y: Tensor<2>, x: &Tensor<2>, terms: &[LoraTerm]) -> Tensor<2> {
    terms.iter().fold(y, |y, LoraTerm { a, b, place }| {
        let ([tokens, width], [out, _]) = (y.dims(), b.dims());
        let x = if x.dtype() == a.dtype() { x.clone() } else { x.clone().cast(a.dtype()) };
        let delta = x.matmul(a.clone().transpose()).matmul(b.clone().transpose()) * place.scale;
        let delta = if delta.dtype() == y.dtype() { delta } else { delta.cast(y.dtype()) };
        if out == width {
            return y + delta;
        }
        let columns = [0..tokens, place.first..place.first + out];
        // A tracked part cannot be assigned into a tensor without autodiff.
        let y = if delta.is_autodiff() { y.autodiff() } else { y };
        let sum = y.clone().slice(columns.clone()) + delta;
        y.slice_assign(columns, sum)
    })
}
