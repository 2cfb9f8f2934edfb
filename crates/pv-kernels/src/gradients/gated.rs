//! The gradient of [`gated`](crate::gated::gated).

use std::marker::PhantomData;

use rayon::prelude::*;

use crate::gated::{Activation, ClampedSwiGlu, Gate, GeluTanh, Silu};
use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};
use crate::{lanes, rows_per_task};

struct Gradient<'a, G> {
    gate: PhantomData<G>,
    gate_up: &'a [f32],
    upstream: &'a [f32],
    out: &'a mut [f32],
    f: usize,
}

impl<G: Gate> Op for Gradient<'_, G> {
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
                |_, [gate, up, upstream]| G::gradient(v, gate, up, upstream),
            );
        }
    }
}

/// The gradient of [`gated`](crate::gated::gated) with respect to `gate_up`: `gate_up` and `out` are `[m, 2 f]`, `upstream`
/// is `[m, f]`.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn gated_gradient(activation: Activation, gate_up: &[f32], upstream: &[f32], out: &mut [f32], f: usize) {
    match activation {
        Activation::Silu => rows(PhantomData::<Silu>, gate_up, upstream, out, f),
        Activation::GeluTanh => rows(PhantomData::<GeluTanh>, gate_up, upstream, out, f),
        Activation::ClampedSwiGlu => rows(PhantomData::<ClampedSwiGlu>, gate_up, upstream, out, f),
    }
}

fn rows<G: Gate>(gate: PhantomData<G>, gate_up: &[f32], upstream: &[f32], out: &mut [f32], f: usize) {
    assert_eq!(gate_up.len(), out.len(), "gated_gradient: out is not [m, 2 f]");
    assert_eq!(gate_up.len(), 2 * upstream.len(), "gated_gradient: upstream is not [m, f]");
    if out.is_empty() {
        return;
    }
    match rows_per_task(upstream.len() / f, f) {
        None => dispatch(Gradient { gate, gate_up, upstream, out, f }),
        Some(rows) => gate_up
            .par_chunks(rows * 2 * f)
            .zip(upstream.par_chunks(rows * f))
            .zip(out.par_chunks_mut(rows * 2 * f))
            .for_each(|((gate_up, upstream), out)| dispatch(Gradient { gate, gate_up, upstream, out, f })),
    }
}
