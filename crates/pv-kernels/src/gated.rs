//! The product of an activated gate and up in the middle of an MLP.

use std::marker::PhantomData;

use rayon::prelude::*;

use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};
use crate::{lanes, rows_per_task};

/// What becomes of the gate and up of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `gate * sigmoid(gate) * up`.
    Silu,
    /// `gelu(gate) * up`, with GELU in its approximation by a hyperbolic tangent,
    /// `gate / 2 * (1 + tanh(sqrt(2 / pi) * (gate + 0.044715 gate^3)))`.
    GeluTanh,
    /// `(up + 1) * gate * sigmoid(ALPHA * gate)`, with the gate at most [`LIMIT`] and up from `-LIMIT` to `LIMIT`, see [`ALPHA`]
    /// (gpt-oss).
    ClampedSwiGlu,
}

/// The bound of the gate, and of the magnitude of up, in [`Activation::ClampedSwiGlu`].
pub const LIMIT: f32 = 7.0;
/// The factor of the gate in the sigmoid of [`Activation::ClampedSwiGlu`].
pub const ALPHA: f32 = 1.702;

/// An [`Activation`] on vectors.
pub(crate) trait Gate: Sync {
    /// The result.
    fn value<V: Vector>(v: V, gate: V::Floats, up: V::Floats) -> V::Floats;
    /// The gradients with respect to gate and up.
    fn gradient<V: Vector>(v: V, gate: V::Floats, up: V::Floats, upstream: V::Floats) -> [V::Floats; 2];
}

pub(crate) struct Silu;

impl Gate for Silu {
    #[inline(always)]
    fn value<V: Vector>(v: V, gate: V::Floats, up: V::Floats) -> V::Floats {
        let e = lanes::exp(v, v.sub(v.zero(), gate));
        v.mul(v.div(gate, v.add(v.splat(1.0), e)), up)
    }

    #[inline(always)]
    fn gradient<V: Vector>(v: V, gate: V::Floats, up: V::Floats, upstream: V::Floats) -> [V::Floats; 2] {
        let one = v.splat(1.0);
        let sigmoid = v.div(one, v.add(one, lanes::exp(v, v.sub(v.zero(), gate))));
        let silu = v.mul(gate, sigmoid);
        // silu' = sigmoid + silu (1 - sigmoid)
        let slope = v.mul_add(silu, v.sub(one, sigmoid), sigmoid);
        [v.mul(v.mul(upstream, up), slope), v.mul(upstream, silu)]
    }
}

pub(crate) struct GeluTanh;

const CUBIC: f32 = 0.044_715;
/// `2 sqrt(2 / pi)`.
const TWICE_ROOT: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;

impl GeluTanh {
    /// `(1 + tanh(u)) / 2`, which is the sigmoid of `2 u` and keeps its precision where it is small; and `gate^2`, bounded
    /// where the result is 0 or 1, so that it stays finite.
    #[inline(always)]
    fn half_plus_tanh<V: Vector>(v: V, gate: V::Floats) -> [V::Floats; 2] {
        let one = v.splat(1.0);
        // The constant comes first, so that what is no number stays so.
        let gate = v.min(v.splat(10.0), v.max(v.splat(-10.0), gate));
        let square = v.mul(gate, gate);
        let inner = v.mul(gate, v.mul_add(square, v.splat(CUBIC), one));
        let e = lanes::exp(v, v.mul(inner, v.splat(-TWICE_ROOT)));
        [v.div(one, v.add(one, e)), square]
    }
}

impl Gate for GeluTanh {
    #[inline(always)]
    fn value<V: Vector>(v: V, gate: V::Floats, up: V::Floats) -> V::Floats {
        let [sigmoid, _] = Self::half_plus_tanh(v, gate);
        v.mul(v.mul(gate, sigmoid), up)
    }

    #[inline(always)]
    fn gradient<V: Vector>(v: V, gate: V::Floats, up: V::Floats, upstream: V::Floats) -> [V::Floats; 2] {
        let one = v.splat(1.0);
        let [sigmoid, square] = Self::half_plus_tanh(v, gate);
        let gelu = v.mul(gate, sigmoid);
        // gelu' = sigmoid + gelu (1 - sigmoid) (2 u)'
        let inner = v.mul(v.mul_add(square, v.splat(3.0 * CUBIC), one), v.splat(TWICE_ROOT));
        let slope = v.mul_add(v.mul(gelu, v.sub(one, sigmoid)), inner, sigmoid);
        [v.mul(v.mul(upstream, up), slope), v.mul(upstream, gelu)]
    }
}

