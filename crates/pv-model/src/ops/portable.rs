//! The decoder's operations in Burn's tensors: for every backend, and differentiable.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::activation::{log_softmax, sigmoid, silu, softmax};
use burn::tensor::{Bool, Int, TensorData};
use pv_kernels::gated::{ALPHA, LIMIT};

use super::cpu_autodiff::Rotation;
use super::{
    Activation, AttentionShape, DType, Device, LayerCache, Ragged, RotaryAngles, RotaryTable, Tensor, Window, indices,
    softcap,
};

/// Data shared by all blocks of a pass: positions, rotary tables, masks. Created at first use, since the CPU kernels
/// need only the tables on the host.
#[derive(Debug)]
pub(crate) struct PassContext {
    pub(crate) window: Window,
    ropes: Vec<Rope>,
    /// The packing, if padding is removed.
    pub(crate) ragged: Option<Ragged>,
    /// Rows of like length after another: the range of their packed tokens, and their window. Empty if attention is computed
    /// for all rows together.
    pub(super) buckets: Vec<(Range<usize>, PassContext)>,
    device: Device,
    dtype: DType,
    masks: RefCell<Vec<(Option<usize>, Tensor<4, Bool>)>>,
    neighbours_apart: OnceCell<Tensor<1, Int>>,
}

/// The rotary tables of a pass, on the host and in the forms that the implementations need.
#[derive(Debug)]
struct Rope {
    table: RotaryTable,
    angles: OnceCell<(Tensor<4>, Tensor<4>)>,
    rotation: OnceCell<Arc<Rotation>>,
}

impl PassContext {
    /// A pass that writes to a cache, whose blocks' tensors have at least `cached` rows, or one for its tokens alone; those
    /// without a cache have rows of like length compute their attention together.
    pub(crate) fn new(
        rotary: &RotaryAngles,
        window: Window,
        (device, dtype): (Device, DType),
        cached: Option<usize>,
    ) -> Self {
        let ragged = Ragged::of(&window, cached.unwrap_or(0), &device);
        let alike = if cached.is_some() || ragged.is_none() { Vec::new() } else { window.rows_of_like_length() };
        if alike.len() < 2 {
            return Self::packed(rotary, window, (device, dtype), ragged);
        }
        let ragged = Ragged::in_order(&window, alike.concat(), 0, &device);
        let mut first = 0;
        let bucket = |rows: Vec<usize>| {
            let own = window.of_rows(&rows);
            let packing = Ragged::in_order(&own, 0..rows.len(), 0, &device);
            let context = Self::packed(rotary, own, (device.clone(), dtype), packing);
            let tokens = first..first + context.tokens();
            first = tokens.end;
            (tokens, context)
        };
        let buckets = alike.into_iter().map(bucket).collect();
        Self { buckets, ..Self::packed(rotary, window, (device, dtype), ragged) }
    }

    fn packed(rotary: &RotaryAngles, window: Window, (device, dtype): (Device, DType), ragged: Option<Ragged>) -> Self {
        let rope = |table| Rope { table, angles: OnceCell::new(), rotation: OnceCell::new() };
        let ropes = rotary.tables(&window).into_iter().map(rope).collect();
        let (masks, neighbours_apart) = (RefCell::default(), OnceCell::new());
        Self { window, ropes, ragged, buckets: Vec::new(), device, dtype, masks, neighbours_apart }
    }

    /// The rows of the blocks' tensors.
    fn tokens(&self) -> usize {
        self.ragged.as_ref().map_or(self.window.seq * self.window.starts.len(), Ragged::len)
    }

    /// Whether our kernels compute in f32 on this device.
    pub(super) fn on_cpu(&self) -> bool {
        self.device.clone().without_autodiff() == Device::flex()
    }

    /// Packs `[batch · seq, d]` for the blocks: removes padding, or returns the tensor unchanged.
    pub(crate) fn pack(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.ragged {
            Some(ragged) => ragged.pack(x),
            None => x,
        }
    }

    /// Unpacks the blocks' result to `[batch · seq, d]`.
    pub(crate) fn unpack(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.ragged {
            Some(ragged) => ragged.unpack(x),
            None => x,
        }
    }

