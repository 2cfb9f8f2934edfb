//! The decoder's operations as nodes of an autodiff graph on the CPU backend. They use pv-kernels' functions forward
//! and backward, where the portable operations would record many small nodes, each with its own result.
//!
//! Each function returns `None` if it does not apply: for another backend, another type than f32, or a device with
//! gradient checkpointing, which recomputes what these nodes store. Arguments may be untracked or on the device without
//! autodiff (frozen weights, activations before the first trained weight): no gradient is computed and nothing is
//! stored for those.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::{Autodiff, AutodiffBackend, Flex};
use burn::tensor::{DType, Shape};
use burn_flex::{FlexTensor, Layout};

use super::cpu::{contiguous, values};
use super::{AttentionShape, PassContext, RotaryTable, Tensor, Window};
use pv_kernels::gradients::Vectors;

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

/// Adds a result to the graph. `state` creates the data for the gradient, and is called only if a gradient is needed.
pub(super) fn record<const D: usize, const N: usize, B: Backward<Flex, N>>(
    node: B,
    arguments: [NodeGuard; N],
    state: impl FnOnce() -> B::State,
    out: FlexTensor,
) -> Tensor<D> {
    let out = match node.prepare::<NoCheckpointing>(arguments).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state(), out),
        OpsKind::UnTracked(prepared) => prepared.finish(out),
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

/// A matrix product; either matrix may be a transposed view.
pub(super) fn product(a: Tensor<2>, b: Tensor<2>) -> FlexTensor {
    a.matmul(b).try_into_primitive::<Flex>().expect("a plain tensor")
}

pub(super) fn plain(tensor: &FlexTensor) -> Tensor<2> {
    Tensor::from_primitive::<Flex>(tensor.clone())
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
            pv_kernels::linear::grad_input(held(&upstream), held(&w), &mut out, m, k, n);
            gradients.register::<Flex>(x.id, primitive(out, [m, k]));
        }
        if let Some((w, x)) = node(1).zip(ops.state.x) {
            gradients.register::<Flex>(w.id, product(plain(&upstream).transpose(), plain(&x)));
        }
        if let Some(bias) = node(2) {
            let mut out = vec![0.0; upstream.layout().shape()[1]];
            pv_kernels::gradients::column_sums(held(&upstream), &mut out);
            let shape = [out.len()];
            gradients.register::<Flex>(bias.id, primitive(out, shape));
        }
    }
}

pub(super) fn linear(x: &Tensor<2>, w: &Tensor<2>, bias: Option<&Tensor<1>>) -> Option<Tensor<2>> {
    let ([m, k], [n, _]) = (x.dims(), w.dims());
    let (x, w) = (Argument::of(x)?, Argument::of(w)?);
    let bias = match bias {
        Some(bias) => Some(Argument::of(bias)?),
        None => None,
    };
    let mut out = vec![0.0; m * n];
    pv_kernels::linear::linear(x.values()?, w.values()?, bias.as_ref().and_then(Argument::values), &mut out, m, k, n);
    let out = primitive(out, [m, n]);
    let state = || LinearState { x: w.tracked.then_some(x.values), w: x.tracked.then_some(w.values) };
    Some(match bias {
        Some(bias) => record(Linear, [x.node, w.node, bias.node], state, out),
        None => record(Linear, [x.node, w.node], state, out),
    })
}

/// Inputs and weights.
#[derive(Debug)]
struct RmsNorm;

#[derive(Clone, Debug)]
struct RmsNormState {
    x: FlexTensor,
    w: FlexTensor,
    eps: f32,
}

impl Backward<Flex, 2> for RmsNorm {
    type State = RmsNormState;

    fn backward(self, ops: Ops<RmsNormState, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream = upstream(&ops, gradients);
        let RmsNormState { x, w, eps } = ops.state;
        let (x, w) = (held(&x), held(&w));
        let vectors = Vectors { stride: w.len(), offset: 0, count: 1 };
        let (mut out, mut w_out) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        pv_kernels::gradients::rms_norm_gradient(vectors, x, w, eps, held(&upstream), &mut out, &mut w_out);
        let shape = [x.len() / w.len(), w.len()];
        let [x, w] = ops.parents;
        if let Some(x) = x {
            gradients.register::<Flex>(x.id, primitive(out, shape));
        }
        if let Some(w) = w {
            gradients.register::<Flex>(w.id, primitive(w_out, [shape[1]]));
        }
    }
}

