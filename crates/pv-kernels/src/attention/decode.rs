//! Attention of few queries. The caches are read once, in place, in chunks of columns whose partial results are merged
//! at the end.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::AttentionShape;
use crate::element::Element;
use crate::lanes::{self, LANES};
use crate::product::floats::{F16, F32, Floats};
use crate::scratch::with_scratch;
use crate::tile::{PANEL, Strips, Tile};
use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};

/// Columns per task. Fixed, and counted from the first column that a row sees, so that a row's result depends neither
/// on the number of threads nor on its batch.
const CHUNK: usize = 256;

/// With fewer key elements than this, the whole call stays on the calling thread.
const PARALLEL_ELEMENTS: usize = 48 * 1024;

/// Keys in place.
pub(super) trait Keys: Element {
    /// `out[i][j] = x[i] . keys[j]` for keys of `d` elements.
    fn dots<V: Vector>(v: V, x: &[f32], keys: &[Self], d: usize, out: &mut [&mut [f32]]);
}

impl Keys for f32 {
    #[inline(always)]
    fn dots<V: Vector>(v: V, x: &[f32], keys: &[f32], d: usize, out: &mut [&mut [f32]]) {
        v.call(Floats { element: PhantomData::<F32>, x, w: bytemuck::cast_slice(keys), k: d, bias: None, out });
    }
}

impl Keys for u16 {
    #[inline(always)]
    fn dots<V: Vector>(v: V, x: &[f32], keys: &[u16], d: usize, out: &mut [&mut [f32]]) {
        v.call(Floats { element: PhantomData::<F16>, x, w: bytemuck::cast_slice(keys), k: d, bias: None, out });
    }
}

/// Partial attention of one batch row and key head over one chunk of columns.
struct Chunk<'a, K, T> {
    shape: &'a AttentionShape,
    /// First valid column of the batch row.
    start: usize,
    /// Cache columns of the chunk, not empty.
    columns: Range<usize>,
    /// `[rows, d]`, scaled.
    q: &'a [f32],
    /// `[columns, d]`.
    keys: &'a [K],
    /// Rows of `value_stride` elements.
    values: &'a [T],
    value_stride: usize,
    /// `[rows, CHUNK]`.
    scores: &'a mut [f32],
    /// Per row: the largest score, the sum of the exponentials, and `d` weighted values.
    partial: &'a mut [f32],
}

impl<K: Keys, T: Element> Op for Chunk<'_, K, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let d = self.shape.head_dim;
        let group = self.shape.group();
        let count = self.columns.len();
        let mut rows: Vec<_> = self.scores.chunks_exact_mut(CHUNK).map(|row| &mut row[..count]).collect();
        K::dots(v, self.q, self.keys, d, &mut rows);
        for ((r, row), partial) in rows.iter_mut().enumerate().zip(self.partial.chunks_exact_mut(d + 2)) {
            let visible = self.shape.visible(self.start, r / group);
            let from = visible.start.max(self.columns.start) - self.columns.start;
            let to = visible.end.min(self.columns.end).saturating_sub(self.columns.start);
            if from >= to {
                row.fill(0.0);
                (partial[0], partial[1]) = (f32::NEG_INFINITY, 0.0);
                continue;
            }
            row[..from].fill(0.0);
            row[to..].fill(0.0);
            if let Some(cap) = self.shape.softcap {
                lanes::softcap(v, &mut row[from..to], cap);
            }
            let largest = lanes::max(v, &row[from..to]);
            partial[0] = largest;
            partial[1] = lanes::exp_sum(v, &mut row[from..to], largest);
        }
        for at in (0..d).step_by(PANEL) {
            v.call(Tile {
                a: &*self.scores,
                a_stride: CHUNK,
                m: self.scores.len() / CHUNK,
                k: count,
                b: Strips::rows(&self.values[at..], self.value_stride),
                columns: PANEL.min(d - at),
                accumulate: false,
                bias: None,
                out: (&mut self.partial[2 + at..], d + 2),
            });
        }
    }
}

