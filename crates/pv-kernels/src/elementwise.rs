//! Element-wise kernels.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::{PARALLEL_ELEMENTS, rows_per_task, simd};

struct AddInPlace<'a> {
    a: &'a mut [f32],
    b: &'a [f32],
}

impl WithSimd for AddInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (a, a_tail) = S::as_mut_simd_f32s(self.a);
        let (b, b_tail) = S::as_simd_f32s(self.b);
        for (a, &b) in a.iter_mut().zip(b) {
            *a = s.add_f32s(*a, b);
        }
        for (a, &b) in a_tail.iter_mut().zip(b_tail) {
            *a += b;
        }
    }
}

/// `a += b`, both of one length.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
pub fn add_in_place(a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "add_in_place: lengths differ");
    if a.len() < PARALLEL_ELEMENTS || rayon::current_num_threads() == 1 {
        return simd::dispatch(AddInPlace { a, b });
    }
    let chunk = a.len().div_ceil(rayon::current_num_threads() * 4).max(8 * 1024);
    a.par_chunks_mut(chunk).zip(b.par_chunks(chunk)).for_each(|(a, b)| simd::dispatch(AddInPlace { a, b }));
}

/// `silu(gate) * up`.
#[inline(always)]
fn gated<S: Simd>(s: S, gate: S::f32s, up: S::f32s) -> S::f32s {
    let e = simd::exp(s, s.neg_f32s(gate));
    s.mul_f32s(s.div_f32s(gate, s.add_f32s(s.splat_f32s(1.0), e)), up)
}

struct SwiGlu<'a> {
    gate_up: &'a [f32],
    out: &'a mut [f32],
    f: usize,
}

impl WithSimd for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for (row, out) in self.gate_up.chunks_exact(2 * self.f).zip(self.out.chunks_exact_mut(self.f)) {
            let (gate, up) = row.split_at(self.f);
            let (g, g_tail) = S::as_simd_f32s(gate);
            let (u, u_tail) = S::as_simd_f32s(up);
            let (o, o_tail) = S::as_mut_simd_f32s(out);
            for ((o, &g), &u) in o.iter_mut().zip(g).zip(u) {
                *o = gated(s, g, u);
            }
            if !o_tail.is_empty() {
                let v = gated(s, s.partial_load_f32s(g_tail), s.partial_load_f32s(u_tail));
                s.partial_store_f32s(o_tail, v);
            }
        }
    }
}

/// `out[i, j] = silu(gate_up[i, j]) * gate_up[i, f + j]`.
///
/// `gate_up` is `[m, 2 f]` (the gate in columns `0..f`), `out` is `[m, f]`.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
pub fn swiglu(gate_up: &[f32], out: &mut [f32], m: usize, f: usize) {
    assert_eq!(gate_up.len(), m * 2 * f, "swiglu: gate_up is not [m, 2 f]");
    assert_eq!(out.len(), m * f, "swiglu: out is not [m, f]");
    if out.is_empty() {
        return;
    }
    match rows_per_task(m, f) {
        None => simd::dispatch(SwiGlu { gate_up, out, f }),
        Some(rows) => gate_up
            .par_chunks(rows * 2 * f)
            .zip(out.par_chunks_mut(rows * f))
            .for_each(|(gate_up, out)| simd::dispatch(SwiGlu { gate_up, out, f })),
    }
}
