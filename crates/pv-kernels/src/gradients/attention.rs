//! The gradient of attention. The attention weights are recomputed for a block of queries at a time and never held as a
//! whole. Columns that no query of a block sees are skipped.

use std::ops::Range;

use rayon::prelude::*;

use crate::attention::AttentionShape;
use crate::lanes::{self, LANES};
use crate::scratch::with_scratch;
use crate::tile::{PANEL, Pack, Strips, Tile, Transposed};
use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};

/// Queries whose weights are held at a time.
const BLOCK: usize = 48;

/// The gradients of one token in a task: of the group's queries, of the key, of the value.
type Pieces<'a> = (&'a mut [f32], &'a mut [f32], &'a mut [f32]);

/// One batch row and key head, and the queries that read it. Tokens are counted from the row's first token.
struct Cell<'a, 'b> {
    shape: &'a AttentionShape,
    /// From the row's first token on: rows of `shape.row_stride()`.
    qkv: &'a [f32],
    /// From the row's first token on: rows of `heads * head_dim`.
    upstream: &'a [f32],
    head: usize,
    /// Of the group's heads, with the sums of their gradients.
    sinks: Option<(&'a [f32], &'a mut [f32])>,
    scratch: Scratch<'a>,
    /// One per token.
    out: &'a mut [Pieces<'b>],
}

/// A task's buffers. Vectors are padded with zeros to whole SIMD vectors.
struct Scratch<'a> {
    /// `[tokens, width]`.
    keys: &'a mut [f32],
    /// Transposed, in panels `[width, PANEL]`.
    key_panels: &'a mut [f32],
    value_panels: &'a mut [f32],
    key_gradients: &'a mut [f32],
    value_gradients: &'a mut [f32],
    /// `[BLOCK, width]`: scaled queries, upstream gradients, the queries' gradients.
    queries: &'a mut [f32],
    upstreams: &'a mut [f32],
    query_gradients: &'a mut [f32],
    /// `[BLOCK, columns]`: the attention weights, and the gradients with respect to them and to the scores.
    weights: &'a mut [f32],
    slopes: &'a mut [f32],
    /// `[columns]`: the bounded scores of one query.
    capped: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    fn columns(tokens: usize) -> usize {
        tokens.next_multiple_of(PANEL)
    }

    fn len(tokens: usize, width: usize) -> usize {
        (3 * tokens + 3 * BLOCK) * width + (2 * width + 2 * BLOCK + 1) * Self::columns(tokens)
    }

    fn new(mut buffer: &'a mut [f32], tokens: usize, width: usize) -> Self {
        let mut take = |len: usize| {
            let (taken, rest) = std::mem::take(&mut buffer).split_at_mut(len);
            buffer = rest;
            taken
        };
        let columns = Self::columns(tokens);
        Self {
            keys: take(tokens * width),
            key_panels: take(columns * width),
            value_panels: take(columns * width),
            key_gradients: take(tokens * width),
            value_gradients: take(tokens * width),
            queries: take(BLOCK * width),
            upstreams: take(BLOCK * width),
            query_gradients: take(BLOCK * width),
            weights: take(BLOCK * columns),
            slopes: take(BLOCK * columns),
            capped: take(columns),
        }
    }
}

impl Op for Cell<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let (d, tokens) = (self.shape.head_dim, self.out.len());
        let width = d.next_multiple_of(LANES);
        let stride = self.shape.row_stride();
        let key = (self.shape.heads + self.head) * d;
        let value = key + self.shape.kv_heads * d;
        copy(&self.qkv[key..], stride, d, self.scratch.keys, width);
        for at in (0..tokens).step_by(PANEL) {
            let rows = PANEL.min(tokens - at);
            let panel = at / PANEL * d * PANEL..(at / PANEL + 1) * d * PANEL;
            let from = |offset: usize| &self.qkv[at * stride + offset..][..(rows - 1) * stride + d];
            let panels = [
                (from(key), &mut self.scratch.key_panels[panel.clone()]),
                (from(value), &mut self.scratch.value_panels[panel]),
            ];
            for (w, panel) in panels {
                v.call(Pack { w, stride, k: d, panel });
            }
        }
        self.scratch.key_gradients.fill(0.0);
        self.scratch.value_gradients.fill(0.0);
        for member in 0..self.shape.group() {
            for first in (0..tokens).step_by(BLOCK) {
                self.block(v, member, first..tokens.min(first + BLOCK));
            }
        }
        let gradients =
            self.scratch.key_gradients.chunks_exact(width).zip(self.scratch.value_gradients.chunks_exact(width));
        for ((_, key, value), (key_gradient, value_gradient)) in self.out.iter_mut().zip(gradients) {
            key.copy_from_slice(&key_gradient[..d]);
            value.copy_from_slice(&value_gradient[..d]);
        }
    }
}

