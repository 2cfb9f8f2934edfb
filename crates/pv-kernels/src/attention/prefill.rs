//! Attention of many queries, in tiles of queries and columns with a running softmax. Tiles that no query sees are
//! skipped.

use rayon::prelude::*;

use super::AttentionShape;
use super::decode::pad;
use crate::element::Element;
use crate::lanes::{self, LANES};
use crate::scratch::with_scratch;
use crate::tile::{PANEL, Pack, ROWS, Strips, Tile};
use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};

/// Columns whose scores are computed at a time. With their keys and values they stay in the second-level cache.
const COLUMNS: usize = 4 * PANEL;

/// Rows (queries times the heads of a group) whose scores are computed at a time.
const BLOCK: usize = 4 * ROWS;

/// Rows of a task. They share one pass over the keys and values.
const TASK_ROWS: usize = 192;

/// The queries of one task: some tokens of a batch row, all heads of a group.
struct Queries<'a, 'b, T> {
    shape: &'a AttentionShape,
    /// First valid column of the batch row.
    start: usize,
    /// First column of `panels` and `values`.
    base: usize,
    /// First token of the task.
    first: usize,
    /// Keys from `base` on, transposed in panels `[d, PANEL]`.
    panels: &'a [f32],
    /// Values from `base` on, in rows of `value_stride` elements.
    values: &'a [T],
    value_stride: usize,
    /// `[rows, d]`, scaled; row `r` is head `r % group` of token `first + r / group`.
    q: &'a [f32],
    /// `[BLOCK, COLUMNS]`.
    scores: &'a mut [f32],
    /// `[rows, d]`.
    sums: &'a mut [f32],
    /// Per row, the largest score so far and the sum of the exponentials.
    state: Vec<(f32, f32)>,
    /// Per token, `group * d` elements.
    out: &'a mut [&'b mut [f32]],
}

impl<T: Element> Op for Queries<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let d = self.shape.head_dim;
        let group = self.shape.group();
        let rows = self.state.len();
        self.sums.fill(0.0);
        let end = self.shape.column + self.first + self.out.len();
        let begin = self.shape.visible(self.start, self.first).start.max(self.base);
        let mut tile = self.base + (begin - self.base) / COLUMNS * COLUMNS;
        while tile < end {
            for block in (0..rows).step_by(BLOCK) {
                self.block(v, tile, block, (rows - block).min(BLOCK));
            }
            tile += COLUMNS;
        }
        for (r, sums) in self.sums.chunks_exact(d).enumerate() {
            let out = &mut self.out[r / group][r % group * d..][..d];
            let sum = self.state[r].1;
            if sum == 0.0 {
                out.fill(0.0);
            } else {
                lanes::scale_into(v, sums, 1.0 / sum, out);
            }
        }
    }
}

impl<T: Element> Queries<'_, '_, T> {
    /// Adds the columns `tile..tile + COLUMNS` to the rows `row..row + m`.
    #[inline(always)]
    fn block<V: Vector>(&mut self, v: V, tile: usize, row: usize, m: usize) {
        let d = self.shape.head_dim;
        let group = self.shape.group();
        let visible = |r: usize| {
            let range = self.shape.visible(self.start, self.first + r / group);
            // Relative to the tile.
            let from = range.start.saturating_sub(tile).min(COLUMNS);
            from..range.end.saturating_sub(tile).min(COLUMNS).max(from)
        };
        // The last row sees the most columns; padding rows, the first ones, see none.
        let Some(from) = (row..row + m).map(visible).find(|v| !v.is_empty()).map(|v| v.start) else {
            return;
        };
        let to = visible(row + m - 1).end;
        if from >= to {
            return;
        }
        let from = from / PANEL * PANEL;
        for at in (from..to).step_by(PANEL) {
            let panel = (tile - self.base + at) / PANEL;
            v.call(Tile {
                a: &self.q[row * d..],
                a_stride: d,
                m,
                k: d,
                b: Strips::packed(&self.panels[panel * d * PANEL..][..d * PANEL]),
                columns: PANEL.min(to - at),
                accumulate: false,
                bias: None,
                out: (&mut self.scores[at..], COLUMNS),
            });
        }
        for r in 0..m {
            let scores = &mut self.scores[r * COLUMNS..][..COLUMNS];
            let seen = visible(row + r);
            if seen.is_empty() {
                scores[from..to].fill(0.0);
                continue;
            }
            scores[from..seen.start].fill(0.0);
            scores[seen.end..to].fill(0.0);
            let scores = &mut scores[seen];
            if let Some(cap) = self.shape.softcap {
                lanes::softcap(v, scores, cap);
            }
            let (old, sum) = self.state[row + r];
            let largest = old.max(lanes::max(v, scores));
            let added = lanes::exp_sum(v, scores, largest);
            // Exactly zero on the first tile, where there is nothing to rescale.
            let factor = if sum == 0.0 { 0.0 } else { lanes::exp_of(v, old - largest) };
            if factor != 1.0 && sum != 0.0 {
                lanes::scale(v, &mut self.sums[(row + r) * d..][..d], factor);
            }
            self.state[row + r] = (largest, sum * factor + added);
        }
        let values = &self.values[(tile - self.base + from) * self.value_stride..];
        for at in (0..d).step_by(PANEL) {
            v.call(Tile {
                a: &self.scores[from..],
                a_stride: COLUMNS,
                m,
                k: to - from,
                b: Strips::rows(&values[at..], self.value_stride),
                columns: PANEL.min(d - at),
                accumulate: true,
                bias: None,
                out: (&mut self.sums[row * d + at..], d),
            });
        }
    }
}

