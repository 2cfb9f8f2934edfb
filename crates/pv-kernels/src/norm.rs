//! Root-mean-square normalisation.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::{rows_per_task, simd};

/// `1 / sqrt(mean(x²) + eps)`, summed in two accumulators to hide the latency of the additions.
#[inline(always)]
pub(super) fn inverse_rms<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    let (body, tail) = S::as_simd_f32s(x);
    let (pairs, odd) = body.as_chunks::<2>();
    let mut sums = [s.splat_f32s(0.0); 2];
    for &[a, b] in pairs {
        sums[0] = s.mul_add_e_f32s(a, a, sums[0]);
        sums[1] = s.mul_add_e_f32s(b, b, sums[1]);
    }
    for &a in odd {
        sums[0] = s.mul_add_e_f32s(a, a, sums[0]);
    }
    let mut total = s.reduce_sum_f32s(s.add_f32s(sums[0], sums[1]));
    for &v in tail {
        total += v * v;
    }
    1.0 / (total / x.len() as f32 + eps).sqrt()
}

/// `x * factor * weight` element by element, in the order Hugging Face multiplies them.
#[inline(always)]
fn weigh<S: Simd>(s: S, x: &[f32], factor: f32, weight: &[f32], out: &mut [f32]) {
    let factors = s.splat_f32s(factor);
    let (x, x_tail) = S::as_simd_f32s(x);
    let (w, w_tail) = S::as_simd_f32s(weight);
    let (o, o_tail) = S::as_mut_simd_f32s(out);
    for ((o, &x), &w) in o.iter_mut().zip(x).zip(w) {
        *o = s.mul_f32s(s.mul_f32s(x, factors), w);
    }
    for ((o, &x), &w) in o_tail.iter_mut().zip(x_tail).zip(w_tail) {
        *o = x * factor * w;
    }
}

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl WithSimd for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let d = self.weight.len();
        for (x, out) in self.x.chunks_exact(d).zip(self.out.chunks_exact_mut(d)) {
            weigh(s, x, inverse_rms(s, x, self.eps), self.weight, out);
        }
    }
}

/// `out[i] = x[i] / sqrt(mean(x[i]²) + eps) * weight` for each row `i`.
///
/// `x` and `out` are `[m, d]`, `weight` is `[d]`.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let d = weight.len();
    assert!(d > 0 && x.len().is_multiple_of(d), "rms_norm: x is not [m, d]");
    assert_eq!(x.len(), out.len(), "rms_norm: out is not [m, d]");
    match rows_per_task(x.len() / d, d) {
        None => simd::dispatch(Norm { x, weight, eps, out }),
        Some(rows) => x
            .par_chunks(rows * d)
            .zip(out.par_chunks_mut(rows * d))
            .for_each(|(x, out)| simd::dispatch(Norm { x, weight, eps, out })),
    }
}

struct AddNorm<'a> {
    residual: &'a mut [f32],
    delta: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl WithSimd for AddNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let d = self.weight.len();
        let rows = self.residual.chunks_exact_mut(d).zip(self.delta.chunks_exact(d));
        for ((residual, delta), out) in rows.zip(self.out.chunks_exact_mut(d)) {
            let (r, r_tail) = S::as_mut_simd_f32s(residual);
            let (b, b_tail) = S::as_simd_f32s(delta);
            for (r, &b) in r.iter_mut().zip(b) {
                *r = s.add_f32s(*r, b);
            }
            for (r, &b) in r_tail.iter_mut().zip(b_tail) {
                *r += b;
            }
            weigh(s, residual, inverse_rms(s, residual, self.eps), self.weight, out);
        }
    }
}

/// `residual += delta`, then `out = rms_norm(residual)`, in one pass over the rows.
///
/// `residual`, `delta` and `out` are `[m, d]`, `weight` is `[d]`.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
pub fn add_rms_norm(residual: &mut [f32], delta: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let d = weight.len();
    assert!(d > 0 && residual.len().is_multiple_of(d), "add_rms_norm: residual is not [m, d]");
    assert_eq!(residual.len(), delta.len(), "add_rms_norm: delta is not [m, d]");
    assert_eq!(residual.len(), out.len(), "add_rms_norm: out is not [m, d]");
    match rows_per_task(out.len() / d, d) {
        None => simd::dispatch(AddNorm { residual, delta, weight, eps, out }),
        Some(rows) => residual
            .par_chunks_mut(rows * d)
            .zip(delta.par_chunks(rows * d))
            .zip(out.par_chunks_mut(rows * d))
            .for_each(|((residual, delta), out)| {
                simd::dispatch(AddNorm { residual, delta, weight, eps, out });
            }),
    }
}

struct NormHeads<'a> {
    heads: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl WithSimd for NormHeads<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for x in self.heads.chunks_exact_mut(self.weight.len()) {
            let factors = s.splat_f32s(inverse_rms(s, x, self.eps));
            let (x, x_tail) = S::as_mut_simd_f32s(x);
            let (w, w_tail) = S::as_simd_f32s(self.weight);
            for (x, &w) in x.iter_mut().zip(w) {
                *x = s.mul_f32s(s.mul_f32s(*x, factors), w);
            }
            if !x_tail.is_empty() {
                let x = s.mul_f32s(s.partial_load_f32s(x_tail), factors);
                s.partial_store_f32s(x_tail, s.mul_f32s(x, s.partial_load_f32s(w_tail)));
            }
        }
    }
}

/// Normalises `heads` consecutive vectors of `d = weight.len()` elements in each row, in place.
///
/// `buffer` is `[m, stride]`; the vectors of a row are at columns `offset..offset + heads * d`.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
pub fn rms_norm_heads_in_place(
    buffer: &mut [f32],
    stride: usize,
    offset: usize,
    heads: usize,
    weight: &[f32],
    eps: f32,
) {
    let d = weight.len();
    assert!(stride > 0 && buffer.len().is_multiple_of(stride), "rms_norm_heads: not [m, stride]");
    assert!(d > 0 && offset + heads * d <= stride, "rms_norm_heads: heads exceed the row");
    let rows_of = |rows: &mut [f32]| {
        for row in rows.chunks_exact_mut(stride) {
            let heads = &mut row[offset..offset + heads * d];
            simd::dispatch(NormHeads { heads, weight, eps });
        }
    };
    match rows_per_task(buffer.len() / stride, heads * d) {
        None => rows_of(buffer),
        Some(rows) => buffer.par_chunks_mut(rows * stride).for_each(rows_of),
    }
}