impl Cell<'_, '_> {
    /// The queries of some consecutive tokens for one head of the group.
    #[inline(always)]
    fn block<V: Vector>(&mut self, v: V, member: usize, tokens: Range<usize>) {
        let shape = AttentionShape { column: 0, ..*self.shape };
        let (d, m) = (shape.head_dim, tokens.len());
        let width = d.next_multiple_of(LANES);
        let columns = Scratch::columns(self.out.len());
        let head = self.head * shape.group() + member;
        let (row, wide) = (shape.row_stride(), shape.heads * d);
        let scratch = &mut self.scratch;

        let (queries, upstreams) = (&mut scratch.queries[..m * width], &mut scratch.upstreams[..m * width]);
        copy(&self.qkv[tokens.start * row + head * d..], row, d, queries, width);
        lanes::scale(v, queries, shape.scale);
        copy(&self.upstream[tokens.start * wide + head * d..], wide, d, upstreams, width);

        // Whole panels from the first visible column to the last.
        let from = shape.visible(0, tokens.start).start / PANEL * PANEL;
        let to = tokens.end;
        for at in (from..to).step_by(PANEL) {
            let panel = at / PANEL * d * PANEL..(at / PANEL + 1) * d * PANEL;
            let products = [
                (&*queries, &scratch.key_panels[panel.clone()], &mut *scratch.weights),
                (&*upstreams, &scratch.value_panels[panel], &mut *scratch.slopes),
            ];
            for (a, b, out) in products {
                v.call(Tile {
                    a,
                    a_stride: width,
                    m,
                    k: d,
                    b: Strips::packed(b),
                    columns: PANEL.min(to - at),
                    accumulate: false,
                    bias: None,
                    out: (&mut out[at..], columns),
                });
            }
        }
        let sink = self.sinks.as_ref().map(|(sinks, _)| sinks[member]);
        let mut sink_gradient = 0.0;
        let rows = scratch.weights.chunks_exact_mut(columns).zip(scratch.slopes.chunks_exact_mut(columns));
        for ((weights, slopes), token) in rows.zip(tokens.clone()) {
            let seen = shape.visible(0, token);
            for unseen in [from..seen.start, seen.end..to] {
                weights[unseen.clone()].fill(0.0);
                slopes[unseen].fill(0.0);
            }
            let (scores, slopes) = (&mut weights[seen.clone()], &mut slopes[seen.clone()]);
            let Some(cap) = shape.softcap else {
                sink_gradient += softmax_gradient(v, scores, slopes, sink);
                continue;
            };
            lanes::softcap(v, scores, cap);
            let capped = &mut scratch.capped[..scores.len()];
            capped.copy_from_slice(scores);
            sink_gradient += softmax_gradient(v, scores, slopes, sink);
            softcap_gradient(v, slopes, capped, cap);
        }
        if let Some((_, gradients)) = &mut self.sinks {
            gradients[member] += sink_gradient;
        }

        for at in (0..width).step_by(PANEL) {
            v.call(Tile {
                a: &scratch.slopes[from..],
                a_stride: columns,
                m,
                k: to - from,
                b: Strips::rows(&scratch.keys[from * width + at..], width),
                columns: PANEL.min(width - at),
                accumulate: false,
                bias: None,
                out: (&mut scratch.query_gradients[at..], width),
            });
        }
        let sums = [
            (&*scratch.slopes, &*queries, &mut *scratch.key_gradients),
            (&*scratch.weights, &*upstreams, &mut *scratch.value_gradients),
        ];
        for (a, b, out) in sums {
            let out = &mut out[from * width..to * width];
            for at in (0..width).step_by(PANEL) {
                v.call(Transposed(Tile {
                    a: &a[from..],
                    a_stride: columns,
                    m: to - from,
                    k: m,
                    b: Strips::rows(&b[at..], width),
                    columns: PANEL.min(width - at),
                    accumulate: true,
                    bias: None,
                    out: (&mut out[at..], width),
                }));
            }
        }
        let gradients = scratch.query_gradients.chunks_exact(width);
        for ((queries, _, _), gradient) in self.out[tokens].iter_mut().zip(gradients) {
            lanes::scale_into(v, &gradient[..d], shape.scale, &mut queries[member * d..][..d]);
        }
    }
}

/// Turns scores into softmax weights, and the gradient with respect to the weights into that with respect to the
/// scores. Returns the gradient with respect to the sink; 0 without one.
#[inline(always)]
fn softmax_gradient<V: Vector>(v: V, scores: &mut [f32], slopes: &mut [f32], sink: Option<f32>) -> f32 {
    let mut largest = lanes::max(v, scores);
    if let Some(sink) = sink {
        largest = largest.max(sink);
    }
    let mut sum = lanes::exp_sum(v, scores, largest);
    let mut weight = 0.0;
    if let Some(sink) = sink {
        weight = lanes::exp_of(v, sink - largest);
        sum += weight;
    }
    lanes::scale(v, scores, 1.0 / sum);
    let mean = lanes::dot(v, scores, slopes);
    // The value at a sink is zero.
    let gradient = -(weight / sum) * mean;
    let mean = v.splat(mean);
    lanes::update(
        v,
        slopes,
        [scores],
        #[inline(always)]
        |g, [p]| v.mul(p, v.sub(g, mean)),
    );
    gradient
}

