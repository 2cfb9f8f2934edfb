//! Rotary embedding and attention of whole sequences.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn_flex::FlexTensor;

use super::super::{AttentionShape, PassContext, RotaryTable, Tensor, Window};
use super::{Argument, held, primitive, record, upstream};

/// Data shared by a pass's attention nodes: the first columns with a token, and the rotary tables of the tokens.
#[derive(Debug)]
pub(in crate::ops) struct Rotation {
    starts: Vec<usize>,
    offsets: Vec<usize>,
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// For the inverse rotation.
    negative_sin: Vec<f32>,
}

impl Rotation {
    pub(in crate::ops) fn new(window: &Window, table: &RotaryTable) -> Self {
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

/// Stacked queries, keys and values, and optionally sinks.
#[derive(Debug)]
struct Attention;

#[derive(Clone, Debug)]
struct AttentionState {
    /// Rotated.
    qkv: FlexTensor,
    sinks: Option<FlexTensor>,
    shape: pv_kernels::attention::AttentionShape,
    rotation: Arc<Rotation>,
}

impl<const N: usize> Backward<Flex, N> for Attention {
    type State = AttentionState;

    fn backward(self, ops: Ops<AttentionState, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream = upstream(&ops, gradients);
        let AttentionState { qkv, sinks, shape, rotation } = ops.state;
        let qkv = held(&qkv);
        let mut out = vec![0.0; qkv.len()];
        let (starts, upstream) = (&rotation.starts, held(&upstream));
        let sinks = sinks.as_ref().map(held);
        let of_sinks = pv_kernels::gradients::attention_gradient(&shape, qkv, starts, sinks, upstream, &mut out);
        rotation.rotate(&mut out, &shape, &rotation.negative_sin);
        let node = |index: usize| ops.parents.get(index).and_then(Option::as_ref);
        if let Some(parent) = node(0) {
            let dims = [shape.batch * shape.seq, shape.row_stride()];
            gradients.register::<Flex>(parent.id, primitive(out, dims));
        }
        if let Some(parent) = node(1) {
            gradients.register::<Flex>(parent.id, primitive(of_sinks, [shape.heads]));
        }
    }
}

/// For a window without a cache: a cache is for decoding, which is not differentiated.
pub(in crate::ops) fn attention(
    qkv: &Tensor<2>,
    sinks: Option<&Tensor<1>>,
    shape: &AttentionShape,
    context: &PassContext,
) -> Option<Tensor<2>> {
    let AttentionShape { heads, kv_heads, head_dim, window, scale, softcap, .. } = *shape;
    let (batch, seq, column) = (context.window.starts.len(), context.window.seq, context.window.column);
    if column > 0 {
        return None;
    }
    let dims = qkv.dims();
    let qkv = Argument::of(qkv)?;
    let sinks = match sinks {
        Some(sinks) => Some(Argument::of(sinks)?),
        None => None,
    };
    let (scale, softcap) = (scale as f32, softcap.map(|cap| cap as f32));
    let rotation = context.rotation(shape);
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
        softcap,
    };
    let mut rotated = qkv.values()?.to_vec();
    rotation.rotate(&mut rotated, &shape, &rotation.sin);
    let size = batch * kv_heads * seq * head_dim;
    let (mut keys, mut values) = (vec![0.0; size], vec![0.0; size]);
    let mut out = vec![0.0; batch * seq * heads * head_dim];
    pv_kernels::cache::write_cache(&shape, &rotated, &mut keys, &mut values);
    let own = sinks.as_ref().and_then(Argument::values);
    pv_kernels::attention::attention(&shape, &rotated, &keys, &values, &rotation.starts, own, &mut out);
    let out = primitive(out, [batch * seq, heads * head_dim]);
    let state = |sinks| AttentionState { qkv: primitive(rotated, dims), sinks, shape, rotation };
    Some(match sinks {
        Some(sinks) => record(Attention, [qkv.node, sinks.node], || state(Some(sinks.values)), out),
        None => record(Attention, [qkv.node], || state(None), out),
    })
}