    /// The rotary table of a block.
    pub(super) fn table(&self, shape: &AttentionShape) -> &RotaryTable {
        &self.ropes[shape.rope].table
    }

    /// The data that the nodes of an autodiff graph need.
    pub(super) fn rotation(&self, shape: &AttentionShape) -> Arc<Rotation> {
        let rope = &self.ropes[shape.rope];
        rope.rotation.get_or_init(|| Arc::new(Rotation::new(&self.window, &rope.table))).clone()
    }

    /// The columns of stacked queries, keys and values in the order in which rotated neighbours 2i and 2i + 1 of a head
    /// become i and i + half.
    pub(super) fn neighbours_apart(&self, shape: &AttentionShape) -> Tensor<1, Int> {
        let order = || {
            let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
            let half = self.table(shape).half;
            let in_head = (0..half).map(|i| 2 * i).chain((0..half).map(|i| 2 * i + 1)).chain(2 * half..head_dim);
            let rotated = (0..heads + kv_heads).flat_map(|head| in_head.clone().map(move |i| head * head_dim + i));
            let values = (heads + kv_heads) * head_dim..(heads + 2 * kv_heads) * head_dim;
            self.indices(rotated.chain(values))
        };
        self.neighbours_apart.get_or_init(order).clone()
    }

    fn indices(&self, values: impl IntoIterator<Item = usize>) -> Tensor<1, Int> {
        indices(values, &self.device)
    }

    /// Cosines and sines of every token, `[batch, seq, 1, rotated / 2]`.
    fn angles(&self, shape: &AttentionShape) -> &(Tensor<4>, Tensor<4>) {
        let Rope { table, angles, .. } = &self.ropes[shape.rope];
        angles.get_or_init(|| {
            let half = table.half;
            let rows = table.cos.len() / half;
            let index = self.indices(table.offsets.iter().copied());
            let gather = |values: &[f32]| {
                let values = TensorData::new(values.to_vec(), [rows, half]);
                let values = Tensor::<2>::from_data(values, (&self.device, DType::F32));
                values
                    .select(0, index.clone())
                    .reshape([self.window.starts.len(), self.window.seq, 1, half])
                    .cast(self.dtype)
            };
            (gather(&table.cos), gather(&table.sin))
        })
    }

