//! The decoder's operations as nodes of an autodiff graph on the CPU backend. They use pv-kernels' functions forward
//! and backward, where the portable operations would record many small nodes, each with its own result.
//!
//! Each function returns `None` if it does not apply: for another backend, another type than f32, or a device with
//! gradient checkpointing, which recomputes what these nodes store. Arguments may be untracked or on the device without
//! autodiff (frozen weights, activations before the first trained weight): no gradient is computed and nothing is
//! stored for those.

mod attention;
mod norms;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::{Autodiff, AutodiffBackend, Flex};
use burn::tensor::{DType, Shape};
use burn_flex::{FlexTensor, Layout};
use pv_kernels::linear::{Columns, grad_input, grad_weight};

use super::cpu::{contiguous, values};
use super::{Activation, Tensor};

pub(super) use attention::{Rotation, attention};
pub(super) use norms::{add_rms_norm, qk_norm, rms_norm};

type Tracking = Autodiff<Flex>;

/// An argument: its contiguous values, and its node in the graph.
pub(super) struct Argument {
    pub(super) values: FlexTensor,
    pub(super) node: NodeGuard,
    tracked: bool,
}

impl Argument {
    pub(super) fn of<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        if tensor.dtype() != DType::F32 {
            return None;
        }
        let tensor = match tensor.clone().try_into_primitive::<Tracking>() {
            Ok(tensor) => tensor,
            Err(_) => Tracking::from_inner(tensor.clone().try_into_primitive::<Flex>().ok()?),
        };
        let tracked = tensor.is_tracked();
        let (values, node) = tensor.into_parts();
        Some(Self { values: contiguous(values), node, tracked })
    }

    pub(super) fn values(&self) -> Option<&[f32]> {
        values(&self.values)
    }
}

pub(super) fn primitive<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    let bytes = burn::tensor::Bytes::from_elems(values);
    FlexTensor::new(bytes, Layout::contiguous(Shape::from(shape)), DType::F32)
}

/// Adds a result to the graph. `state` creates the data for the gradient, and is called only if a gradient is needed. A
/// result of untracked arguments is outside of the graph: Burn would keep its node until some backward pass of the process.
pub(super) fn record<const D: usize, const N: usize, B: Backward<Flex, N>>(
    node: B,
    arguments: [NodeGuard; N],
    state: impl FnOnce() -> B::State,
    out: FlexTensor,
) -> Tensor<D> {
    let out = match node.prepare::<NoCheckpointing>(arguments).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state(), out),
        OpsKind::UnTracked(_) => Tracking::from_inner(out),
    };
    Tensor::from_primitive::<Tracking>(out)
}

/// The values of a tensor from [`contiguous`].
pub(super) fn held(tensor: &FlexTensor) -> &[f32] {
    values(tensor).expect("contiguous f32")
}

/// The gradient of a node's output.
pub(super) fn upstream<S, const N: usize>(ops: &Ops<S, N>, gradients: &mut Gradients) -> FlexTensor {
    contiguous(gradients.consume::<Flex>(&ops.node))
}

/// Inputs, weights, and optionally biases, in this order.
#[derive(Debug)]
struct Linear;

/// The inputs if the weights are tracked, and the weights if the inputs are tracked.
#[derive(Clone, Debug)]
struct LinearState {
    x: Option<FlexTensor>,
    w: Option<FlexTensor>,
}

impl<const N: usize> Backward<Flex, N> for Linear {
    type State = LinearState;

    fn backward(self, ops: Ops<LinearState, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream = upstream(&ops, gradients);
        let node = |index: usize| ops.parents.get(index).and_then(Option::as_ref);
        if let Some((x, w)) = node(0).zip(ops.state.w) {
            let (shape, k) = (upstream.layout().shape(), w.layout().shape()[1]);
            let (m, n) = (shape[0], shape[1]);
            let mut out = vec![0.0; m * k];
            grad_input(held(&upstream), held(&w), &mut out, m, k, n);
            gradients.register::<Flex>(x.id, primitive(out, [m, k]));
        }
        if let Some((w, x)) = node(1).zip(ops.state.x) {
            let (n, k) = (upstream.layout().shape()[1], x.layout().shape()[1]);
            let mut out = vec![0.0; n * k];
            grad_weight(held(&upstream), Columns::all(n), held(&x), Columns::all(k), &mut out);
            gradients.register::<Flex>(w.id, primitive(out, [n, k]));
        }
        if let Some(bias) = node(2) {
            let mut out = vec![0.0; upstream.layout().shape()[1]];
            pv_kernels::gradients::column_sums(held(&upstream), &mut out);
            let shape = [out.len()];
            gradients.register::<Flex>(bias.id, primitive(out, shape));
        }
    }
}

