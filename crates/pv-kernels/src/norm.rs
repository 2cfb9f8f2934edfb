//! Root-mean-square normalisation.

use rayon::prelude::*;

use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};
use crate::{lanes, rows_per_task};

/// `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
pub(super) fn inverse_rms<V: Vector>(v: V, x: &[f32], eps: f32) -> f32 {
    1.0 / (lanes::dot(v, x, x) / x.len() as f32 + eps).sqrt()
}

/// `x * factor * weight` element by element, in the order in which Hugging Face multiplies them.
#[inline(always)]
fn weigh<V: Vector>(v: V, x: &[f32], factor: f32, weight: &[f32], out: &mut [f32]) {
    let factor = v.splat(factor);
    lanes::map(
        v,
        [x, weight],
        out,
        #[inline(always)]
        |[x, w]| v.mul(v.mul(x, factor), w),
    );
}

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Op for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let d = self.weight.len();
        for (x, out) in self.x.chunks_exact(d).zip(self.out.chunks_exact_mut(d)) {
            weigh(v, x, inverse_rms(v, x, self.eps), self.weight, out);
        }
    }
}

/// `out[i] = x[i] / sqrt(mean(x[i]²) + eps) * weight` for each row `i`.
///
/// `x` and `out` are `[m, d]`, `weight` is `[d]`.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let d = weight.len();
    assert!(d > 0 && x.len().is_multiple_of(d), "rms_norm: x is not [m, d]");
    assert_eq!(x.len(), out.len(), "rms_norm: out is not [m, d]");
    match rows_per_task(x.len() / d, d) {
        None => dispatch(Norm { x, weight, eps, out }),
        Some(rows) => x
            .par_chunks(rows * d)
            .zip(out.par_chunks_mut(rows * d))
            .for_each(|(x, out)| dispatch(Norm { x, weight, eps, out })),
    }
}

struct AddNorm<'a> {
    residual: &'a mut [f32],
    delta: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Op for AddNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let d = self.weight.len();
        let rows = self.residual.chunks_exact_mut(d).zip(self.delta.chunks_exact(d));
        for ((residual, delta), out) in rows.zip(self.out.chunks_exact_mut(d)) {
            lanes::update(
                v,
                residual,
                [delta],
                #[inline(always)]
                |r, [d]| v.add(r, d),
            );
            weigh(v, residual, inverse_rms(v, residual, self.eps), self.weight, out);
        }
    }
}

/// `residual += delta`, then `out = rms_norm(residual)`, in one pass over the rows.
///
/// `residual`, `delta` and `out` are `[m, d]`, `weight` is `[d]`.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn add_rms_norm(residual: &mut [f32], delta: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let d = weight.len();
    assert!(d > 0 && residual.len().is_multiple_of(d), "add_rms_norm: residual is not [m, d]");
    assert_eq!(residual.len(), delta.len(), "add_rms_norm: delta is not [m, d]");
    assert_eq!(residual.len(), out.len(), "add_rms_norm: out is not [m, d]");
    match rows_per_task(out.len() / d, d) {
        None => dispatch(AddNorm { residual, delta, weight, eps, out }),
        Some(rows) => residual
            .par_chunks_mut(rows * d)
            .zip(delta.par_chunks(rows * d))
            .zip(out.par_chunks_mut(rows * d))
            .for_each(|((residual, delta), out)| {
                dispatch(AddNorm { residual, delta, weight, eps, out });
            }),
    }
}

struct NormHeads<'a> {
    heads: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Op for NormHeads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for x in self.heads.chunks_exact_mut(self.weight.len()) {
            let factor = v.splat(inverse_rms(v, x, self.eps));
            lanes::update(
                v,
                x,
                [self.weight],
                #[inline(always)]
                |x, [w]| v.mul(v.mul(x, factor), w),
            );
        }
    }
}

/// Normalises `heads` consecutive vectors of `d = weight.len()` elements in each row, in place.
///
/// `buffer` is `[m, stride]`; the vectors of a row are at columns `offset..offset + heads * d`.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
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
            dispatch(NormHeads { heads, weight, eps });
        }
    };
    match rows_per_task(buffer.len() / stride, heads * d) {
        None => rows_of(buffer),
        Some(rows) => buffer.par_chunks_mut(rows * stride).for_each(rows_of),
    }
}
