//! Linear layers whose weights are kept in a [`Format`]. Every result is the same to the bit on every processor.

mod integers;
mod rounded;

use std::marker::PhantomData;

use crate::kept::{Format, KeptRef};
use crate::product::{self, SKINNY_ROWS, floats::STREAMS, for_columns, part, without_terms};
use crate::scratch::with_scratch;
use crate::vector::level::dispatch;
use integers::Integers;
use rounded::Round;

#[track_caller]
fn check(w: KeptRef<'_>, k: usize, n: usize) {
    assert_eq!(w.bytes.len(), n * w.format.row_bytes(k), "the weights are not [n, k] in {}", w.format);
}

/// `out = x . wᵀ + bias`, with `x` `[m, k]`, `w` `[n, k]` (the Hugging Face layout), `bias` `[n]` and
/// `out` `[m, n]`.
///
/// The weights are widened or unpacked to `f32`, and products are computed in `f32`. Up to 16 rows, the weights are read
/// in place. The result is that of [`linear`](crate::linear::linear) with the unpacked weights, to the bit.
///
/// # Panics
/// If the length of a slice does not match the shapes above, or `k` is not a multiple of the format's block.
pub fn linear_kept(x: &[f32], w: KeptRef<'_>, bias: Option<&[f32]>, out: &mut [f32], m: usize, k: usize, n: usize) {
    check(w, k, n);
    if !without_terms("linear_kept", x, bias, out, (m, k, n)) {
        product::linear(x, w, bias, out, (m, k, n));
    }
}

/// Like [`linear_kept`], but up to 16 rows of `x` are rounded to 8 bits for weights in blocks, with a scale per 32
/// neighbours, whose greatest magnitude becomes 127; the products of integers are summed exactly. This is faster and
/// changes a product by at most `Σ |w| · greatest |x| of the 32 / 254`. A group of 32 below 1e-30 counts as zero.
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
    if m > SKINNY_ROWS || w.format.block_elements() == 1 {
        return linear_kept(x, w, bias, out, m, k, n);
    }
    check(w, k, n);
    if without_terms("linear_kept_rounded", x, bias, out, (m, k, n)) {
        return;
    }
    with_scratch(m * rounded::row_len(k), |memory| {
        dispatch(Round { x, k, memory: &mut *memory });
        let x: Vec<_> = rounded::rows(k, memory).collect();
        for_columns(out, (m, k, n), STREAMS, |from, out| {
            let (w, bias) = part(w, bias, from, out, k);
            rounded_rows(&x, w, bias, out, k);
        });
    });
}

fn rounded_rows(x: &[rounded::Row<'_>], w: KeptRef<'_>, bias: Option<&[f32]>, out: &mut [&mut [f32]], k: usize) {
    use crate::product::blocks::{K, Q4, Q5, Q6K, Q8_0};
    let KeptRef { format, bytes: w } = w;
    match format {
        Format::Q8_0 => dispatch(Integers { blocks: PhantomData::<Q8_0>, x, w, k, bias, out }),
        Format::Q4_0 => dispatch(Integers { blocks: PhantomData::<Q4<false>>, x, w, k, bias, out }),
        Format::Q4_1 => dispatch(Integers { blocks: PhantomData::<Q4<true>>, x, w, k, bias, out }),
        Format::Q5_0 => dispatch(Integers { blocks: PhantomData::<Q5<false>>, x, w, k, bias, out }),
        Format::Q5_1 => dispatch(Integers { blocks: PhantomData::<Q5<true>>, x, w, k, bias, out }),
        Format::Q4K => dispatch(Integers { blocks: PhantomData::<K<false>>, x, w, k, bias, out }),
        Format::Q5K => dispatch(Integers { blocks: PhantomData::<K<true>>, x, w, k, bias, out }),
        Format::Q6K => dispatch(Integers { blocks: PhantomData::<Q6K>, x, w, k, bias, out }),
        Format::F32 | Format::Bf16 | Format::F16 => unreachable!("a format without blocks"),
    }
}

/// `grad_x = grad_out . w`: the gradient of [`linear_kept`] with respect to `x`, with `grad_out` `[m, n]`, `w` `[n, k]`
/// and `grad_x` `[m, k]`. The weights are unpacked to `f32`, and `grad_out` is not rounded. The result is that of
/// [`grad_input`](crate::linear::grad_input) with the unpacked weights, to the bit.
///
/// # Panics
/// If the length of a slice does not match the shapes above, or `k` is not a multiple of the format's block.
pub fn grad_input_kept(grad_out: &[f32], w: KeptRef<'_>, grad_x: &mut [f32], m: usize, k: usize, n: usize) {
    check(w, k, n);
    product::gradient("grad_input_kept", grad_out, w, grad_x, (m, k, n));
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
