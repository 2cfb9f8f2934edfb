//! The decoder's operations in Burn's tensors: every backend, and differentiable.

use std::cell::OnceCell;
use std::cell::RefCell;
use std::sync::Arc;

use burn::tensor::activation::{log_softmax, silu, softmax};
use burn::tensor::{Bool, Int, TensorData};

use super::cpu_autodiff::Rotation;
use super::{AttentionShape, DType, Device, LayerCache, Ragged, RotaryAngles, Tensor, Window, indices};
use crate::decoder::RotaryTable;

/// What all blocks of a pass share: positions, rotary tables, masks. Made on first use, since the CPU kernels need only
/// the tables on the host.
#[derive(Debug)]
pub(crate) struct PassContext {
    pub(crate) window: Window,
    pub(crate) positions: Vec<usize>,
    pub(crate) table: RotaryTable,
    /// Where padding is left out.
    pub(crate) ragged: Option<Ragged>,
    device: Device,
    dtype: DType,
    angles: OnceCell<(Tensor<4>, Tensor<4>)>,
    masks: RefCell<Vec<(Option<usize>, Tensor<4, Bool>)>>,
    rotation: OnceCell<Arc<Rotation>>,
}

impl PassContext {
    pub(crate) fn new(rotary: &RotaryAngles, window: Window, device: Device, dtype: DType) -> Self {
        let positions = window.positions();
        let table = rotary.table(&positions);
        let (angles, rotation) = (OnceCell::new(), OnceCell::new());
        let ragged = Ragged::of(&window, &device);
        Self { window, positions, table, ragged, device, dtype, angles, masks: RefCell::default(), rotation }
    }

    /// `[batch · seq, d]` to what the blocks compute: all of it, or the tokens alone.
    pub(crate) fn leave_out(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.ragged {
            Some(ragged) => ragged.leave_out(x),
            None => x,
        }
    }

    /// What the blocks compute to `[batch · seq, d]`.
    pub(crate) fn fill_in(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.ragged {
            Some(ragged) => ragged.fill_in(x),
            None => x,
        }
    }

    /// What the nodes of an autodiff graph hold of all this.
    pub(super) fn rotation(&self) -> Arc<Rotation> {
        self.rotation.get_or_init(|| Arc::new(Rotation::new(self))).clone()
    }

    fn indices(&self, values: impl IntoIterator<Item = usize>) -> Tensor<1, Int> {
        indices(values, &self.device)
    }

    /// Cosines and sines of every token, `[batch, seq, 1, head_dim / 2]`.
    fn angles(&self) -> &(Tensor<4>, Tensor<4>) {
        self.angles.get_or_init(|| {
            let RotaryTable { first, half, .. } = self.table;
            let rows = self.table.cos.len() / half;
            let index = self.indices(self.positions.iter().map(|position| position - first));
            let gather = |values: &[f32]| {
                let table = TensorData::new(values.to_vec(), [rows, half]);
                let table = Tensor::<2>::from_data(table, (&self.device, DType::F32));
                table
                    .select(0, index.clone())
                    .reshape([self.window.starts.len(), self.window.seq, 1, half])
                    .cast(self.dtype)
            };
            (gather(&self.table.cos), gather(&self.table.sin))
        })
    }

    /// True where a query must not look, `[batch, 1, seq, columns]`.
    fn mask(&self, window: Option<usize>) -> Tensor<4, Bool> {
        let mut masks = self.masks.borrow_mut();
        if let Some((_, mask)) = masks.iter().find(|(known, _)| *known == window) {
            return mask.clone();
        }
        let Window { seq, column, starts } = &self.window;
        let (seq, batch, columns) = (*seq, starts.len(), column + seq);
        let keys = self.indices(0..columns).reshape([1, 1, 1, columns]);
        let queries = self.indices(*column..columns).reshape([1, 1, seq, 1]);
        let first = self.indices(starts.iter().copied()).reshape([batch, 1, 1, 1]);
        let distance = queries.expand([batch, 1, seq, columns]) - keys.clone().expand([batch, 1, seq, columns]);
        let padding = keys.expand([batch, 1, seq, columns]).lower(first.expand([batch, 1, seq, columns]));
        let mut mask = distance.clone().lower_elem(0).bool_or(padding);
        if let Some(window) = window {
            mask = mask.bool_or(distance.greater_equal_elem(window as i64));
        }
        masks.push((window, mask.clone()));
        mask
    }
}

pub(super) fn linear(x: Tensor<2>, w: &Tensor<2>, bias: Option<&Tensor<1>>) -> Tensor<2> {
    let y = x.matmul(w.clone().transpose());
    match bias {
        Some(bias) => y + bias.clone().unsqueeze::<2>(),
        None => y,
    }
}

/// As Hugging Face computes it: the norm in f32, the weight applied in the compute type.
fn norm<const D: usize>(x: Tensor<D>, w: &Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let wide = x.cast(DType::F32);
    let inverse = wide.clone().square().mean_dim(D - 1).add_scalar(eps).sqrt().recip();
    (wide * inverse).cast(dtype) * w.clone().unsqueeze::<D>()
}