pub(super) fn rms_norm(x: &Tensor<2>, w: &Tensor<1>, eps: f64) -> Option<Tensor<2>> {
    let shape = x.dims();
    let (x, w, eps) = (Argument::of(x)?, Argument::of(w)?, eps as f32);
    let mut out = vec![0.0; shape[0] * shape[1]];
    pv_kernels::norm::rms_norm(x.values()?, w.values()?, eps, &mut out);
    let state = || RmsNormState { x: x.values, w: w.values, eps };
    Some(record(RmsNorm, [x.node, w.node], state, primitive(out, shape)))
}

/// A sum of two tensors of equal shape.
#[derive(Debug)]
struct Add;

impl Backward<Flex, 2> for Add {
    type State = ();

    fn backward(self, ops: Ops<(), 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream = gradients.consume::<Flex>(&ops.node);
        for parent in ops.parents.into_iter().flatten() {
            gradients.register::<Flex>(parent.id, upstream.clone());
        }
    }
}

pub(super) fn add_rms_norm(
    x: &Tensor<2>,
    delta: &Tensor<2>,
    w: &Tensor<1>,
    eps: f64,
) -> Option<(Tensor<2>, Tensor<2>)> {
    let shape = x.dims();
    let (x, delta, w, eps) = (Argument::of(x)?, Argument::of(delta)?, Argument::of(w)?, eps as f32);
    let mut sum = x.values()?.to_vec();
    let mut out = vec![0.0; sum.len()];
    pv_kernels::norm::add_rms_norm(&mut sum, delta.values()?, w.values()?, eps, &mut out);
    let sum = primitive(sum, shape);
    let added: Tensor<2> = record(Add, [x.node, delta.node], || (), sum.clone());
    let node = Argument::of(&added)?.node;
    let state = || RmsNormState { x: sum, w: w.values, eps };
    Some((added, record(RmsNorm, [node, w.node], state, primitive(out, shape))))
}

/// Gate and up, stacked.
#[derive(Debug)]
struct SwiGlu;

impl Backward<Flex, 1> for SwiGlu {
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream = upstream(&ops, gradients);
        let [tokens, f] = [0, 1].map(|dim| upstream.layout().shape()[dim]);
        let mut out = vec![0.0; tokens * 2 * f];
        pv_kernels::gradients::swiglu_gradient(held(&ops.state), held(&upstream), &mut out, f);
        if let [Some(parent)] = ops.parents {
            gradients.register::<Flex>(parent.id, primitive(out, [tokens, 2 * f]));
        }
    }
}

pub(super) fn swiglu(gate_up: &Tensor<2>) -> Option<Tensor<2>> {
    let [m, width] = gate_up.dims();
    let gate_up = Argument::of(gate_up)?;
    let mut out = vec![0.0; m * width / 2];
    pv_kernels::elementwise::swiglu(gate_up.values()?, &mut out, m, width / 2);
    Some(record(SwiGlu, [gate_up.node], || gate_up.values, primitive(out, [m, width / 2])))
}

/// Stacked queries, keys and values, the queries' weights, the keys' weights.
#[derive(Debug)]
struct QkNorm;

#[derive(Clone, Debug)]
struct QkNormState {
    qkv: FlexTensor,
    q: FlexTensor,
    k: FlexTensor,
    shape: AttentionShape,
    eps: f32,
}

impl Backward<Flex, 3> for QkNorm {
    type State = QkNormState;

    fn backward(self, ops: Ops<QkNormState, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream = upstream(&ops, gradients);
        let QkNormState { qkv, q, k, shape, eps } = ops.state;
        let [tokens, stride] = [0, 1].map(|dim| qkv.layout().shape()[dim]);
        // The values' gradient is the upstream gradient.
        let mut out = held(&upstream).to_vec();
        let (mut q_out, mut k_out) = (vec![0.0; held(&q).len()], vec![0.0; held(&k).len()]);
        for (part, (w, w_out)) in shape.parts().into_iter().zip([(&q, &mut q_out), (&k, &mut k_out)]) {
            let vectors = Vectors { stride, offset: part.start, count: part.len() / w_out.len() };
            pv_kernels::gradients::rms_norm_gradient(
                vectors,
                held(&qkv),
                held(w),
                eps,
                held(&upstream),
                &mut out,
                w_out,
            );
        }
        let [qkv, q, k] = ops.parents;
        if let Some(qkv) = qkv {
            gradients.register::<Flex>(qkv.id, primitive(out, [tokens, stride]));
        }
        for (parent, out) in [(q, q_out), (k, k_out)] {
            if let Some(parent) = parent {
                let width = out.len();
                gradients.register::<Flex>(parent.id, primitive(out, [width]));
            }
        }
    }
}