/// See [`super::attention()`].
pub(super) fn attention<E: Element>(
    shape: &AttentionShape,
    qkv: &[f32],
    keys: &[E],
    values: &[E],
    starts: &[usize],
    sinks: Option<&[f32]>,
    out: &mut [f32],
) {
    let &AttentionShape { batch, seq, kv_heads, head_dim: d, capacity, column, .. } = shape;
    let group = shape.group();
    let end = column + seq;
    // The first query that is not padding sees the lowest column. Tiles begin at multiples of their width from the row's
    // first column, so that a query's sums do not depend on where this pass begins.
    let base = |b: usize| {
        let first = shape.visible(starts[b], 0).start.max(starts[b]).min(end);
        first - first.saturating_sub(starts[b]) % COLUMNS
    };
    let panels = (0..batch).map(|b| (end - base(b)).div_ceil(PANEL)).max().unwrap_or(0).max(1);
    // A row of values must be readable up to whole SIMD vectors.
    let padded = if d.is_multiple_of(LANES) { 0 } else { d.next_multiple_of(LANES) };
    let key_size = panels * d * PANEL;
    let value_size = panels * PANEL * padded;
    let cache = |cell: usize| {
        let from = base(cell / kv_heads);
        (cell * capacity + from) * d..(cell * capacity + end) * d
    };

    // Output pieces in the order of the tasks: batch row, key head, tile of tokens.
    let tokens = (TASK_ROWS / group).max(ROWS);
    let tiles = seq.div_ceil(tokens);
    let mut tasks: Vec<Vec<&mut [f32]>> = (0..batch * kv_heads * tiles).map(|_| Vec::with_capacity(tokens)).collect();
    for (token, row) in out.chunks_exact_mut(kv_heads * group * d).enumerate() {
        for (head, piece) in row.chunks_exact_mut(group * d).enumerate() {
            let cell = token / seq * kv_heads + head;
            tasks[cell * tiles + token % seq / tokens].push(piece);
        }
    }

    with_scratch(batch * kv_heads * (key_size + value_size), |scratch| {
        let (packed_keys, packed_values) = scratch.split_at_mut(batch * kv_heads * key_size);
        packed_keys.par_chunks_exact_mut(d * PANEL).enumerate().for_each(|(i, panel)| {
            let keys = &keys[cache(i / panels)];
            let from = (i % panels * PANEL * d).min(keys.len());
            let to = (from + PANEL * d).min(keys.len());
            if from < to {
                dispatch(Pack { w: &keys[from..to], stride: d, k: d, panel });
            }
        });
        if padded > 0 {
            packed_values.par_chunks_exact_mut(value_size).enumerate().for_each(|(i, copy)| {
                pad(&values[cache(i)], d, copy, padded);
            });
        }
        let (packed_keys, packed_values) = (&*packed_keys, &*packed_values);

        tasks.par_iter_mut().with_max_len(1).enumerate().for_each(|(task, out)| {
            let (cell, first) = (task / tiles, task % tiles * tokens);
            let (b, head) = (cell / kv_heads, cell % kv_heads);
            let rows = out.len() * group;
            // A sink is the first column of a row.
            let first_of = |r: usize| match sinks {
                Some(sinks) => (sinks[head * group + r % group], 1.0),
                None => (f32::NEG_INFINITY, 0.0),
            };
            with_scratch(2 * rows * d + BLOCK * COLUMNS, |scratch| {
                let (q, scratch) = scratch.split_at_mut(rows * d);
                let (sums, scores) = scratch.split_at_mut(rows * d);
                for (r, q) in q.chunks_exact_mut(d).enumerate() {
                    let row = (b * seq + first + r / group) * shape.row_stride();
                    let from = &qkv[row + (head * group + r % group) * d..][..d];
                    q.iter_mut().zip(from).for_each(|(q, &v)| *q = v * shape.scale);
                }
                let (start, base) = (starts[b], base(b));
                let panels = &packed_keys[cell * key_size..][..key_size];
                let state = (0..rows).map(first_of).collect();
                if padded == 0 {
                    let (values, value_stride) = (&values[cache(cell)], d);
                    dispatch(Queries {
                        shape,
                        start,
                        base,
                        first,
                        panels,
                        values,
                        value_stride,
                        q,
                        scores,
                        sums,
                        state,
                        out,
                    });
                } else {
                    let (values, value_stride) = (&packed_values[cell * value_size..][..value_size], padded);
                    dispatch(Queries {
                        shape,
                        start,
                        base,
                        first,
                        panels,
                        values,
                        value_stride,
                        q,
                        scores,
                        sums,
                        state,
                        out,
                    });
                }
            });
        });
    });
}
