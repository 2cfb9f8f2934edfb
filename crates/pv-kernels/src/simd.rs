//! Vector helpers shared by the kernels.

use pulp::{Arch, Simd, WithSimd};

/// Vector elements of the widest instruction set: buffers padded to it suit every other one.
pub(super) const MAX_LANES: usize = 16;

/// Runs `op` with the best instruction set of this machine.
pub(super) fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
    Arch::new().dispatch(op)
}

/// `e^x` for each lane, within 2 units in the last place for `x` in `[-87.3, 88.3]`; outside, the
/// result stays at the end of that range. NaN stays NaN.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let c = |v: f32| s.splat_f32s(v);
    // The constant comes first so that a NaN in `x` is the operand which x86 returns.
    let x = s.min_f32s(c(88.376_26), s.max_f32s(c(-87.336_54), x));
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits.
    let magic = c(12_582_912.0);
    let shifted = s.mul_add_e_f32s(x, c(core::f32::consts::LOG2_E), magic);
    let n = s.sub_f32s(shifted, magic);
    let r = s.mul_add_e_f32s(n, c(-0.693_359_4), x);
    let r = s.mul_add_e_f32s(n, c(2.121_944_4e-4), r);
    let mut p = c(1.987_569_2e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        p = s.mul_add_e_f32s(p, r, c(coefficient));
    }
    let p = s.add_f32s(s.mul_add_e_f32s(p, s.mul_f32s(r, r), r), c(1.0));
    let bits = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(23));
    let power = s.transmute_f32s_u32s(s.add_u32s(bits, s.splat_u32s(0x3f80_0000)));
    s.mul_f32s(p, power)
}

/// Largest element of `x`; minus infinity when it is empty.
#[inline(always)]
pub(super) fn max<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (body, tail) = S::as_simd_f32s(x);
    let mut best = s.splat_f32s(f32::NEG_INFINITY);
    for &v in body {
        best = s.max_f32s(best, v);
    }
    tail.iter().fold(s.reduce_max_f32s(best), |a, &b| a.max(b))
}

/// Replaces each element by `e^(element - shift)` and returns the sum of the results.
#[inline(always)]
pub(super) fn exp_sum<S: Simd>(s: S, x: &mut [f32], shift: f32) -> f32 {
    let (body, tail) = S::as_mut_simd_f32s(x);
    let shifts = s.splat_f32s(shift);
    let mut sum = s.splat_f32s(0.0);
    for v in body {
        *v = exp(s, s.sub_f32s(*v, shifts));
        sum = s.add_f32s(sum, *v);
    }
    let mut total = s.reduce_sum_f32s(sum);
    if !tail.is_empty() {
        let v = exp(s, s.sub_f32s(s.partial_load_f32s(tail), shifts));
        s.partial_store_f32s(tail, v);
        total += tail.iter().sum::<f32>();
    }
    total
}

/// `out = x * factor`.
#[inline(always)]
pub(super) fn scale_into<S: Simd>(s: S, x: &[f32], factor: f32, out: &mut [f32]) {
    let factors = s.splat_f32s(factor);
    let (body, tail) = S::as_simd_f32s(x);
    let (out_body, out_tail) = S::as_mut_simd_f32s(out);
    for (o, &v) in out_body.iter_mut().zip(body) {
        *o = s.mul_f32s(v, factors);
    }
    for (o, &v) in out_tail.iter_mut().zip(tail) {
        *o = v * factor;
    }
}

/// `x *= factor`.
#[inline(always)]
pub(super) fn scale<S: Simd>(s: S, x: &mut [f32], factor: f32) {
    let factors = s.splat_f32s(factor);
    let (body, tail) = S::as_mut_simd_f32s(x);
    for v in body {
        *v = s.mul_f32s(*v, factors);
    }
    for v in tail {
        *v *= factor;
    }
}
