//! Products of rows with weights in any [`Format`], and the division of their work. The weights are widened or unpacked to
//! `f32`, so that a result depends on their values only, and not on the format.

pub(crate) mod blocks;
pub(crate) mod floats;
pub(crate) mod pairs;
mod unpacked;
mod weights;
mod wide;

use std::marker::PhantomData;

use rayon::prelude::*;

use crate::kept::{Format, KeptRef};
use crate::scratch::with_scratch;
use crate::vector::level::dispatch;
use blocks::{Blocks, with_blocks};
use floats::{Bf16, F16, F32, Floats, STREAMS};
use unpacked::Unpacked;

/// Up to this many rows, the weights are read in place and not packed.
pub(super) const SKINNY_ROWS: usize = 32;

/// A product with fewer multiplications than this stays on the calling thread.
const PARALLEL_PRODUCTS: usize = 64 * 1024;

/// Whether so many multiplications are shared between threads.
pub(super) fn in_parallel(products: usize) -> bool {
    products >= PARALLEL_PRODUCTS && rayon::current_num_threads() > 1
}

/// A range of columns of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// Elements of a row of the matrix.
    pub width: usize,
    /// The first column.
    pub first: usize,
    /// The number of columns.
    pub count: usize,
}

impl Columns {
    /// All columns of a matrix whose rows have `width` elements.
    pub fn all(width: usize) -> Self {
        Self { width, first: 0, count: width }
    }
}

#[cfg(target_endian = "big")]
compile_error!("weights in f32 are read like those of files, whose bytes are little-endian");

/// Weights in `f32`.
pub(super) fn plain(w: &[f32]) -> KeptRef<'_> {
    KeptRef { format: Format::F32, bytes: bytemuck::cast_slice(w) }
}

/// Checks the sizes of a product, whose result is the biases if it has no terms; whether it has none.
#[track_caller]
pub(super) fn without_terms(
    name: &str,
    x: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
    (m, k, n): (usize, usize, usize),
) -> bool {
    assert_eq!(x.len(), m * k, "{name}: x is not [m, k]");
    assert_eq!(out.len(), m * n, "{name}: out is not [m, n]");
    assert!(bias.is_none_or(|bias| bias.len() == n), "{name}: bias is not [n]");
    if k == 0 && n > 0 {
        for row in out.chunks_exact_mut(n) {
            match bias {
                Some(bias) => row.copy_from_slice(bias),
                None => row.fill(0.0),
            }
        }
    }
    k == 0 || out.is_empty()
}

/// `out = x . wᵀ + bias`, with `x` `[m, k]`, `w` `[n, k]`, `bias` `[n]` and `out` `[m, n]`; no size is 0.
pub(super) fn linear(
    x: &[f32],
    w: KeptRef<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    (m, k, n): (usize, usize, usize),
) {
    if m > SKINNY_ROWS {
        return wide::linear(x, w, bias, out, (m, k, n), false);
    }
    for_columns(out, (m, k, n), STREAMS, |from, out| {
        let (KeptRef { format, bytes: w }, bias) = part(w, bias, from, out, k);
        with_blocks!(format, B => in_blocks::<B>(x, w, k, bias, out), _ => match format {
            Format::F16 => dispatch(Floats { element: PhantomData::<F16>, x, w, k, bias, out }),
            Format::Bf16 => dispatch(Floats { element: PhantomData::<Bf16>, x, w, k, bias, out }),
            _ => dispatch(Floats { element: PhantomData::<F32>, x, w, k, bias, out }),
        });
    });
}

fn in_blocks<B: Blocks>(x: &[f32], w: &[u8], k: usize, bias: Option<&[f32]>, out: &mut [&mut [f32]]) {
    let len = if out.len() > unpacked::TOGETHER { unpacked::COLUMNS * k } else { 0 };
    with_scratch(len, |memory| dispatch(Unpacked { blocks: PhantomData::<B>, x, w, k, bias, memory, out }));
}

