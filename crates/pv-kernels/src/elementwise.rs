//! Element-wise kernels.

use rayon::prelude::*;

use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};
use crate::{PARALLEL_ELEMENTS, lanes, rows_per_task};

struct AddInPlace<'a> {
    a: &'a mut [f32],
    b: &'a [f32],
}

impl Op for AddInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        lanes::update(
            v,
            self.a,
            [self.b],
            #[inline(always)]
            |a, [b]| v.add(a, b),
        );
    }
}

/// `a += b`, for slices of equal length.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn add_in_place(a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "add_in_place: lengths differ");
    if a.len() < PARALLEL_ELEMENTS || rayon::current_num_threads() == 1 {
        return dispatch(AddInPlace { a, b });
    }
    let chunk = a.len().div_ceil(rayon::current_num_threads() * 4).max(8 * 1024);
    a.par_chunks_mut(chunk).zip(b.par_chunks(chunk)).for_each(|(a, b)| dispatch(AddInPlace { a, b }));
}

/// `silu(gate) * up`.
#[inline(always)]
fn gated<V: Vector>(v: V, gate: V::Floats, up: V::Floats) -> V::Floats {
    let e = lanes::exp(v, v.sub(v.zero(), gate));
    v.mul(v.div(gate, v.add(v.splat(1.0), e)), up)
}

struct SwiGlu<'a> {
    gate_up: &'a [f32],
    out: &'a mut [f32],
    f: usize,
}

impl Op for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for (row, out) in self.gate_up.chunks_exact(2 * self.f).zip(self.out.chunks_exact_mut(self.f)) {
            let (gate, up) = row.split_at(self.f);
            lanes::map(
                v,
                [gate, up],
                out,
                #[inline(always)]
                |[gate, up]| gated(v, gate, up),
            );
        }
    }
}

/// `out[i, j] = silu(gate_up[i, j]) * gate_up[i, f + j]`.
///
/// `gate_up` is `[m, 2 f]` (the gate in columns `0..f`), `out` is `[m, f]`.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn swiglu(gate_up: &[f32], out: &mut [f32], m: usize, f: usize) {
    assert_eq!(gate_up.len(), m * 2 * f, "swiglu: gate_up is not [m, 2 f]");
    assert_eq!(out.len(), m * f, "swiglu: out is not [m, f]");
    if out.is_empty() {
        return;
    }
    match rows_per_task(m, f) {
        None => dispatch(SwiGlu { gate_up, out, f }),
        Some(rows) => gate_up
            .par_chunks(rows * 2 * f)
            .zip(out.par_chunks_mut(rows * f))
            .for_each(|(gate_up, out)| dispatch(SwiGlu { gate_up, out, f })),
    }
}
