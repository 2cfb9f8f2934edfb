//! Many rows: a panel of weights is unpacked to `f32`, transposed, and then used for every row.

use super::{Columns, for_each_panel, parts};
use crate::kept::{Format, KeptRef, unpack};
use crate::lanes::LANES;
use crate::scratch::with_scratch;
use crate::tile::{PANEL, Pack, Strips, Tile, clear, transpose};
use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};

/// The most elements of `k` packed at a time, so that a strip of a panel stays in the first-level cache.
const DEPTH: usize = 320;

/// Elements of `k` packed at a time, in whole blocks of every format that such a row can have: sums are split in the same
/// way for each.
pub(super) fn depth(k: usize) -> usize {
    let blocks = if k.is_multiple_of(256) { 256 } else { 32 };
    k.div_ceil(k.div_ceil(DEPTH)).next_multiple_of(blocks).min(DEPTH / blocks * blocks)
}

/// Rows of weights that are unpacked and then transposed together.
const UNPACKED: usize = 8;

/// Rows of weights that are unpacked together for the gradient.
pub(super) const GRADIENT_DEPTH: usize = 128;

/// Columns `at..at + depth` of some rows, unpacked and transposed to a panel.
struct PackKept<'a> {
    /// At most [`PANEL`] rows.
    w: KeptRef<'a>,
    k: usize,
    at: usize,
    depth: usize,
    /// Whether neighbours change places: every column with an even number and the next.
    swapped: bool,
    /// `[UNPACKED, depth]`
    values: &'a mut [f32],
    panel: &'a mut [f32],
}

impl Op for PackKept<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { w: KeptRef { format, bytes }, k, at, depth, swapped, values, panel } = self;
        let (row_bytes, columns) =
            (format.bytes_of_blocks(k), format.bytes_of_blocks(at)..format.bytes_of_blocks(at + depth));
        for (group, rows) in bytes.chunks(UNPACKED * row_bytes).enumerate() {
            let count = rows.len() / row_bytes;
            for (row, values) in rows.chunks_exact(row_bytes).zip(values.chunks_exact_mut(depth)) {
                unpack(format, &row[columns.clone()], values);
                if swapped {
                    values.as_chunks_mut::<2>().0.iter_mut().for_each(|pair| pair.swap(0, 1));
                }
            }
            transpose(v, &values[..count * depth], depth, depth, panel, group * UNPACKED);
        }
        clear(panel, depth, bytes.len() / row_bytes);
    }
}

/// `out = x . wᵀ + bias`, see [`linear`](super::linear()). If `swapped`, elements 1, 0, 3, 2 and so on of the rows of `w` are
/// multiplied with elements 0, 1, 2, 3 of those of `x`.
pub(super) fn linear(
    x: &[f32],
    w: KeptRef<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    (m, k, n): (usize, usize, usize),
    swapped: bool,
) {
    let parts = parts(n.div_ceil(PANEL), m);
    let rows = m.div_ceil(parts);
    // `f32` in memory need not be unpacked.
    let plain =
        if w.format == Format::F32 && !swapped { bytemuck::try_cast_slice::<_, f32>(w.bytes).ok() } else { None };
    let most = depth(k);
    for_each_panel(out, (n, PANEL), parts, m * n * k, |panel, part, out| {
        let (from, to) = (panel * PANEL, n.min((panel + 1) * PANEL));
        with_scratch(most * (PANEL + UNPACKED), |memory| {
            let (b, values) = memory.split_at_mut(most * PANEL);
            for at in (0..k).step_by(most) {
                let depth = most.min(k - at);
                if let Some(w) = plain {
                    let w = &w[from * k + at..(to - 1) * k + at + depth];
                    dispatch(Pack { w, stride: k, k: depth, panel: &mut *b });
                } else {
                    let w = w.rows(from, to, k);
                    dispatch(PackKept { w, k, at, depth, swapped, values: &mut *values, panel: &mut *b });
                }
                dispatch(Tile {
                    a: &x[part * rows * k + at..],
                    a_stride: k,
                    m: out.len(),
                    k: depth,
                    b: Strips::packed(b),
                    columns: to - from,
                    accumulate: at > 0,
                    bias: bias.filter(|_| at == 0).map(|bias| &bias[from..to]),
                    out: &mut *out,
                });
            }
        });
    });
}

/// One row.
struct Unpack<'a> {
    w: KeptRef<'a>,
    values: &'a mut [f32],
}

impl Op for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        unpack(self.w.format, self.w.bytes, self.values);
    }
}