pub(crate) struct ClampedSwiGlu;

impl ClampedSwiGlu {
    /// The gate at most [`LIMIT`], and up within it. What is no number stays so.
    #[inline(always)]
    fn clamp<V: Vector>(v: V, gate: V::Floats, up: V::Floats) -> [V::Floats; 2] {
        let (most, least) = (v.splat(LIMIT), v.splat(-LIMIT));
        [v.min(most, gate), v.max(least, v.min(most, up))]
    }

    /// 1 for values up to the limit, and 0 beyond it.
    #[inline(always)]
    fn within<V: Vector>(v: V, value: V::Floats) -> V::Floats {
        // The next number after the limit, so that the limit is within; every other difference is far from 0 with this
        // factor.
        let rest = v.mul(v.sub(v.splat(LIMIT.next_up()), value), v.splat(1e30));
        v.min(v.splat(1.0), v.max(v.zero(), rest))
    }
}

impl Gate for ClampedSwiGlu {
    #[inline(always)]
    fn value<V: Vector>(v: V, gate: V::Floats, up: V::Floats) -> V::Floats {
        let [gate, up] = Self::clamp(v, gate, up);
        let one = v.splat(1.0);
        let e = lanes::exp(v, v.mul(gate, v.splat(-ALPHA)));
        v.mul(v.div(gate, v.add(one, e)), v.add(up, one))
    }

    #[inline(always)]
    fn gradient<V: Vector>(v: V, gate: V::Floats, up: V::Floats, upstream: V::Floats) -> [V::Floats; 2] {
        let (one, alpha) = (v.splat(1.0), v.splat(ALPHA));
        let [bounded, bounded_up] = Self::clamp(v, gate, up);
        let sigmoid = v.div(one, v.add(one, lanes::exp(v, v.mul(bounded, v.splat(-ALPHA)))));
        let silu = v.mul(bounded, sigmoid);
        // (gate sigmoid)' = sigmoid + ALPHA gate sigmoid (1 - sigmoid)
        let slope = v.mul_add(v.mul(alpha, silu), v.sub(one, sigmoid), sigmoid);
        let of_gate = v.mul(v.mul(v.mul(upstream, v.add(bounded_up, one)), slope), Self::within(v, gate));
        let both = v.mul(Self::within(v, up), Self::within(v, v.sub(v.zero(), up)));
        [of_gate, v.mul(v.mul(upstream, silu), both)]
    }
}

struct Gated<'a, G> {
    gate: PhantomData<G>,
    gate_up: &'a [f32],
    out: &'a mut [f32],
    f: usize,
}

impl<G: Gate> Op for Gated<'_, G> {
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
                |[gate, up]| G::value(v, gate, up),
            );
        }
    }
}

/// The [`Activation`] of each row's gate and up.
///
/// `gate_up` is `[m, 2 f]` (the gate in columns `0..f`), `out` is `[m, f]`.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn gated(activation: Activation, gate_up: &[f32], out: &mut [f32], m: usize, f: usize) {
    match activation {
        Activation::Silu => rows(PhantomData::<Silu>, gate_up, out, m, f),
        Activation::GeluTanh => rows(PhantomData::<GeluTanh>, gate_up, out, m, f),
        Activation::ClampedSwiGlu => rows(PhantomData::<ClampedSwiGlu>, gate_up, out, m, f),
    }
}

fn rows<G: Gate>(gate: PhantomData<G>, gate_up: &[f32], out: &mut [f32], m: usize, f: usize) {
    assert_eq!(gate_up.len(), m * 2 * f, "gated: gate_up is not [m, 2 f]");
    assert_eq!(out.len(), m * f, "gated: out is not [m, f]");
    if out.is_empty() {
        return;
    }
    match rows_per_task(m, f) {
        None => dispatch(Gated { gate, gate_up, out, f }),
        Some(rows) => gate_up
            .par_chunks(rows * 2 * f)
            .zip(out.par_chunks_mut(rows * f))
            .for_each(|(gate_up, out)| dispatch(Gated { gate, gate_up, out, f })),
    }
}