/// `grad_x = grad_out[:, of] . w`, with `w` `[of.count, k]` and `grad_x` `[m, k]`.
#[track_caller]
pub(super) fn gradient(
    name: &str,
    (grad_out, of): (&[f32], Columns),
    w: KeptRef<'_>,
    grad_x: &mut [f32],
    (m, k): (usize, usize),
) {
    assert!(of.first + of.count <= of.width, "{name}: columns exceed the row");
    assert_eq!(grad_out.len(), m * of.width, "{name}: grad_out has not m rows");
    assert_eq!(grad_x.len(), m * k, "{name}: grad_x is not [m, k]");
    if of.count == 0 {
        grad_x.fill(0.0);
    } else if !grad_x.is_empty() {
        wide::gradient(grad_out, of, w, grad_x, k);
    }
}

pub(super) use weights::transposed_product;
pub(super) use wide::rows;

/// The rows of `w` and elements of `bias` for the columns from `from` on.
pub(super) fn part<'a>(
    w: KeptRef<'a>,
    bias: Option<&'a [f32]>,
    from: usize,
    out: &[&mut [f32]],
    k: usize,
) -> (KeptRef<'a>, Option<&'a [f32]>) {
    let to = from + out[0].len();
    (w.rows(from, to, k), bias.map(|bias| &bias[from..to]))
}

/// Splits each row of `out` into pieces of `width` columns; the first index is that of the piece.
fn columns(out: &mut [f32], n: usize, width: usize) -> Vec<Vec<&mut [f32]>> {
    let m = out.len() / n;
    let mut pieces: Vec<Vec<&mut [f32]>> = (0..n.div_ceil(width)).map(|_| Vec::with_capacity(m)).collect();
    for row in out.chunks_exact_mut(n) {
        for (piece, columns) in pieces.iter_mut().zip(row.chunks_mut(width)) {
            piece.push(columns);
        }
    }
    pieces
}

/// Runs `task(first column, rows)` for pieces of the columns of `out`, in parallel if that is worth it. A piece has a
/// multiple of `together` columns.
pub(super) fn for_columns(
    out: &mut [f32],
    (m, k, n): (usize, usize, usize),
    together: usize,
    task: impl Fn(usize, &mut [&mut [f32]]) + Sync,
) {
    if !in_parallel(m * n * k) {
        let mut rows: Vec<_> = out.chunks_exact_mut(n).collect();
        return task(0, &mut rows);
    }
    // Several tasks per thread compensate for a delayed thread.
    let width = n.div_ceil(rayon::current_num_threads() * 4).next_multiple_of(together);
    if m == 1 {
        out.par_chunks_mut(width).enumerate().for_each(|(i, out)| task(i * width, &mut [out]));
    } else {
        columns(out, n, width).into_par_iter().enumerate().for_each(|(i, mut out)| task(i * width, &mut out));
    }
}

/// The number of parts of the rows, for a number of panels: few panels do not divide evenly between the threads, so that
/// the rows are split as well, but not so finely that packing a panel twice costs more than the balance saves.
fn parts(panels: usize, m: usize) -> usize {
    let threads = rayon::current_num_threads();
    if panels >= 8 * threads { 1 } else { (m / 192).clamp(1, threads) }
}

/// Runs `task(panel, part, rows)` for every panel of `width` columns and each of the `parts` of the rows.
fn for_each_panel(
    out: &mut [f32],
    (n, width): (usize, usize),
    parts: usize,
    products: usize,
    task: impl Fn(usize, usize, &mut [&mut [f32]]) + Sync,
) {
    let rows = (out.len() / n).div_ceil(parts);
    let mut pieces = columns(out, n, width);
    if !in_parallel(products) {
        for (panel, out) in pieces.iter_mut().enumerate() {
            task(panel, 0, out);
        }
        return;
    }
    pieces.par_iter_mut().enumerate().for_each(|(panel, out)| {
        if parts == 1 {
            task(panel, 0, out);
        } else {
            out.par_chunks_mut(rows).enumerate().for_each(|(part, out)| task(panel, part, out));
        }
    });
}