/// Some columns of rows in `f32`, in strips of 16 columns one after the other, with zeros in columns without one.
pub(super) struct Split<'a> {
    /// From the first of the columns on; it ends after the last one of the last row, or later.
    pub(super) w: &'a [f32],
    pub(super) k: usize,
    pub(super) columns: usize,
    pub(super) rows: usize,
    pub(super) panel: &'a mut [f32],
}

impl Op for Split<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { w, k, columns, rows, panel } = self;
        for (p, row) in w.chunks(k).take(rows).enumerate() {
            // The rows of the next call.
            for at in (0..columns).step_by(LANES) {
                v.prefetch(bytemuck::cast_slice(w), ((rows + p) * k + at) * 4);
            }
            to_strips(&row[..columns], p, rows, panel);
        }
    }
}

/// Row `p` of some rows, in their strips.
#[inline(always)]
fn to_strips(row: &[f32], p: usize, rows: usize, panel: &mut [f32]) {
    for (part, strip) in row.chunks(LANES).zip(panel.chunks_exact_mut(rows * LANES)) {
        let out: &mut [f32; LANES] = &mut strip.as_chunks_mut().0[p];
        match part.first_chunk() {
            Some(whole) => *out = *whole,
            None => {
                *out = [0.0; LANES];
                out[..part.len()].copy_from_slice(part);
            }
        }
    }
}

/// Like [`Split`], of kept weights.
struct SplitKept<'a> {
    w: KeptRef<'a>,
    k: usize,
    from: usize,
    to: usize,
    /// Memory for a row.
    values: &'a mut [f32],
    panel: &'a mut [f32],
}

impl Op for SplitKept<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        let Self { w: KeptRef { format, bytes }, k, from, to, values, panel } = self;
        let (row_bytes, columns) =
            (format.bytes_of_blocks(k), format.bytes_of_blocks(from)..format.bytes_of_blocks(to));
        let rows = bytes.len() / row_bytes;
        for (p, row) in bytes.chunks_exact(row_bytes).enumerate() {
            unpack(format, &row[columns.clone()], &mut values[..to - from]);
            to_strips(&values[..to - from], p, rows, panel);
        }
    }
}

/// `grad_x = grad_out[:, of] . w`. No size is 0.
pub(super) fn gradient(grad_out: &[f32], of: Columns, w: KeptRef<'_>, grad_x: &mut [f32], k: usize) {
    let (m, n) = (grad_x.len() / k, of.count);
    let grad_out = &grad_out[of.first..];
    // Panels of whole blocks.
    let width = PANEL.max(w.format.block_elements());
    let parts = parts(k.div_ceil(width), m);
    let rows = m.div_ceil(parts);
    let plain = if w.format == Format::F32 { bytemuck::try_cast_slice::<_, f32>(w.bytes).ok() } else { None };
    for_each_panel(grad_x, (k, width), parts, m * n * k, |panel, part, out| {
        let (from, to) = (panel * width, k.min((panel + 1) * width));
        with_scratch((GRADIENT_DEPTH + 1) * width, |memory| {
            let (b, values) = memory.split_at_mut(GRADIENT_DEPTH * width);
            for at in (0..n).step_by(GRADIENT_DEPTH) {
                let depth = GRADIENT_DEPTH.min(n - at);
                if let Some(w) = plain {
                    let w = &w[at * k + from..];
                    dispatch(Split { w, k, columns: to - from, rows: depth, panel: &mut *b });
                } else {
                    let w = w.rows(at, at + depth, k);
                    dispatch(SplitKept { w, k, from, to, values: &mut *values, panel: &mut *b });
                }
                for first in (0..to - from).step_by(PANEL) {
                    let columns = PANEL.min(to - from - first);
                    let mut out: Vec<&mut [f32]> = out.iter_mut().map(|row| &mut row[first..first + columns]).collect();
                    dispatch(Tile {
                        a: &grad_out[part * rows * of.width + at..],
                        a_stride: of.width,
                        m: out.len(),
                        k: depth,
                        b: Strips::packed(&b[first * depth..]),
                        columns,
                        accumulate: at > 0,
                        bias: None,
                        out: &mut out[..],
                    });
                }
            }
        });
    });
}

/// `out[i] = w[ids[i]]`, with `w` `[n, k]` and `out` `[ids.len(), k]`.
pub(crate) fn rows(w: KeptRef<'_>, ids: &[usize], out: &mut [f32], k: usize) {
    for (&id, values) in ids.iter().zip(out.chunks_exact_mut(k)) {
        dispatch(Unpack { w: w.rows(id, id + 1, k), values });
    }
}