pub(super) fn rms_norm(x: Tensor<2>, w: &Tensor<1>, eps: f64) -> Tensor<2> {
    norm(x, w, eps)
}

pub(super) fn swiglu(gate_up: Tensor<2>) -> Tensor<2> {
    let [tokens, width] = gate_up.dims();
    let half = width / 2;
    let gate = gate_up.clone().slice([0..tokens, 0..half]);
    silu(gate) * gate_up.slice([0..tokens, half..width])
}

pub(super) fn qk_norm(qkv: Tensor<2>, q: &Tensor<1>, k: &Tensor<1>, shape: &AttentionShape, eps: f64) -> Tensor<2> {
    let [tokens, width] = qkv.dims();
    let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
    let (q_end, k_end) = (heads * head_dim, (heads + kv_heads) * head_dim);
    let part = |range: std::ops::Range<usize>| qkv.clone().slice([0..tokens, range]);
    let normed = |x: Tensor<2>, w: &Tensor<1>, heads: usize| {
        norm(x.reshape([tokens, heads, head_dim]), w, eps).reshape([tokens, heads * head_dim])
    };
    Tensor::cat(vec![normed(part(0..q_end), q, heads), normed(part(q_end..k_end), k, kv_heads), part(k_end..width)], 1)
}

/// Rotates `[batch, seq, heads, head_dim]` in Hugging Face's layout: a head's pairs are its two halves.
fn rotate(x: Tensor<4>, (cos, sin): &(Tensor<4>, Tensor<4>)) -> Tensor<4> {
    let [batch, seq, heads, head_dim] = x.dims();
    let half = head_dim / 2;
    let a = x.clone().slice([0..batch, 0..seq, 0..heads, 0..half]);
    let b = x.slice([0..batch, 0..seq, 0..heads, half..head_dim]);
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    let second = b * cos.clone() + a * sin.clone();
    Tensor::cat(vec![first, second], 3)
}

pub(super) fn attention(
    qkv: Tensor<2>,
    shape: &AttentionShape,
    context: &PassContext,
    cache: Option<&mut LayerCache>,
) -> Tensor<2> {
    let AttentionShape { heads, kv_heads, head_dim, window, scale } = *shape;
    let (batch, seq, column) = (context.window.starts.len(), context.window.seq, context.window.column);
    let columns = column + seq;
    let (q_end, k_end) = (heads * head_dim, (heads + kv_heads) * head_dim);
    let width = k_end + kv_heads * head_dim;
    let part = |range: std::ops::Range<usize>, heads: usize| {
        qkv.clone().slice([0..batch * seq, range]).reshape([batch, seq, heads, head_dim])
    };
    let q = rotate(part(0..q_end, heads), context.angles()).swap_dims(1, 2);
    let k = rotate(part(q_end..k_end, kv_heads), context.angles()).swap_dims(1, 2);
    let v = part(k_end..width, kv_heads).swap_dims(1, 2);
    let (k, v) = match cache.and_then(|cache| cache.kv.take().map(|kv| (cache, kv))) {
        None => (k, v),
        Some((cache, (cached_k, cached_v))) => {
            let at = [0..batch, 0..kv_heads, column..columns, 0..head_dim];
            let held = [0..batch, 0..kv_heads, 0..columns, 0..head_dim];
            let cached_k = cached_k.slice_assign(at.clone(), k);
            let cached_v = cached_v.slice_assign(at, v);
            let read = (cached_k.clone().slice(held.clone()), cached_v.clone().slice(held));
            cache.kv = Some((cached_k, cached_v));
            read
        }
    };
    // The queries of a group stand side by side, so that keys and values are never repeated.
    let group = heads / kv_heads;
    let q = q.reshape([batch, kv_heads, group * seq, head_dim]);
    let scores = q.matmul(k.swap_dims(2, 3)) * scale;
    let scores = scores.reshape([batch, heads, seq, columns]).cast(DType::F32);
    let mask = context.mask(window).expand([batch, heads, seq, columns]);
    // Not −∞: a padding query sees nothing at all, and must not become NaN.
    let weights = softmax(scores.mask_fill(mask, -1e30), 3).cast(context.dtype);
    let mixed = weights.reshape([batch, kv_heads, group * seq, columns]).matmul(v);
    mixed.reshape([batch, heads, seq, head_dim]).swap_dims(1, 2).reshape([batch * seq, heads * head_dim])
}

/// log softmax of each row at its target, `[n, 1]`.
pub(super) fn log_probs(logits: Tensor<2>, targets: &[u32]) -> Tensor<2> {
    let [n, _] = logits.dims();
    let targets = indices(targets.iter().map(|target| *target as usize), &logits.device().without_autodiff());
    log_softmax(logits, 1).gather(1, targets.reshape([n, 1]))
}

pub(super) fn cross_entropy(logits: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    log_probs(logits, targets).sum().neg()
}
