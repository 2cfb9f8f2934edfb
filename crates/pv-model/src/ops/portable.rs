//! The decoder's operations in Burn's tensors: for every backend, and differentiable.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::activation::{log_softmax, sigmoid, silu, softmax};
use burn::tensor::{Bool, Int};
use pv_kernels::gated::{ALPHA, LIMIT};

use super::cpu_autodiff::Rotation;
use super::rotary::Frequencies;
use super::{
    Activation, AttentionShape, DType, Device, LayerCache, Ragged, RotaryAngles, RotaryTable, Tensor, Window, indices,
    softcap,
};
use crate::device::is_cpu;

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
    /// The first column of each row, `[batch, 1]`.
    starts: OnceCell<Tensor<2, Int>>,
    masks: RefCell<Vec<KeptMask>>,
    neighbours_apart: OnceCell<Tensor<1, Int>>,
}

/// What the queries of a window must not attend to among so many keys, see [`PassContext::mask`].
#[derive(Debug)]
struct KeptMask {
    window: Option<usize>,
    keys: usize,
    mask: Option<Tensor<4, Bool>>,
}

/// The rotary tables of a pass, on the host and in the forms that the implementations need.
#[derive(Debug)]
struct Rope {
    frequencies: Arc<Frequencies>,
    table: OnceCell<RotaryTable>,
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
        let rope = |frequencies: &Arc<Frequencies>| Rope {
            frequencies: frequencies.clone(),
            table: OnceCell::new(),
            angles: OnceCell::new(),
            rotation: OnceCell::new(),
        };
        Self {
            window,
            ropes: rotary.ropes.iter().map(rope).collect(),
            ragged,
            buckets: Vec::new(),
            device,
            dtype,
            starts: OnceCell::new(),
            masks: RefCell::default(),
            neighbours_apart: OnceCell::new(),
        }
    }

    /// The rows of the blocks' tensors.
    fn tokens(&self) -> usize {
        self.ragged.as_ref().map_or(self.window.seq * self.window.starts.len(), Ragged::len)
    }

    /// Whether our kernels compute in f32 on this device.
    pub(super) fn on_cpu(&self) -> bool {
        is_cpu(&self.device)
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
        let rope = &self.ropes[shape.rope];
        rope.table.get_or_init(|| rope.frequencies.table(&self.window))
    }

    /// The data that the nodes of an autodiff graph need.
    pub(super) fn rotation(&self, shape: &AttentionShape) -> Arc<Rotation> {
        let rope = &self.ropes[shape.rope];
        rope.rotation.get_or_init(|| Arc::new(Rotation::new(&self.window, self.table(shape)))).clone()
    }

    /// The columns of stacked queries, keys and values in the order in which rotated neighbours 2i and 2i + 1 of a head
    /// become i and i + half.
    pub(super) fn neighbours_apart(&self, shape: &AttentionShape) -> Tensor<1, Int> {
        let order = || {
            let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
            let half = self.ropes[shape.rope].frequencies.half();
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

    /// Neighbouring numbers, `[n]`, made on the device.
    fn range(&self, numbers: Range<usize>) -> Tensor<1, Int> {
        Tensor::arange(numbers.start as i64..numbers.end as i64, &self.device)
    }

    /// The first column of each row, `[batch, 1]`; `None` if it is the first of all.
    fn starts(&self) -> Option<Tensor<2, Int>> {
        let starts = &self.window.starts;
        let upload = || self.indices(starts.iter().copied()).reshape([starts.len(), 1]);
        starts.iter().any(|start| *start > 0).then(|| self.starts.get_or_init(upload).clone())
    }

    /// Cosines and sines of every token, `[batch, seq, 1, rotated / 2]`.
    fn angles(&self, shape: &AttentionShape) -> &(Tensor<4>, Tensor<4>) {
        let Rope { frequencies, angles, .. } = &self.ropes[shape.rope];
        angles.get_or_init(|| {
            let Window { seq, column, starts } = &self.window;
            let (batch, half) = (starts.len(), frequencies.half());
            let table = frequencies.on_device(&self.device, column + seq);
            let columns = self.range(*column..column + seq).reshape([1, *seq]).expand([batch, *seq]);
            let mut rows = match self.starts() {
                Some(starts) => (columns - starts.expand([batch, *seq])).clamp_min(0),
                None => columns,
            };
            if let Some(long) = frequencies.long_rows(&self.window) {
                let first = self.indices(long.into_iter().map(|long| if long { table.positions } else { 0 }));
                rows = rows + first.reshape([batch, 1]).expand([batch, *seq]);
            }
            let rows = rows.reshape([batch * seq]);
            let gather =
                |values: Tensor<2>| values.select(0, rows.clone()).reshape([batch, *seq, 1, half]).cast(self.dtype);
            (gather(table.cos), gather(table.sin))
        })
    }

    /// True where a query of the window must not attend to a key, `[batch or 1, 1, queries, keys]`; `None` if each may attend to
    /// all. That of all queries is kept for the next block.
    fn mask(&self, window: Option<usize>, queries: Range<usize>, keys: Range<usize>) -> Option<Tensor<4, Bool>> {
        let whole = queries.len() == self.window.seq && keys.start == 0;
        if !whole {
            return self.new_mask(window, queries, keys);
        }
        let mut masks = self.masks.borrow_mut();
        if let Some(known) = masks.iter().find(|known| known.window == window && known.keys == keys.len()) {
            return known.mask.clone();
        }
        let mask = self.new_mask(window, queries, keys.clone());
        masks.push(KeptMask { window, keys: keys.len(), mask: mask.clone() });
        mask
    }

    fn new_mask(&self, window: Option<usize>, queries: Range<usize>, keys: Range<usize>) -> Option<Tensor<4, Bool>> {
        let Window { column, starts, .. } = &self.window;
        let (first, last) = (queries.start + column, queries.end + column - 1);
        let later = keys.end > first + 1;
        let earlier = window.filter(|window| last >= keys.start + window);
        let padded = starts.iter().any(|start| *start > keys.start);
        let dims = [if padded { starts.len() } else { 1 }, 1, queries.len(), keys.len()];
        let key = || self.range(keys.clone()).reshape([1, 1, 1, keys.len()]).expand(dims);
        let query = || self.range(first..last + 1).reshape([1, 1, queries.len(), 1]).expand(dims);
        let parts = [
            later.then(|| query().lower(key())),
            earlier.map(|window| (query() - key()).greater_equal_elem(window as i64)),
            self.starts().filter(|_| padded).map(|starts| key().lower(starts.reshape([-1, 1, 1, 1]).expand(dims))),
        ];
        parts.into_iter().flatten().reduce(Tensor::bool_or)
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
    // Heads before tokens: for one token, the same elements in the same order.
    let heads_first = |x: Tensor<4>| match (seq, x.dims()[2]) {
        (1, heads) => x.reshape([batch, heads, 1, head_dim]),
        _ => x.swap_dims(1, 2),
    };
    let q = heads_first(rotate(part(0..q_end, heads), context.angles(shape)));
    let k = heads_first(rotate(part(q_end..k_end, kv_heads), context.angles(shape)));
    let v = heads_first(part(k_end..width, kv_heads));
    let (k, v) = match cache.and_then(|cache| cache.kv.take().map(|kv| (cache, kv))) {
        None => (k, v),
        Some((cache, (cached_k, cached_v))) => {
            let at = [0..batch, 0..kv_heads, column..columns, 0..head_dim];
            let (dtype, cached) = (k.dtype(), cached_k.dtype());
            if cached == DType::F16 && dtype != cached {
                // Infinities that were there before are found in the logits.
                for x in [&k, &v] {
                    cache.note(x.clone().without_autodiff().cast(DType::F32).abs().max());
                }
            }
            let cached_k = cached_k.slice_assign(at.clone(), k.clone().cast(cached));
            let cached_v = cached_v.slice_assign(at, v.clone().cast(cached));
            let read = |x: &Tensor<4>| match context.on_cpu() {
                true => x.clone().slice([0..batch, 0..kv_heads, 0..columns, 0..head_dim]).cast(dtype),
                // A GPU reads the columns that are not written yet too, and masks them: a slice would be a copy of all keys and
                // values for each token, and every pass would have other shapes.
                false => x.clone().cast(dtype),
            };
            // What was just written need not be read, if there was nothing before.
            let read = match column == 0 && dtype == cached {
                true => (k, v),
                false => (read(&cached_k), read(&cached_v)),
            };
            cache.kv = Some((cached_k, cached_v));
            read
        }
    };
    let step = (scores / (batch * heads * columns).max(1)).clamp(1, seq);
    let mixed = if step == seq {
        let keys = 0..k.dims()[2];
        attend([q, k, v], sinks, (shape, context), (0..seq, keys))
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
    match seq {
        1 => mixed.reshape([batch, heads * head_dim]),
        _ => mixed.swap_dims(1, 2).reshape([batch * seq, heads * head_dim]),
    }
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
    let scores = match context.mask(window, queries, keys) {
        // Not −∞: a padding query attends to nothing and must not become NaN.
        Some(mask) => scores.mask_fill(mask.expand([batch, heads, seq, columns]), -1e30),
        None => scores,
    };
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
