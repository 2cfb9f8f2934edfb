//! The gradient of root-mean-square normalisation.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{ROWS, total};
use crate::norm::inverse_rms;
use crate::simd;

/// Where in each row of a `[m, stride]` buffer the normalised vectors are: one after another from `offset` on.
#[derive(Clone, Copy, Debug)]
pub struct Vectors {
    /// Elements of a row of the buffer.
    pub stride: usize,
    /// The first vector's first column.
    pub offset: usize,
    /// Vectors in each row.
    pub count: usize,
}

struct NormGradient<'a> {
    vectors: Vectors,
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    upstream: &'a [f32],
    out: &'a mut [f32],
    /// Added to.
    weight_out: &'a mut [f32],
}

impl WithSimd for NormGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let d = self.weight.len();
        let Vectors { stride, offset, count } = self.vectors;
        let here = offset..offset + count * d;
        let rows = self.x.chunks_exact(stride).zip(self.upstream.chunks_exact(stride));
        for ((x, upstream), out) in rows.zip(self.out.chunks_exact_mut(stride)) {
            let vectors = x[here.clone()].chunks_exact(d).zip(upstream[here.clone()].chunks_exact(d));
            for ((x, upstream), out) in vectors.zip(out[here.clone()].chunks_exact_mut(d)) {
                vector(s, x, self.weight, self.eps, upstream, out, self.weight_out);
            }
        }
    }
}

/// With `r = 1 / rms(x)` and `g = upstream * weight`: `out = r g - r³ mean(g x) x`, `weight_out += upstream * x * r`.
#[inline(always)]
fn vector<S: Simd>(
    s: S,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    upstream: &[f32],
    out: &mut [f32],
    weight_out: &mut [f32],
) {
    let inverse = inverse_rms(s, x, eps);
    let (x_body, x_tail) = S::as_simd_f32s(x);
    let (w_body, w_tail) = S::as_simd_f32s(weight);
    let (y_body, y_tail) = S::as_simd_f32s(upstream);
    let (o_body, o_tail) = S::as_mut_simd_f32s(out);
    let (wo_body, wo_tail) = S::as_mut_simd_f32s(weight_out);
    let mut sum = s.splat_f32s(0.0);
    for ((&x, &w), &y) in x_body.iter().zip(w_body).zip(y_body) {
        sum = s.mul_add_e_f32s(s.mul_f32s(y, w), x, sum);
    }
    let mut mean = s.reduce_sum_f32s(sum);
    for ((&x, &w), &y) in x_tail.iter().zip(w_tail).zip(y_tail) {
        mean += y * w * x;
    }
    let back = mean / x.len() as f32 * inverse * inverse * inverse;
    let (inverses, backs) = (s.splat_f32s(inverse), s.splat_f32s(back));
    let inputs = x_body.iter().zip(w_body).zip(y_body);
    for ((o, wo), ((&x, &w), &y)) in o_body.iter_mut().zip(wo_body).zip(inputs) {
        let y = s.mul_f32s(y, inverses);
        *o = s.sub_f32s(s.mul_f32s(y, w), s.mul_f32s(backs, x));
        *wo = s.mul_add_e_f32s(y, x, *wo);
    }
    let inputs = x_tail.iter().zip(w_tail).zip(y_tail);
    for ((o, wo), ((&x, &w), &y)) in o_tail.iter_mut().zip(wo_tail).zip(inputs) {
        *o = y * inverse * w - back * x;
        *wo += y * inverse * x;
    }
}

/// The gradient of an rms norm of each of the `vectors`: `x`, `upstream` and `out` are `[m, stride]`, `weight` and
/// `weight_out` are `[d]`. What lies between the vectors stays as it is in `out`.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
pub fn rms_norm_gradient(
    vectors: Vectors,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    upstream: &[f32],
    out: &mut [f32],
    weight_out: &mut [f32],
) {
    let Vectors { stride, offset, count } = vectors;
    let d = weight.len();
    assert!(d > 0 && offset + count * d <= stride, "rms_norm_gradient: vectors exceed the row");
    assert!(x.len().is_multiple_of(stride), "rms_norm_gradient: x is not [m, stride]");
    assert!(x.len() == upstream.len() && x.len() == out.len(), "rms_norm_gradient: not all [m, stride]");
    assert_eq!(weight_out.len(), d, "rms_norm_gradient: weight_out is not [d]");
    let part = |((x, upstream), out): ((&[f32], &[f32]), &mut [f32])| {
        let mut weight_out = vec![0.0; d];
        simd::dispatch(NormGradient { vectors, x, weight, eps, upstream, out, weight_out: &mut weight_out });
        weight_out
    };
    let size = ROWS * stride;
    let parts = x.par_chunks(size).zip(upstream.par_chunks(size)).zip(out.par_chunks_mut(size)).map(part);
    total(parts.collect(), weight_out);
}
