//! The gradient of root-mean-square normalisation.

use rayon::prelude::*;

use super::{ROWS, total};
use crate::lanes;
use crate::norm::inverse_rms;
use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};

/// The positions of the normalised vectors in each row of a `[m, stride]` buffer: consecutive, from `offset` on.
#[derive(Clone, Copy, Debug)]
pub struct Vectors {
    /// Elements of a row of the buffer.
    pub stride: usize,
    /// The first column of the first vector.
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
    /// Accumulated, not overwritten.
    weight_out: &'a mut [f32],
}

impl Op for NormGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let d = self.weight.len();
        let Vectors { stride, offset, count } = self.vectors;
        let here = offset..offset + count * d;
        let rows = self.x.chunks_exact(stride).zip(self.upstream.chunks_exact(stride));
        for ((x, upstream), out) in rows.zip(self.out.chunks_exact_mut(stride)) {
            let vectors = x[here.clone()].chunks_exact(d).zip(upstream[here.clone()].chunks_exact(d));
            for ((x, upstream), out) in vectors.zip(out[here.clone()].chunks_exact_mut(d)) {
                vector(v, x, self.weight, self.eps, upstream, out, self.weight_out);
            }
        }
    }
}

/// With `r = 1 / rms(x)` and `g = upstream * weight`: `out = r g - r³ mean(g x) x`, `weight_out += upstream * x * r`.
#[inline(always)]
fn vector<V: Vector>(
    v: V,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    upstream: &[f32],
    out: &mut [f32],
    weight_out: &mut [f32],
) {
    let inverse = inverse_rms(v, x, eps);
    let mean = lanes::sum(
        v,
        [x, weight, upstream],
        #[inline(always)]
        |sum, [x, w, y]| v.mul_add(v.mul(y, w), x, sum),
    );
    let back = mean / x.len() as f32 * inverse * inverse * inverse;
    let (inverse, back) = (v.splat(inverse), v.splat(back));
    lanes::update_two(
        v,
        [out, weight_out],
        [x, weight, upstream],
        #[inline(always)]
        |[_, weight_out], [x, w, y]| {
            let y = v.mul(y, inverse);
            [v.sub(v.mul(y, w), v.mul(back, x)), v.mul_add(y, x, weight_out)]
        },
    );
}

/// The gradient of an RMS norm of each of the `vectors`: `x`, `upstream` and `out` are `[m, stride]`, `weight` and
/// `weight_out` are `[d]`. Elements of `out` outside the vectors are unchanged.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
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
        dispatch(NormGradient { vectors, x, weight, eps, upstream, out, weight_out: &mut weight_out });
        weight_out
    };
    let size = ROWS * stride;
    let parts = x.par_chunks(size).zip(upstream.par_chunks(size)).zip(out.par_chunks_mut(size)).map(part);
    total(parts.collect(), weight_out);
}
