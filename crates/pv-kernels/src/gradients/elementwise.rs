//! Gradients of the element-wise kernels.

use rayon::prelude::*;

use super::{ROWS, total};
use crate::elementwise::{ALPHA, LIMIT, clamp};
use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};
use crate::{lanes, rows_per_task};

/// The gradients of `silu(gate) * up` with respect to both, times `upstream`.
#[inline(always)]
fn gated_gradient<V: Vector>(v: V, gate: V::Floats, up: V::Floats, upstream: V::Floats) -> [V::Floats; 2] {
    let one = v.splat(1.0);
    let sigmoid = v.div(one, v.add(one, lanes::exp(v, v.sub(v.zero(), gate))));
    let silu = v.mul(gate, sigmoid);
    // silu' = sigmoid + silu (1 - sigmoid)
    let slope = v.mul_add(silu, v.sub(one, sigmoid), sigmoid);
    [v.mul(v.mul(upstream, up), slope), v.mul(upstream, silu)]
}

/// 1 for values up to the limit, and 0 beyond it.
#[inline(always)]
fn within<V: Vector>(v: V, value: V::Floats) -> V::Floats {
    // The next number after the limit, so that the limit is within; every other difference is far from 0 with this factor.
    let rest = v.mul(v.sub(v.splat(LIMIT.next_up()), value), v.splat(1e30));
    v.min(v.splat(1.0), v.max(v.zero(), rest))
}

/// Like [`gated_gradient`], for the clamped form.
#[inline(always)]
fn clamped_gated_gradient<V: Vector>(v: V, gate: V::Floats, up: V::Floats, upstream: V::Floats) -> [V::Floats; 2] {
    let (one, alpha) = (v.splat(1.0), v.splat(ALPHA));
    let [bounded, bounded_up] = clamp(v, gate, up);
    let sigmoid = v.div(one, v.add(one, lanes::exp(v, v.mul(bounded, v.splat(-ALPHA)))));
    let silu = v.mul(bounded, sigmoid);
    // (gate sigmoid)' = sigmoid + ALPHA gate sigmoid (1 - sigmoid)
    let slope = v.mul_add(v.mul(alpha, silu), v.sub(one, sigmoid), sigmoid);
    let of_gate = v.mul(v.mul(v.mul(upstream, v.add(bounded_up, one)), slope), within(v, gate));
    let both = v.mul(within(v, up), within(v, v.sub(v.zero(), up)));
    [of_gate, v.mul(v.mul(upstream, silu), both)]
}

struct SwiGluGradient<'a, const CLAMPED: bool> {
    gate_up: &'a [f32],
    upstream: &'a [f32],
    out: &'a mut [f32],
    f: usize,
}

impl<const CLAMPED: bool> Op for SwiGluGradient<'_, CLAMPED> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let f = self.f;
        let rows = self.gate_up.chunks_exact(2 * f).zip(self.upstream.chunks_exact(f));
        for ((row, upstream), out) in rows.zip(self.out.chunks_exact_mut(2 * f)) {
            let (gate, up) = row.split_at(f);
            let (out_gate, out_up) = out.split_at_mut(f);
            lanes::update_two(
                v,
                [out_gate, out_up],
                [gate, up, upstream],
                #[inline(always)]
                |_, [gate, up, upstream]| match CLAMPED {
                    true => clamped_gated_gradient(v, gate, up, upstream),
                    false => gated_gradient(v, gate, up, upstream),
                },
            );
        }
    }
}

/// The gradient of [`swiglu`](crate::elementwise::swiglu): `gate_up` and `out` are `[m, 2 f]`, `upstream` is `[m, f]`.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn swiglu_gradient(gate_up: &[f32], upstream: &[f32], out: &mut [f32], f: usize) {
    gradient::<false>(gate_up, upstream, out, f);
}

/// The gradient of [`clamped_swiglu`](crate::elementwise::clamped_swiglu), with the shapes of [`swiglu_gradient`].
///
/// # Panics
/// If the length of a slice does not match the shapes.
pub fn clamped_swiglu_gradient(gate_up: &[f32], upstream: &[f32], out: &mut [f32], f: usize) {
    gradient::<true>(gate_up, upstream, out, f);
}

fn gradient<const CLAMPED: bool>(gate_up: &[f32], upstream: &[f32], out: &mut [f32], f: usize) {
    assert_eq!(gate_up.len(), out.len(), "swiglu_gradient: out is not [m, 2 f]");
    assert_eq!(gate_up.len(), 2 * upstream.len(), "swiglu_gradient: upstream is not [m, f]");
    if out.is_empty() {
        return;
    }
    match rows_per_task(upstream.len() / f, f) {
        None => dispatch(SwiGluGradient::<CLAMPED> { gate_up, upstream, out, f }),
        Some(rows) => gate_up
            .par_chunks(rows * 2 * f)
            .zip(upstream.par_chunks(rows * f))
            .zip(out.par_chunks_mut(rows * 2 * f))
            .for_each(|((gate_up, upstream), out)| dispatch(SwiGluGradient::<CLAMPED> { gate_up, upstream, out, f })),
    }
}

struct ColumnSums<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Op for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for row in self.x.chunks_exact(self.out.len()) {
            lanes::update(
                v,
                self.out,
                [row],
                #[inline(always)]
                |out, [x]| v.add(out, x),
            );
        }
    }
}

/// `out[j]` is the sum of column `j` of `x`, `[m, out.len()]`: the gradient of a bias.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn column_sums(x: &[f32], out: &mut [f32]) {
    let n = out.len();
    assert!(n > 0 && x.len().is_multiple_of(n), "column_sums: x is not [m, n]");
    let part = |x: &[f32]| {
        let mut out = vec![0.0; n];
        dispatch(ColumnSums { x, out: &mut out });
        out
    };
    total(x.par_chunks(ROWS * n).map(part).collect(), out);
}
