//! Linear layers.

use rayon::prelude::*;

pub use crate::product::Columns;
use crate::product::{self, SKINNY_ROWS, in_parallel, plain, without_terms};
use crate::scratch::with_scratch;
use crate::tile::{PANEL, Pack, ROWS, Strips, Tile};
use crate::vector::level::dispatch;

/// Up to this many rows, [`linear`] and [`linear_kept`](crate::linear_kept::linear_kept) read the weights in place.
pub const ROWS_IN_PLACE: usize = SKINNY_ROWS;

/// `out = x . wᵀ + bias`, with `x` `[m, k]`, `w` `[n, k]` (the Hugging Face layout), `bias` `[n]` and
/// `out` `[m, n]`.
///
/// One of two methods is used: up to [`ROWS_IN_PLACE`] rows, the weights are read in place; for more, they are rearranged. Within a
/// method, the order in which an output element is summed depends on `k` only: a row's result is the same to the bit
/// whatever the other rows, the number of threads and the processor. It is that of
/// [`linear_kept`](crate::linear_kept::linear_kept) with the same weights.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn linear(x: &[f32], w: &[f32], bias: Option<&[f32]>, out: &mut [f32], m: usize, k: usize, n: usize) {
    assert_eq!(w.len(), n * k, "linear: w is not [n, k]");
    if !without_terms("linear", x, bias, out, (m, k, n)) {
        product::linear(x, plain(w), bias, out, (m, k, n));
    }
}

/// `grad_x = grad_out . w`: the gradient of [`linear`] with respect to `x`, with `grad_out` `[m, n]`, `w` `[n, k]` and
/// `grad_x` `[m, k]`. It is that of [`grad_input_kept`](crate::linear_kept::grad_input_kept) with the same weights.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn grad_input(grad_out: &[f32], w: &[f32], grad_x: &mut [f32], m: usize, k: usize, n: usize) {
    assert_eq!(w.len(), n * k, "grad_input: w is not [n, k]");
    product::gradient("grad_input", (grad_out, Columns::all(n)), plain(w), grad_x, (m, k));
}

/// Like [`grad_input`], with some columns of a wider `grad_out`: `grad_x = grad_out[:, of] . w`, with `w` `[of.count, k]`.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn grad_input_of(grad_out: &[f32], of: Columns, w: &[f32], grad_x: &mut [f32], m: usize, k: usize) {
    assert_eq!(w.len(), of.count * k, "grad_input_of: w is not [of.count, k]");
    product::gradient("grad_input_of", (grad_out, of), plain(w), grad_x, (m, k));
}

/// `grad_w = grad_out[:, of]ᵀ . x[:, from]`: the gradient of [`linear`] with respect to `w`, `[of.count, from.count]`, in some
/// columns of a result and with some columns of an input of equally many rows.
///
/// The order in which an element is summed depends on the number of rows only.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn grad_weight(grad_out: &[f32], of: Columns, x: &[f32], from: Columns, grad_w: &mut [f32]) {
    for columns in [of, from] {
        assert!(columns.first + columns.count <= columns.width, "grad_weight: columns exceed the row");
    }
    assert_eq!(grad_out.len() * from.width, x.len() * of.width, "grad_weight: numbers of rows differ");
    assert_eq!(grad_w.len(), of.count * from.count, "grad_weight: grad_w is not [of.count, from.count]");
    if grad_w.is_empty() || x.is_empty() {
        return grad_w.fill(0.0);
    }
    product::transposed_product((grad_out, of), (x, from), grad_w);
}

/// `out[i, to] += x[i, from] . wᵀ`, with `w` `[to.count, from.count]`: a product with few terms, such as that of a
/// low-rank update, added to some columns of a wide result.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn linear_add(x: &[f32], from: Columns, w: &[f32], out: &mut [f32], to: Columns) {
    let (k, n) = (from.count, to.count);
    assert_eq!(w.len(), n * k, "linear_add: w is not [n, k]");
    assert!(from.first + k <= from.width && to.first + n <= to.width, "linear_add: columns exceed the row");
    assert_eq!(x.len() * to.width, out.len() * from.width, "linear_add: numbers of rows differ");
    if out.is_empty() || k == 0 || n == 0 {
        return;
    }
    let m = out.len() / to.width;
    if m <= SKINNY_ROWS {
        return with_scratch(m * (k + n), |buffer| {
            let (terms, sums) = buffer.split_at_mut(m * k);
            for (terms, x) in terms.chunks_exact_mut(k).zip(x.chunks_exact(from.width)) {
                terms.copy_from_slice(&x[from.first..from.first + k]);
            }
            linear(terms, w, None, sums, m, k, n);
            for (out, sums) in out.chunks_exact_mut(to.width).zip(sums.chunks_exact(n)) {
                out[to.first..to.first + n].iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
            }
        });
    }
    let panels = n.div_ceil(PANEL);
    with_scratch(panels * PANEL * k, |packed| {
        for (panel, packed) in packed.chunks_exact_mut(PANEL * k).enumerate() {
            dispatch(Pack { w: &w[panel * PANEL * k..n.min((panel + 1) * PANEL) * k], stride: k, k, panel: packed });
        }
        let add = |x: &[f32], out: &mut [f32]| {
            for (panel, b) in packed.chunks_exact(PANEL * k).enumerate() {
                let at = panel * PANEL;
                dispatch(Tile {
                    a: &x[from.first..],
                    a_stride: from.width,
                    m: out.len() / to.width,
                    k,
                    b: Strips::packed(b),
                    columns: PANEL.min(n - at),
                    accumulate: true,
                    bias: None,
                    out: (&mut out[to.first + at..], to.width),
                });
            }
        };
        if !in_parallel(m * n * k) {
            return add(x, out);
        }
        let rows = m.div_ceil(rayon::current_num_threads() * 4).max(ROWS);
        let tasks = out.par_chunks_mut(rows * to.width).zip(x.par_chunks(rows * from.width));
        tasks.for_each(|(out, x)| add(x, out));
    });
}
