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

/// The bound of the gate, and of the magnitude of up, in [`clamped_swiglu`].
pub const LIMIT: f32 = 7.0;
/// The factor of the gate in the sigmoid of [`clamped_swiglu`].
pub const ALPHA: f32 = 1.702;

/// The gate at most [`LIMIT`], and up within it. What is no number stays so.
#[inline(always)]
pub(crate) fn clamp<V: Vector>(v: V, gate: V::Floats, up: V::Floats) -> [V::Floats; 2] {
    let (most, least) = (v.splat(LIMIT), v.splat(-LIMIT));
    [v.min(most, gate), v.max(least, v.min(most, up))]
}

/// `(up + 1) * gate * sigmoid(ALPHA * gate)`, clamped.
#[inline(always)]
fn clamped_gated<V: Vector>(v: V, gate: V::Floats, up: V::Floats) -> V::Floats {
    let [gate, up] = clamp(v, gate, up);
    let one = v.splat(1.0);
    let e = lanes::exp(v, v.mul(gate, v.splat(-ALPHA)));
    v.mul(v.div(gate, v.add(one, e)), v.add(up, one))
}

struct SwiGlu<'a, const CLAMPED: bool> {
    gate_up: &'a [f32],
    out: &'a mut [f32],
    f: usize,
}

impl<const CLAMPED: bool> Op for SwiGlu<'_, CLAMPED> {
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
                |[gate, up]| if CLAMPED { clamped_gated(v, gate, up) } else { gated(v, gate, up) },
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
    rows::<false>(gate_up, out, m, f);
}

/// Like [`swiglu()`], of `(up + 1) * gate * sigmoid(1.702 gate)`, with the gate at most 7 and up from -7 to 7 (gpt-oss).
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn clamped_swiglu(gate_up: &[f32], out: &mut [f32], m: usize, f: usize) {
    rows::<true>(gate_up, out, m, f);
}

fn rows<const CLAMPED: bool>(gate_up: &[f32], out: &mut [f32], m: usize, f: usize) {
    assert_eq!(gate_up.len(), m * 2 * f, "swiglu: gate_up is not [m, 2 f]");
    assert_eq!(out.len(), m * f, "swiglu: out is not [m, f]");
    if out.is_empty() {
        return;
    }
    match rows_per_task(m, f) {
        None => dispatch(SwiGlu::<CLAMPED> { gate_up, out, f }),
        Some(rows) => gate_up
            .par_chunks(rows * 2 * f)
            .zip(out.par_chunks_mut(rows * f))
            .for_each(|(gate_up, out)| dispatch(SwiGlu::<CLAMPED> { gate_up, out, f })),
    }
}