pub(super) fn qk_norm(
    qkv: &Tensor<2>,
    q: &Tensor<1>,
    k: &Tensor<1>,
    shape: &AttentionShape,
    eps: f64,
) -> Option<Tensor<2>> {
    let dims = qkv.dims();
    let (qkv, q, k, eps) = (Argument::of(qkv)?, Argument::of(q)?, Argument::of(k)?, eps as f32);
    let mut out = qkv.values()?.to_vec();
    for (part, w) in shape.parts().into_iter().zip([&q, &k]) {
        let w = w.values()?;
        let heads = part.len() / w.len();
        pv_kernels::norm::rms_norm_heads_in_place(&mut out, dims[1], part.start, heads, w, eps);
    }
    let state = || QkNormState { qkv: qkv.values, q: q.values, k: k.values, shape: *shape, eps };
    Some(record(QkNorm, [qkv.node, q.node, k.node], state, primitive(out, dims)))
}

/// Data shared by a pass's attention nodes: the first columns with a token, and the rotary tables of the tokens.
#[derive(Debug)]
pub(super) struct Rotation {
    starts: Vec<usize>,
    offsets: Vec<usize>,
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// For the inverse rotation.
    negative_sin: Vec<f32>,
}

impl Rotation {
    pub(super) fn new(window: &Window, table: &RotaryTable) -> Self {
        Self {
            starts: window.starts.clone(),
            offsets: table.offsets.clone(),
            half: table.half,
            cos: table.cos.clone(),
            sin: table.sin.clone(),
            negative_sin: table.sin.iter().map(|sin| -sin).collect(),
        }
    }

    fn rotate(&self, qkv: &mut [f32], shape: &pv_kernels::attention::AttentionShape, sin: &[f32]) {
        let pv_kernels::attention::AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
        let rotated = heads + kv_heads;
        pv_kernels::rope::rope_in_place(
            qkv,
            shape.row_stride(),
            rotated,
            head_dim,
            self.half,
            &self.cos,
            sin,
            &self.offsets,
        );
    }
}

/// Stacked queries, keys and values.
#[derive(Debug)]
struct Attention;

#[derive(Clone, Debug)]
struct AttentionState {
    /// Rotated.
    qkv: FlexTensor,
    shape: pv_kernels::attention::AttentionShape,
    rotation: Arc<Rotation>,
}

impl Backward<Flex, 1> for Attention {
    type State = AttentionState;

    fn backward(self, ops: Ops<AttentionState, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream = upstream(&ops, gradients);
        let AttentionState { qkv, shape, rotation } = ops.state;
        let qkv = held(&qkv);
        let mut out = vec![0.0; qkv.len()];
        pv_kernels::gradients::attention_gradient(&shape, qkv, &rotation.starts, held(&upstream), &mut out);
        rotation.rotate(&mut out, &shape, &rotation.negative_sin);
        if let [Some(parent)] = ops.parents {
            let dims = [shape.batch * shape.seq, shape.row_stride()];
            gradients.register::<Flex>(parent.id, primitive(out, dims));
        }
    }
}

/// For a window without a cache: a cache is for decoding, which is not differentiated.
pub(super) fn attention(qkv: &Tensor<2>, shape: &AttentionShape, context: &PassContext) -> Option<Tensor<2>> {
    let AttentionShape { heads, kv_heads, head_dim, window, scale, softcap, .. } = *shape;
    let (batch, seq, column) = (context.window.starts.len(), context.window.seq, context.window.column);
    if column > 0 || softcap.is_some() {
        return None;
    }
    let dims = qkv.dims();
    let qkv = Argument::of(qkv)?;
    let (scale, rotation) = (scale as f32, context.rotation(shape));
    let shape = pv_kernels::attention::AttentionShape {
        batch,
        seq,
        heads,
        kv_heads,
        head_dim,
        capacity: seq,
        column,
        window,
        scale,
    };
    let mut rotated = qkv.values()?.to_vec();
    rotation.rotate(&mut rotated, &shape, &rotation.sin);
    let size = batch * kv_heads * seq * head_dim;
    let (mut keys, mut values) = (vec![0.0; size], vec![0.0; size]);
    let mut out = vec![0.0; batch * seq * heads * head_dim];
    pv_kernels::cache::write_cache(&shape, &rotated, &mut keys, &mut values);
    pv_kernels::attention::attention(&shape, &rotated, &keys, &values, &rotation.starts, &mut out);
    let state = || AttentionState { qkv: primitive(rotated, dims), shape, rotation };
    Some(record(Attention, [qkv.node], state, primitive(out, [batch * seq, heads * head_dim])))
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