/// Without `values`, the result has its node in the graph, and zeros as values.
pub(super) fn linear(x: &Tensor<2>, w: &Tensor<2>, bias: Option<&Tensor<1>>, values: bool) -> Option<Tensor<2>> {
    let ([m, k], [n, _]) = (x.dims(), w.dims());
    let (x, w) = (Argument::of(x)?, Argument::of(w)?);
    let bias = match bias {
        Some(bias) => Some(Argument::of(bias)?),
        None => None,
    };
    let mut out = vec![0.0; m * n];
    if values {
        let bias = bias.as_ref().and_then(Argument::values);
        pv_kernels::linear::linear(x.values()?, w.values()?, bias, &mut out, m, k, n);
    }
    let out = primitive(out, [m, n]);
    let state = || LinearState { x: w.tracked.then_some(x.values), w: x.tracked.then_some(w.values) };
    Some(match bias {
        Some(bias) => record(Linear, [x.node, w.node, bias.node], state, out),
        None => record(Linear, [x.node, w.node], state, out),
    })
}

/// Gate and up, stacked.
#[derive(Debug)]
struct Gated(Activation);

impl Backward<Flex, 1> for Gated {
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream = upstream(&ops, gradients);
        let [tokens, f] = [0, 1].map(|dim| upstream.layout().shape()[dim]);
        let mut out = vec![0.0; tokens * 2 * f];
        pv_kernels::gradients::gated_gradient(self.0.kernel(), held(&ops.state), held(&upstream), &mut out, f);
        if let [Some(parent)] = ops.parents {
            gradients.register::<Flex>(parent.id, primitive(out, [tokens, 2 * f]));
        }
    }
}

pub(super) fn gated(gate_up: &Tensor<2>, activation: Activation) -> Option<Tensor<2>> {
    let [m, width] = gate_up.dims();
    let gate_up = Argument::of(gate_up)?;
    let mut out = vec![0.0; m * width / 2];
    pv_kernels::gated::gated(activation.kernel(), gate_up.values()?, &mut out, m, width / 2);
    Some(record(Gated(activation), [gate_up.node], || gate_up.values, primitive(out, [m, width / 2])))
}

/// Logits.
#[derive(Debug)]
struct CrossEntropy;

#[derive(Clone, Debug)]
struct CrossEntropyState {
    logits: FlexTensor,
    targets: Vec<usize>,
    log_sums: Vec<f32>,
}

impl Backward<Flex, 1> for CrossEntropy {
    type State = CrossEntropyState;

    fn backward(self, ops: Ops<CrossEntropyState, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream = upstream(&ops, gradients);
        let CrossEntropyState { logits, targets, log_sums } = ops.state;
        let shape = [targets.len(), logits.layout().shape()[1]];
        // In the logits' own storage, if it has no other owner and no other content.
        let whole = size_of_val(held(&logits)) == logits.bytes().len();
        let mut logits = if whole { logits } else { primitive(held(&logits).to_vec(), shape) };
        let factor = held(&upstream)[0];
        pv_kernels::gradients::cross_entropy_gradient(logits.storage_mut(), &targets, shape[1], &log_sums, factor);
        if let [Some(parent)] = ops.parents {
            gradients.register::<Flex>(parent.id, logits);
        }
    }
}

pub(super) fn cross_entropy(logits: &Tensor<2>, targets: &[u32]) -> Option<Tensor<1>> {
    let vocab = logits.dims()[1];
    let logits = Argument::of(logits)?;
    let targets: Vec<usize> = targets.iter().map(|target| *target as usize).collect();
    let mut log_sums = vec![0.0; targets.len()];
    let sum = pv_kernels::gradients::cross_entropy(logits.values()?, &targets, vocab, &mut log_sums);
    let state = || CrossEntropyState { logits: logits.values, targets, log_sums };
    Some(record(CrossEntropy, [logits.node], state, primitive(vec![sum], [1])))
}