    /// True where a query of the window must not attend to a key, `[batch, 1, queries, keys]`. That of all queries and keys
    /// is kept for the next block.
    fn mask(&self, window: Option<usize>, queries: Range<usize>, keys: Range<usize>) -> Tensor<4, Bool> {
        let whole = queries.len() == self.window.seq && keys.start == 0;
        let mut masks = self.masks.borrow_mut();
        if let Some((_, mask)) = masks.iter().find(|(known, _)| whole && *known == window) {
            return mask.clone();
        }
        let Window { column, starts, .. } = &self.window;
        let dims = [starts.len(), 1, queries.len(), keys.len()];
        let key = self.indices(keys.clone()).reshape([1, 1, 1, keys.len()]).expand(dims);
        let query = self.indices(queries.start + column..queries.end + column);
        let first = self.indices(starts.iter().copied()).reshape([starts.len(), 1, 1, 1]).expand(dims);
        let distance = query.reshape([1, 1, queries.len(), 1]).expand(dims) - key.clone();
        let mut mask = distance.clone().lower_elem(0).bool_or(key.lower(first));
        if let Some(window) = window {
            mask = mask.bool_or(distance.greater_equal_elem(window as i64));
        }
        if whole {
            masks.push((window, mask.clone()));
        }
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

/// The same order as in Hugging Face: the norm in f32, then the product in the type of the weight.
fn norm<const D: usize>(x: Tensor<D>, w: &Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let wide = x.cast(DType::F32);
    let inverse = wide.clone().square().mean_dim(D - 1).add_scalar(eps).sqrt().recip();
    ((wide * inverse).cast(w.dtype()) * w.clone().unsqueeze::<D>()).cast(dtype)
}

pub(super) fn rms_norm(x: Tensor<2>, w: &Tensor<1>, eps: f64) -> Tensor<2> {
    norm(x, w, eps)
}

pub(super) fn gated(gate_up: Tensor<2>, activation: Activation) -> Tensor<2> {
    let [tokens, width] = gate_up.dims();
    let half = width / 2;
    let gate = gate_up.clone().slice([0..tokens, 0..half]);
    let up = gate_up.slice([0..tokens, half..width]);
    match activation {
        Activation::Silu => silu(gate) * up,
        Activation::GeluTanh => {
            // The cube is a product: a power of a negative number is NaN in some shading languages.
            let cube = gate.clone() * gate.clone() * gate.clone();
            let inner = (gate.clone() + cube * 0.044_715) * (2.0 / std::f64::consts::PI).sqrt();
            gate * (inner.tanh() + 1.0) * 0.5 * up
        }
        Activation::ClampedSwiGlu => {
            let (limit, alpha) = (f64::from(LIMIT), f64::from(ALPHA));
            let gate = gate.clamp_max(limit);
            (up.clamp(-limit, limit) + 1.0) * (gate.clone() * sigmoid(gate * alpha))
        }
    }
}

pub(super) fn qk_norm(qkv: Tensor<2>, q: &Tensor<1>, k: &Tensor<1>, shape: &AttentionShape, eps: f64) -> Tensor<2> {
    let [tokens, width] = qkv.dims();
    let [queries, keys] = shape.parts();
    let part = |range: std::ops::Range<usize>| qkv.clone().slice([0..tokens, range]);
    let normed = |range: std::ops::Range<usize>, w: &Tensor<1>| {
        let (all, each) = (range.len(), w.dims()[0]);
        norm(part(range).reshape([tokens, all / each, each]), w, eps).reshape([tokens, all])
    };
    let values = part(keys.end..width);
    Tensor::cat(vec![normed(queries, q), normed(keys, k), values], 1)
}

/// Rotates `[batch, seq, heads, head_dim]`, the two halves of the rotated dimensions of a head as pairs; the other
/// dimensions are unchanged.
fn rotate(x: Tensor<4>, (cos, sin): &(Tensor<4>, Tensor<4>)) -> Tensor<4> {
    let [batch, seq, heads, head_dim] = x.dims();
    let half = cos.dims()[3];
    let a = x.clone().slice([0..batch, 0..seq, 0..heads, 0..half]);
    let b = x.clone().slice([0..batch, 0..seq, 0..heads, half..2 * half]);
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    let second = b * cos.clone() + a * sin.clone();
    let rest = (2 * half < head_dim).then(|| x.slice([0..batch, 0..seq, 0..heads, 2 * half..head_dim]));
    Tensor::cat([first, second].into_iter().chain(rest).collect(), 3)
}

/// The scores that are in memory at a time, or those of one query.
const SCORES: usize = 32 << 20;

pub(super) fn attention(
    qkv: Tensor<2>,
    sinks: Option<&Tensor<1>>,
    shape: &AttentionShape,
    context: &PassContext,
    cache: Option<&mut LayerCache>,
) -> Tensor<2> {
    attention_in_tiles(qkv, sinks, (shape, context), cache, SCORES)
}

/// Like [`attention`], with at most so many scores in memory, or those of one query. An autodiff graph holds all of them, but
/// without most of those of later keys.
pub(super) fn attention_in_tiles(
    qkv: Tensor<2>,
    sinks: Option<&Tensor<1>>,
    (shape, context): (&AttentionShape, &PassContext),
    cache: Option<&mut LayerCache>,
    scores: usize,
) -> Tensor<2> {
    let AttentionShape { heads, kv_heads, head_dim, window, .. } = *shape;
    let (batch, seq, column) = (context.window.starts.len(), context.window.seq, context.window.column);
    let columns = column + seq;
    let (q_end, k_end) = (heads * head_dim, (heads + kv_heads) * head_dim);
    let width = k_end + kv_heads * head_dim;
    let part = |range: Range<usize>, heads: usize| {
        qkv.clone().slice([0..batch * seq, range]).reshape([batch, seq, heads, head_dim])
    };
    let q = rotate(part(0..q_end, heads), context.angles(shape)).swap_dims(1, 2);
    let k = rotate(part(q_end..k_end, kv_heads), context.angles(shape)).swap_dims(1, 2);
    let v = part(k_end..width, kv_heads).swap_dims(1, 2);
    let (k, v) = match cache.and_then(|cache| cache.kv.take().map(|kv| (cache, kv))) {
        None => (k, v),
        Some((cache, (cached_k, cached_v))) => {
            let at = [0..batch, 0..kv_heads, column..columns, 0..head_dim];
            let held = [0..batch, 0..kv_heads, 0..columns, 0..head_dim];
            let (dtype, cached) = (k.dtype(), cached_k.dtype());
            if cached == DType::F16 && dtype != cached {
                // Infinities that were there before are found in the logits.
                for x in [&k, &v] {
                    cache.note(x.clone().without_autodiff().cast(DType::F32).abs().max());
                }
            }
            let cached_k = cached_k.slice_assign(at.clone(), k.cast(cached));
            let cached_v = cached_v.slice_assign(at, v.cast(cached));
            let read = |x: &Tensor<4>| x.clone().slice(held.clone()).cast(dtype);
            let read = (read(&cached_k), read(&cached_v));
            cache.kv = Some((cached_k, cached_v));
            read
        }
    };
    let step = (scores / (batch * heads * columns).max(1)).clamp(1, seq);
    let mixed = if step == seq {
        attend([q, k, v], sinks, (shape, context), (0..seq, 0..columns))
    } else {
        let tile = |from: usize| {
            let to = seq.min(from + step);
            let first = window.map_or(0, |window| (column + from + 1).saturating_sub(window));
            let part = |x: &Tensor<4>, heads: usize, range: Range<usize>| {
                x.clone().slice([0..batch, 0..heads, range, 0..head_dim])
            };
            let keys = first..column + to;
            let (k, v) = (part(&k, kv_heads, keys.clone()), part(&v, kv_heads, keys.clone()));
            attend([part(&q, heads, from..to), k, v], sinks, (shape, context), (from..to, keys))
        };
        Tensor::cat((0..seq).step_by(step).map(tile).collect(), 2)
    };
    mixed.swap_dims(1, 2).reshape([batch * seq, heads * head_dim])
}

/// Attention of some queries of the window, `[batch, heads, queries, head_dim]`, to some columns' keys and values, each
/// `[batch, kv_heads, keys, head_dim]`.
fn attend(
    [q, k, v]: [Tensor<4>; 3],
    sinks: Option<&Tensor<1>>,
    (shape, context): (&AttentionShape, &PassContext),
    (queries, keys): (Range<usize>, Range<usize>),
) -> Tensor<4> {
    let AttentionShape { heads, kv_heads, head_dim, window, scale, .. } = *shape;
    let (batch, seq, columns, dtype) = (context.window.starts.len(), queries.len(), keys.len(), v.dtype());
    // The queries of a group are adjacent, so that keys and values are not repeated.
    let group = heads / kv_heads;
    let q = q.reshape([batch, kv_heads, group * seq, head_dim]);
    let scores = q.matmul(k.swap_dims(2, 3)) * scale;
    let scores = match shape.softcap {
        Some(cap) => softcap(scores, cap),
        None => scores,
    };
    let scores = scores.reshape([batch, heads, seq, columns]).cast(DType::F32);
    let mask = context.mask(window, queries, keys).expand([batch, heads, seq, columns]);
    // Not −∞: a padding query attends to nothing and must not become NaN.
    let scores = scores.mask_fill(mask, -1e30);
    let weights = match sinks {
        None => softmax(scores, 3),
        // One more column, of which the values are zero.
        Some(sinks) => {
            let sinks = sinks.clone().cast(DType::F32).reshape([1, heads, 1, 1]).expand([batch, heads, seq, 1]);
            softmax(Tensor::cat(vec![scores, sinks], 3), 3).slice([0..batch, 0..heads, 0..seq, 0..columns])
        }
    };
    let weights = weights.cast(dtype);
    let mixed = weights.reshape([batch, kv_heads, group * seq, columns]).matmul(v);
    mixed.reshape([batch, heads, seq, head_dim])
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
