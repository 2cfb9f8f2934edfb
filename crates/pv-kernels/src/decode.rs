//! Attention of few queries: the caches are read once, in place, split into chunks of columns
//! whose partial results are merged at the end.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::AttentionShape;
use crate::dot::Dot;
use crate::scratch::with_scratch;
use crate::simd::{self, MAX_LANES};
use crate::tile::{PANEL, Tile};

/// Columns per task. Fixed, and counted from the first column a row sees, so that a row's result
/// depends neither on the number of threads nor on its batch.
const CHUNK: usize = 256;

/// Elements of keys below which the whole call stays on this thread.
const PARALLEL_ELEMENTS: usize = 48 * 1024;

/// Partial attention of one batch row and key head over one chunk of columns.
struct Chunk<'a> {
    shape: &'a AttentionShape,
    /// First valid column of the batch row.
    start: usize,
    /// Cache columns of the chunk, not empty.
    columns: Range<usize>,
    /// `[rows, d]`, scaled.
    q: &'a [f32],
    /// `[columns, d]`.
    keys: &'a [f32],
    /// Rows of `value_stride` elements.
    values: &'a [f32],
    value_stride: usize,
    /// `[rows, CHUNK]`.
    scores: &'a mut [f32],
    /// Per row: the largest score, the sum of the exponentials, and `d` weighted values.
    partial: &'a mut [f32],
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let d = self.shape.head_dim;
        let group = self.shape.group();
        let count = self.columns.len();
        let mut rows: Vec<_> = self.scores.chunks_exact_mut(CHUNK).map(|row| &mut row[..count]).collect();
        Dot { x: self.q, w: self.keys, k: d, bias: None, out: &mut rows }.with_simd(s);
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
            let largest = simd::max(s, &row[from..to]);
            partial[0] = largest;
            partial[1] = simd::exp_sum(s, &mut row[from..to], largest);
        }
        for at in (0..d).step_by(PANEL) {
            Tile {
                a: &*self.scores,
                a_stride: CHUNK,
                m: self.scores.len() / CHUNK,
                k: count,
                b: &self.values[at..],
                b_stride: self.value_stride,
                columns: PANEL.min(d - at),
                accumulate: false,
                bias: None,
                out: (&mut self.partial[2 + at..], d + 2),
            }
            .run(s);
        }
    }
}

/// See [`super::attention`].
pub(super) fn attention(
    shape: &AttentionShape,
    qkv: &[f32],
    keys: &[f32],
    values: &[f32],
    starts: &[usize],
    out: &mut [f32],
) {
    let &AttentionShape { batch, seq, heads, kv_heads, head_dim: d, capacity, column, .. } = shape;
    let group = shape.group();
    let rows = seq * group;
    let end = column + seq;
    // The first query that is no padding sees the lowest column of all.
    let base = |b: usize| shape.visible(starts[b], 0).start.max(starts[b]).min(end);
    let chunks = (0..batch).map(|b| (end - base(b)).div_ceil(CHUNK)).max().unwrap_or(0).max(1);
    let size = rows * (d + 2);
    // A row of values must be readable up to whole vectors.
    let padded = if d.is_multiple_of(MAX_LANES) { 0 } else { d.next_multiple_of(MAX_LANES) };

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
            let mut values = &values[cache.clone()];
            if padded > 0 {
                for (to, from) in copy.chunks_exact_mut(padded).zip(values.chunks_exact(d)) {
                    to[..d].copy_from_slice(from);
                    to[d..].fill(0.0);
                }
                values = copy;
            }
            simd::dispatch(Chunk {
                shape,
                start: starts[b],
                columns,
                q,
                keys: &keys[cache],
                values,
                value_stride: padded.max(d),
                scores,
                partial,
            });
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
            merge(parts, out);
        }
    });
}

/// Merges the partial results of one query; none leaves zeros.
fn merge<'a>(parts: impl Iterator<Item = &'a [f32]> + Clone, out: &mut [f32]) {
    out.fill(0.0);
    let largest = parts.clone().map(|part| part[0]).fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for part in parts {
        let factor = (part[0] - largest).exp();
        sum += factor * part[1];
        out.iter_mut().zip(&part[2..]).for_each(|(o, &v)| *o += factor * v);
    }
    if sum != 0.0 {
        out.iter_mut().for_each(|o| *o /= sum);
    }
}
