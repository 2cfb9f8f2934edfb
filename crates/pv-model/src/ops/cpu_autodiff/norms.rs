//! Norms, and the sum of the residual and a block's output before one.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn_flex::FlexTensor;
use pv_kernels::gradients::Vectors;

use super::super::{AttentionShape, Tensor};
use super::{Argument, held, primitive, record, upstream};

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

pub(in crate::ops) fn rms_norm(x: &Tensor<2>, w: &Tensor<1>, eps: f64) -> Option<Tensor<2>> {
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

pub(in crate::ops) fn add_rms_norm(
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

pub(in crate::ops) fn qk_norm(
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
