//! Linear layers.

use rayon::prelude::*;

use crate::dot::{COLUMNS, Dot};
use crate::scratch::with_scratch;
use crate::simd;
use crate::tile::{PANEL, ROWS, Tile, pack_transposed};

/// Rows up to which the weights are always read in place rather than packed.
const SKINNY_ROWS: usize = 16;

/// Elements of `x` up to which they are, too: it is read over and over, and should stay in the
/// second-level cache.
const SKINNY_ELEMENTS: usize = 64 * 1024;

/// Elements of `k` packed at a time, so that a panel stays in the second-level cache.
const DEPTH: usize = 2048;

/// Multiplications below which a product stays on the calling thread.
const PARALLEL_PRODUCTS: usize = 64 * 1024;

/// `out = x . wᵀ + bias`, with `x` `[m, k]`, `w` `[n, k]` (the Hugging Face layout), `bias` `[n]` and
/// `out` `[m, n]`.
///
/// There are two methods, chosen by `m` and `k` (see the constants above). Within one, an output
/// element is summed in an order that depends on `k` only: a row gives the same bits whatever the
/// other rows and the number of threads. Up to 16 rows the method is the same for every `k`.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
pub fn linear(x: &[f32], w: &[f32], bias: Option<&[f32]>, out: &mut [f32], m: usize, k: usize, n: usize) {
    assert_eq!(x.len(), m * k, "linear: x is not [m, k]");
    assert_eq!(w.len(), n * k, "linear: w is not [n, k]");
    assert_eq!(out.len(), m * n, "linear: out is not [m, n]");
    assert!(bias.is_none_or(|bias| bias.len() == n), "linear: bias is not [n]");
    if out.is_empty() {
        return;
    }
    if k == 0 {
        for row in out.chunks_exact_mut(n) {
            match bias {
                Some(bias) => row.copy_from_slice(bias),
                None => row.fill(0.0),
            }
        }
        return;
    }
    if m <= SKINNY_ROWS || m * k <= SKINNY_ELEMENTS {
        skinny(x, w, bias, out, k, n);
    } else {
        wide(x, w, bias, out, m, k, n);
    }
}

/// Some of the columns of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// How long the matrix's rows are.
    pub width: usize,
    /// The first of the columns.
    pub first: usize,
    /// How many they are.
    pub count: usize,
}

/// `out[i, to] += x[i, from] . wᵀ`, with `w` `[to.count, from.count]`: a product of few terms, such as a low-rank update's,
/// into some columns of a wide result.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
pub fn linear_add(x: &[f32], from: Columns, w: &[f32], out: &mut [f32], to: Columns) {
    let (k, n) = (from.count, to.count);
    assert_eq!(w.len(), n * k, "linear_add: w is not [n, k]");
    assert!(from.first + k <= from.width && to.first + n <= to.width, "linear_add: columns beyond the last");
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
            pack_transposed(&w[panel * PANEL * k..n.min((panel + 1) * PANEL) * k], k, k, packed);
        }
        let add = |x: &[f32], out: &mut [f32]| {
            for (panel, b) in packed.chunks_exact(PANEL * k).enumerate() {
                let at = panel * PANEL;
                simd::dispatch(Tile {
                    a: &x[from.first..],
                    a_stride: from.width,
                    m: out.len() / to.width,
                    k,
                    b,
                    b_stride: PANEL,
                    columns: PANEL.min(n - at),
                    accumulate: true,
                    bias: None,
                    out: (&mut out[to.first + at..], to.width),
                });
            }
        };
        let threads = rayon::current_num_threads();
        if threads == 1 || m * n * k < PARALLEL_PRODUCTS {
            return add(x, out);
        }
        let rows = m.div_ceil(threads * 4).max(ROWS);
        let tasks = out.par_chunks_mut(rows * to.width).zip(x.par_chunks(rows * from.width));
        tasks.for_each(|(out, x)| add(x, out));
    });
}

/// Cuts each row of `out` into pieces of `width` columns; the first index is that of the piece.
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

fn skinny(x: &[f32], w: &[f32], bias: Option<&[f32]>, out: &mut [f32], k: usize, n: usize) {
    let m = x.len() / k;
    let threads = rayon::current_num_threads();
    let task = |at: usize, out: &mut [&mut [f32]]| {
        let count = out[0].len();
        let bias = bias.map(|bias| &bias[at..at + count]);
        simd::dispatch(Dot { x, w: &w[at * k..(at + count) * k], k, bias, out });
    };
    if threads == 1 || m * n * k < PARALLEL_PRODUCTS {
        let mut rows: Vec<_> = out.chunks_exact_mut(n).collect();
        return task(0, &mut rows);
    }
    // Several tasks per thread even out a thread that is held up; whole groups of columns keep the
    // inner loop on its fast path.
    let width = n.div_ceil(threads * 4).next_multiple_of(COLUMNS);
    if m == 1 {
        out.par_chunks_mut(width).enumerate().for_each(|(i, out)| task(i * width, &mut [out]));
    } else {
        columns(out, n, width).into_par_iter().enumerate().for_each(|(i, mut out)| task(i * width, &mut out));
    }
}

fn wide(x: &[f32], w: &[f32], bias: Option<&[f32]>, out: &mut [f32], m: usize, k: usize, n: usize) {
    let threads = rayon::current_num_threads();
    let panels = n.div_ceil(PANEL);
    // Few panels do not divide evenly between the threads: cut the rows as well, but not so short
    // that packing a panel twice costs more than the balance brings.
    let parts = if panels >= 8 * threads { 1 } else { (m / 192).clamp(1, threads) };
    let rows = m.div_ceil(parts);
    let depth = k.div_ceil(k.div_ceil(DEPTH));
    let task = |panel: usize, part: usize, out: &mut [&mut [f32]]| {
        let from = panel * PANEL;
        let to = n.min(from + PANEL);
        with_scratch(depth * PANEL, |b| {
            for at in (0..k).step_by(depth) {
                let depth = depth.min(k - at);
                pack_transposed(&w[from * k + at..(to - 1) * k + at + depth], k, depth, b);
                simd::dispatch(Tile {
                    a: &x[part * rows * k + at..],
                    a_stride: k,
                    m: out.len(),
                    k: depth,
                    b,
                    b_stride: PANEL,
                    columns: to - from,
                    accumulate: at > 0,
                    bias: bias.filter(|_| at == 0).map(|bias| &bias[from..to]),
                    out: &mut *out,
                });
            }
        });
    };
    let mut pieces = columns(out, n, PANEL);
    if threads == 1 || m * n * k < PARALLEL_PRODUCTS {
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
