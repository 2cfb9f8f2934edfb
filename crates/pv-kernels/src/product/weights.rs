//! The gradient of weights: `aᵀ . b`, summed over rows. Strips of the wider matrix are used for all columns of the narrower.

use rayon::prelude::*;

use super::wide::{GRADIENT_DEPTH, Split};
use super::{Columns, for_each_panel, in_parallel};
use crate::lanes::LANES;
use crate::scratch::with_scratch;
use crate::tile::{PANEL, Pack, Strips, Tile, Transposed};
use crate::vector::level::dispatch;

/// Some columns of a matrix with at least one row.
type Part<'a> = (&'a [f32], Columns);

/// `out = aᵀ . b`, `[a.count, b.count]`; no size is 0.
pub(crate) fn transposed_product(a: Part<'_>, b: Part<'_>, out: &mut [f32]) {
    let (m, n) = (a.1.count, b.1.count);
    let products = a.0.len() / a.1.width * m * n;
    if m <= n {
        for_each_panel(out, (n, panel_width(n)), 1, products, |panel, _, out| {
            let first = panel * panel_width(n);
            columns(a, b, first, out[0].len(), out);
        });
        return;
    }
    // The product with both exchanged, of which a panel is transposed to rows of the result.
    let width = panel_width(m);
    let task = |(panel, out): (usize, &mut [f32])| {
        let count = out.len() / n;
        with_scratch(n * count + PANEL * count, |memory| {
            let (product, strips) = memory.split_at_mut(n * count);
            let mut rows: Vec<&mut [f32]> = product.chunks_exact_mut(count).collect();
            columns(b, a, panel * width, count, &mut rows);
            for (group, rows) in product.chunks(PANEL * count).enumerate() {
                dispatch(Pack { w: rows, stride: count, k: count, panel: &mut *strips });
                let (from, to) = (group * PANEL, n.min((group + 1) * PANEL));
                for (at, strip) in (from..to).step_by(LANES).zip(strips.chunks_exact(count * LANES)) {
                    let width = LANES.min(to - at);
                    for (out, row) in out.chunks_exact_mut(n).zip(strip.chunks_exact(LANES)) {
                        out[at..at + width].copy_from_slice(&row[..width]);
                    }
                }
            }
        });
    };
    if !in_parallel(products) {
        out.chunks_mut(width * n).enumerate().for_each(task);
    } else {
        out.par_chunks_mut(width * n).enumerate().for_each(task);
    }
}

/// Columns of a task: few wide panels do not divide evenly between the threads.
fn panel_width(columns: usize) -> usize {
    if columns.div_ceil(PANEL) >= 8 * rayon::current_num_threads() { PANEL } else { PANEL / 2 }
}

/// `out = aᵀ . b` for `count` columns of `b` from `first` on.
fn columns((a, of_a): Part<'_>, (b, of_b): Part<'_>, first: usize, count: usize, out: &mut [&mut [f32]]) {
    let rows = a.len() / of_a.width;
    with_scratch(GRADIENT_DEPTH * PANEL, |panel| {
        for at in (0..rows).step_by(GRADIENT_DEPTH) {
            let depth = GRADIENT_DEPTH.min(rows - at);
            let w = &b[at * of_b.width + of_b.first + first..];
            dispatch(Split { w, k: of_b.width, columns: count, rows: depth, panel: &mut *panel });
            dispatch(Transposed(Tile {
                a: &a[at * of_a.width + of_a.first..],
                a_stride: of_a.width,
                m: of_a.count,
                k: depth,
                b: Strips::packed(panel),
                columns: count,
                accumulate: at > 0,
                bias: None,
                out: &mut *out,
            }));
        }
    });
}