/// Turns the gradient with respect to bounded scores into that with respect to the scores: `d/ds (c tanh(s / c))` is
/// `1 - (bounded / c)^2`.
#[inline(always)]
fn softcap_gradient<V: Vector>(v: V, slopes: &mut [f32], bounded: &[f32], cap: f32) {
    let (one, inverse) = (v.splat(1.0), v.splat(1.0 / cap));
    lanes::update(
        v,
        slopes,
        [bounded],
        #[inline(always)]
        |g, [bounded]| {
            let tanh = v.mul(bounded, inverse);
            v.mul(g, v.sub(one, v.mul(tanh, tanh)))
        },
    );
}

/// Copies vectors of `d` elements with distance `stride` to rows of `width`, padded with zeros, until `out` is full.
#[inline(always)]
fn copy(from: &[f32], stride: usize, d: usize, out: &mut [f32], width: usize) {
    for (out, from) in out.chunks_exact_mut(width).zip(from.chunks(stride)) {
        out[..d].copy_from_slice(&from[..d]);
        out[d..].fill(0.0);
    }
}

/// The gradient of [`attention`](crate::attention::attention) over a window without a cache (`shape.column` is 0).
///
/// `qkv` contains queries, keys and values, all rotated: `[batch * seq, (heads + 2 kv_heads) * head_dim]`; `out`, their
/// gradients, has the same shape. `upstream` is `[batch * seq, heads * head_dim]`. Padding, left of `starts`, has a
/// gradient of zero. Returns the gradient of `sinks`, one number per query head; nothing without sinks.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn attention_gradient(
    shape: &AttentionShape,
    qkv: &[f32],
    starts: &[usize],
    sinks: Option<&[f32]>,
    upstream: &[f32],
    out: &mut [f32],
) -> Vec<f32> {
    let &AttentionShape { batch, seq, heads, kv_heads, head_dim: d, .. } = shape;
    let (group, stride) = (shape.group(), shape.row_stride());
    assert_eq!(shape.column, 0, "attention_gradient: column is not 0");
    assert_eq!(starts.len(), batch, "attention_gradient: one start per batch row");
    assert!(qkv.len() == batch * seq * stride && out.len() == qkv.len(), "attention_gradient: qkv size");
    assert_eq!(upstream.len(), batch * seq * heads * d, "attention_gradient: upstream size");
    assert!(sinks.is_none_or(|sinks| sinks.len() == heads), "attention_gradient: one sink per query head");
    let mut of_sinks = vec![0.0; sinks.map_or(0, <[f32]>::len)];
    if out.is_empty() {
        return of_sinks;
    }
    let mut tasks: Vec<Vec<Pieces<'_>>> = (0..batch * kv_heads).map(|_| Vec::with_capacity(seq)).collect();
    for (token, row) in out.chunks_exact_mut(stride).enumerate() {
        if token % seq < starts[token / seq] {
            row.fill(0.0);
            continue;
        }
        let (queries, rest) = row.split_at_mut(heads * d);
        let (keys, values) = rest.split_at_mut(kv_heads * d);
        let pieces = queries.chunks_exact_mut(group * d).zip(keys.chunks_exact_mut(d)).zip(values.chunks_exact_mut(d));
        for (head, ((queries, key), value)) in pieces.enumerate() {
            tasks[token / seq * kv_heads + head].push((queries, key, value));
        }
    }
    // Of each batch row, so that the sum over them has one order.
    let mut of_rows = vec![0.0; batch * of_sinks.len()];
    let mut pieces: Vec<&mut [f32]> = match sinks {
        Some(_) => of_rows.chunks_exact_mut(group).collect(),
        None => tasks.iter().map(|_| Default::default()).collect(),
    };
    let cells = tasks.par_iter_mut().zip(pieces.par_iter_mut());
    cells.with_max_len(1).enumerate().for_each(|(cell, (out, of_sinks))| {
        let tokens = out.len();
        if tokens == 0 {
            return;
        }
        let (b, head) = (cell / kv_heads, cell % kv_heads);
        let first = b * seq + starts[b];
        let width = d.next_multiple_of(LANES);
        with_scratch(Scratch::len(tokens, width), |buffer| {
            dispatch(Cell {
                shape,
                qkv: &qkv[first * stride..][..tokens * stride],
                upstream: &upstream[first * heads * d..][..tokens * heads * d],
                head,
                sinks: sinks.map(|sinks| (&sinks[head * group..][..group], &mut **of_sinks)),
                scratch: Scratch::new(buffer, tokens, width),
                out,
            });
        });
    });
    for row in of_rows.chunks_exact(heads) {
        of_sinks.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    of_sinks
}
