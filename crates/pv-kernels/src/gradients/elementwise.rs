//! Gradients of the element-wise kernels.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{ROWS, total};
use crate::{rows_per_task, simd};

/// The gradients of `silu(gate) * up` with respect to both, times `upstream`.
#[inline(always)]
fn gated_gradient<S: Simd>(s: S, gate: S::f32s, up: S::f32s, upstream: S::f32s) -> (S::f32s, S::f32s) {
    let one = s.splat_f32s(1.0);
    let sigmoid = s.div_f32s(one, s.add_f32s(one, simd::exp(s, s.neg_f32s(gate))));
    let silu = s.mul_f32s(gate, sigmoid);
    // silu' = sigmoid + silu (1 - sigmoid)
    let slope = s.mul_add_e_f32s(silu, s.sub_f32s(one, sigmoid), sigmoid);
    (s.mul_f32s(s.mul_f32s(upstream, up), slope), s.mul_f32s(upstream, silu))
}

struct SwiGluGradient<'a> {
    gate_up: &'a [f32],
    upstream: &'a [f32],
    out: &'a mut [f32],
    f: usize,
}

impl WithSimd for SwiGluGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let f = self.f;
        let rows = self.gate_up.chunks_exact(2 * f).zip(self.upstream.chunks_exact(f));
        for ((row, upstream), out) in rows.zip(self.out.chunks_exact_mut(2 * f)) {
            let (gate, up) = row.split_at(f);
            let (out_gate, out_up) = out.split_at_mut(f);
            let (g, g_tail) = S::as_simd_f32s(gate);
            let (u, u_tail) = S::as_simd_f32s(up);
            let (y, y_tail) = S::as_simd_f32s(upstream);
            let (og, og_tail) = S::as_mut_simd_f32s(out_gate);
            let (ou, ou_tail) = S::as_mut_simd_f32s(out_up);
            for (((og, ou), &y), (&g, &u)) in og.iter_mut().zip(ou).zip(y).zip(g.iter().zip(u)) {
                (*og, *ou) = gated_gradient(s, g, u, y);
            }
            if !y_tail.is_empty() {
                let [g, u, y] = [g_tail, u_tail, y_tail].map(|tail| s.partial_load_f32s(tail));
                let (gate, up) = gated_gradient(s, g, u, y);
                s.partial_store_f32s(og_tail, gate);
                s.partial_store_f32s(ou_tail, up);
            }
        }
    }
}

/// The gradient of [`swiglu`](crate::swiglu): `gate_up` and `out` are `[m, 2 f]`, `upstream` is `[m, f]`.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
pub fn swiglu_gradient(gate_up: &[f32], upstream: &[f32], out: &mut [f32], f: usize) {
    assert_eq!(gate_up.len(), out.len(), "swiglu_gradient: out is not [m, 2 f]");
    assert_eq!(gate_up.len(), 2 * upstream.len(), "swiglu_gradient: upstream is not [m, f]");
    if out.is_empty() {
        return;
    }
    match rows_per_task(upstream.len() / f, f) {
        None => simd::dispatch(SwiGluGradient { gate_up, upstream, out, f }),
        Some(rows) => gate_up
            .par_chunks(rows * 2 * f)
            .zip(upstream.par_chunks(rows * f))
            .zip(out.par_chunks_mut(rows * 2 * f))
            .for_each(|((gate_up, upstream), out)| simd::dispatch(SwiGluGradient { gate_up, upstream, out, f })),
    }
}

struct ColumnSums<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (o, o_tail) = S::as_mut_simd_f32s(self.out);
        for row in self.x.chunks_exact(o.len() * S::F32_LANES + o_tail.len()) {
            let (x, x_tail) = S::as_simd_f32s(row);
            o.iter_mut().zip(x).for_each(|(o, &x)| *o = s.add_f32s(*o, x));
            o_tail.iter_mut().zip(x_tail).for_each(|(o, &x)| *o += x);
        }
    }
}

/// `out[j]` is the sum of column `j` of `x`, `[m, out.len()]`: the gradient of a bias.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
pub fn column_sums(x: &[f32], out: &mut [f32]) {
    let n = out.len();
    assert!(n > 0 && x.len().is_multiple_of(n), "column_sums: x is not [m, n]");
    let part = |x: &[f32]| {
        let mut out = vec![0.0; n];
        simd::dispatch(ColumnSums { x, out: &mut out });
        out
    };
    total(x.par_chunks(ROWS * n).map(part).collect(), out);
}