/// See [`super::attention()`].
pub(super) fn attention<E: Keys>(
    shape: &AttentionShape,
    qkv: &[f32],
    keys: &[E],
    values: &[E],
    starts: &[usize],
    sinks: Option<&[f32]>,
    out: &mut [f32],
) {
    let &AttentionShape { batch, seq, heads, kv_heads, head_dim: d, capacity, column, .. } = shape;
    let group = shape.group();
    let rows = seq * group;
    let end = column + seq;
    // The first query that is not padding sees the lowest column.
    let base = |b: usize| shape.visible(starts[b], 0).start.max(starts[b]).min(end);
    let chunks = (0..batch).map(|b| (end - base(b)).div_ceil(CHUNK)).max().unwrap_or(0).max(1);
    let size = rows * (d + 2);
    // A row of values must be readable up to whole SIMD vectors.
    let padded = if d.is_multiple_of(LANES) { 0 } else { d.next_multiple_of(LANES) };

    let task = |index: usize, partial: &mut [f32]| {
        let (cell, chunk) = (index / chunks, index % chunks);
        let (b, head) = (cell / kv_heads, cell % kv_heads);
        let from = base(b) + chunk * CHUNK;
        let columns = from..end.min(from + CHUNK);
        if columns.is_empty() {
            for partial in partial.chunks_exact_mut(d + 2) {
                (partial[0], partial[1]) = (f32::NEG_INFINITY, 0.0);
            }
            return;
        }
        let cache = (cell * capacity + from) * d..(cell * capacity + columns.end) * d;
        with_scratch(rows * (d + CHUNK) + CHUNK * padded, |scratch| {
            let (q, scratch) = scratch.split_at_mut(rows * d);
            let (scores, copy) = scratch.split_at_mut(rows * CHUNK);
            for (r, q) in q.chunks_exact_mut(d).enumerate() {
                let row = (b * seq + r / group) * shape.row_stride();
                let from = &qkv[row + (head * group + r % group) * d..][..d];
                q.iter_mut().zip(from).for_each(|(q, &v)| *q = v * shape.scale);
            }
            let (keys, values) = (&keys[cache.clone()], &values[cache]);
            let start = starts[b];
            if padded == 0 {
                dispatch(Chunk { shape, start, columns, q, keys, values, value_stride: d, scores, partial });
                return;
            }
            pad(values, d, copy, padded);
            dispatch(Chunk { shape, start, columns, q, keys, values: &*copy, value_stride: padded, scores, partial });
        });
    };

    let total = batch * kv_heads * chunks * size;
    with_scratch(total, |partials| {
        let elements = batch * kv_heads * (end - (0..batch).map(base).min().unwrap_or(end)) * d;
        if elements < PARALLEL_ELEMENTS || rayon::current_num_threads() == 1 {
            partials.chunks_exact_mut(size).enumerate().for_each(|(i, partial)| task(i, partial));
        } else {
            partials.par_chunks_exact_mut(size).enumerate().for_each(|(i, partial)| task(i, partial));
        }
        for (i, out) in out.chunks_exact_mut(d).enumerate() {
            let (token, head) = (i / heads, i % heads);
            let cell = token / seq * kv_heads + head / group;
            let row = token % seq * group + head % group;
            let parts = partials[cell * chunks * size..][..chunks * size]
                .chunks_exact(size)
                .map(|chunk| &chunk[row * (d + 2)..][..d + 2])
                .filter(|part| part[1] != 0.0);
            dispatch(Merge { parts, sink: sinks.map(|sinks| sinks[head]), out });
        }
    });
}

/// Copies rows of `d` elements into rows of `padded`, with zeros at their ends.
pub(super) fn pad<E: Element>(rows: &[E], d: usize, out: &mut [f32], padded: usize) {
    for (to, from) in out.chunks_exact_mut(padded).zip(rows.chunks_exact(d)) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widened());
        to[d..].fill(0.0);
    }
}

/// Merges the partial results of one query; without parts, `out` becomes zero.
struct Merge<'a, P> {
    parts: P,
    sink: Option<f32>,
    out: &'a mut [f32],
}

impl<'a, P: Iterator<Item = &'a [f32]> + Clone> Op for Merge<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { parts, sink, out } = self;
        out.fill(0.0);
        let largest = parts.clone().map(|part| part[0]).fold(sink.unwrap_or(f32::NEG_INFINITY), f32::max);
        let mut sum = sink.map_or(0.0, |sink| lanes::exp_of(v, sink - largest));
        for part in parts {
            let factor = lanes::exp_of(v, part[0] - largest);
            sum += factor * part[1];
            let factor = v.splat(factor);
            lanes::update(
                v,
                out,
                [&part[2..]],
                #[inline(always)]
                |out, [value]| v.mul_add(factor, value, out),
            );
        }
        if sum != 0.0 {
            let sum = v.splat(sum);
            lanes::update(
                v,
                out,
                [],
                #[inline(always)]
                |out, []| v.div(out, sum),
            );
        }
    }
}
