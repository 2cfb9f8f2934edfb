//! Linear layers whose weights are kept in a [`Format`]. Every result is the same to the bit on every processor.

mod columns;
mod integers;
mod rounded;

use std::hint::black_box;
use std::marker::PhantomData;

use crate::kept::{Format, KeptRef};
use crate::lanes::LANES;
use crate::product::blocks::{Blocks, with_blocks};
use crate::product::{self, floats::STREAMS, for_columns, part, without_terms};
use crate::scratch::with_scratch;
use crate::vector::level::dispatch;
use columns::{Columns, STEPS, strip_len};
use integers::Integers;

/// Up to this many rows of rounded activations, the weights are read in place.
const FEW_ROWS: usize = 4;

#[track_caller]
fn check(w: KeptRef<'_>, k: usize, n: usize) {
    assert_eq!(w.bytes.len(), n * w.format.row_bytes(k), "the weights are not [n, k] in {}", w.format);
}

/// `out = x . wᵀ + bias`, with `x` `[m, k]`, `w` `[n, k]` (the Hugging Face layout), `bias` `[n]` and
/// `out` `[m, n]`.
///
/// The weights are widened or unpacked to `f32`, and products are computed in `f32`. Up to
/// [`ROWS_IN_PLACE`](crate::linear::ROWS_IN_PLACE) rows, the weights are read in place. The result is that of
/// [`linear`](crate::linear::linear) with the unpacked weights, to the bit.
///
/// # Panics
/// If the length of a slice does not match the shapes above, or `k` is not a multiple of the format's block.
pub fn linear_kept(x: &[f32], w: KeptRef<'_>, bias: Option<&[f32]>, out: &mut [f32], m: usize, k: usize, n: usize) {
    check(w, k, n);
    if !without_terms("linear_kept", x, bias, out, (m, k, n)) {
        product::linear(x, w, bias, out, (m, k, n));
    }
}

/// Like [`linear_kept`], but for weights in blocks, rows of `x` are rounded to 8 bits, with a scale per 32 neighbours,
/// whose largest magnitude becomes 127; the products of integers are summed exactly. This is faster and
/// changes a product by at most `Σ |w| · largest |x| of the 32 / 254`. A group of 32 below 1e-30 counts as zero. A row's
/// result does not depend on the other rows or their number, to the bit.
///
/// # Panics
/// Like [`linear_kept`].
pub fn linear_kept_rounded(
    x: &[f32],
    w: KeptRef<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    m: usize,
    k: usize,
    n: usize,
) {
    with_blocks!(
        w.format,
        B => rounded_to::<B>(x, w, bias, out, (m, k, n)),
        _ => linear_kept(x, w, bias, out, m, k, n)
    );
}

/// Like [`linear_kept`], but for weights in bf16, rows of `x` are rounded to bf16, as products in bf16 do; sums are in `f32`. A
/// product changes by at most `Σ |w · x| / 256`. Processors with an instruction for it compute many rows twice as fast as in
/// `f32`. Elements and sums below 2^-126 may count as zero, which is the only difference between processors.
///
/// # Panics
/// Like [`linear_kept`].
pub fn linear_kept_bf16(
    x: &[f32],
    w: KeptRef<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    m: usize,
    k: usize,
    n: usize,
) {
    if w.format != Format::Bf16 {
        return linear_kept(x, w, bias, out, m, k, n);
    }
    check(w, k, n);
    if !without_terms("linear_kept_bf16", x, bias, out, (m, k, n)) {
        product::pairs::linear(x, w, bias, out, (m, k, n));
    }
}

fn rounded_to<B: Blocks>(
    x: &[f32],
    w: KeptRef<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    (m, k, n): (usize, usize, usize),
) {
    check(w, k, n);
    if without_terms("linear_kept_rounded", x, bias, out, (m, k, n)) {
        return;
    }
    if m <= FEW_ROWS {
        return with_scratch(m * rounded::row_len(k), |memory| {
            let x = &rounded::rows(x, k, memory)[..];
            for_columns(out, (m, k, n), STREAMS, |from, out| {
                let (KeptRef { bytes: w, .. }, bias) = part(w, bias, from, out, k);
                dispatch(Integers { blocks: PhantomData::<B>, x, w, k, bias, out });
            });
        });
    }
    with_scratch(rounded::blocks_len(m, k), |memory| {
        let x = &rounded::blocks(x, k, memory)[..];
        for_columns(out, (m, k, n), LANES, |from, out| {
            let (KeptRef { bytes: w, .. }, bias) = part(w, bias, from, out, k);
            with_scratch(strip_len::<B>(k), |memory| {
                let steps = black_box(STEPS);
                dispatch(Columns { blocks: PhantomData::<B>, x, w, k, bias, memory, steps, out });
            });
        });
    });
}

/// `grad_x = grad_out . w`: the gradient of [`linear_kept`] with respect to `x`, with `grad_out` `[m, n]`, `w` `[n, k]`
/// and `grad_x` `[m, k]`. The weights are unpacked to `f32`, and `grad_out` is not rounded. The result is that of
/// [`grad_input`](crate::linear::grad_input) with the unpacked weights, to the bit.
///
/// # Panics
/// If the length of a slice does not match the shapes above, or `k` is not a multiple of the format's block.
pub fn grad_input_kept(grad_out: &[f32], w: KeptRef<'_>, grad_x: &mut [f32], m: usize, k: usize, n: usize) {
    check(w, k, n);
    product::gradient("grad_input_kept", (grad_out, crate::linear::Columns::all(n)), w, grad_x, (m, k));
}

/// `out[i] = w[ids[i]]`: rows of an embedding, with `w` `[n, k]` and `out` `[ids.len(), k]`.
///
/// # Panics
/// If an id is not below `n`, the length of a slice does not match the shapes above, or `k` is not a multiple of the
/// format's block.
pub fn rows_kept(w: KeptRef<'_>, ids: &[usize], out: &mut [f32], k: usize) {
    assert_eq!(out.len(), ids.len() * k, "rows_kept: out is not [ids, k]");
    if k > 0 {
        product::rows(w, ids, out, k);
    }
}
