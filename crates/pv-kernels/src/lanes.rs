//! Computations over slices, 16 elements at a time. The last elements are computed in the same way as the others, in
//! lanes beside zeros.
//!
//! Functions that are passed must be `#[inline(always)]`.

use crate::vector::Vector;

/// Elements of a vector. Buffers whose rows are padded to it need no partial vectors.
pub(super) const LANES: usize = 16;

/// `e^x` for each lane, within 2 units in the last place for `x` in `[-87.3, 88.3]`; outside, the
/// result stays at the end of that range. NaN stays NaN.
#[inline(always)]
pub(super) fn exp<V: Vector>(v: V, x: V::Floats) -> V::Floats {
    let (less_one, power) = exp_parts(v, x);
    v.mul(v.add(less_one, v.splat(1.0)), power)
}

/// `e^x - 1` for each lane, within 2 units in the last place in the range of [`exp`].
#[inline(always)]
fn exp_minus_one<V: Vector>(v: V, x: V::Floats) -> V::Floats {
    let (less_one, power) = exp_parts(v, x);
    v.mul_add(less_one, power, v.sub(power, v.splat(1.0)))
}

/// `e^r - 1` and `2^n` with `x = n ln 2 + r`, so that `e^x = e^r 2^n`.
#[inline(always)]
fn exp_parts<V: Vector>(v: V, x: V::Floats) -> (V::Floats, V::Floats) {
    let c = |value: f32| v.splat(value);
    // The constant comes first, so that the NaN of `x` stays.
    let x = v.min(c(88.376_26), v.max(c(-87.336_54), x));
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits.
    let magic = c(12_582_912.0);
    let shifted = v.mul_add(x, c(core::f32::consts::LOG2_E), magic);
    let n = v.sub(shifted, magic);
    let r = v.mul_add(n, c(-0.693_359_4), x);
    let r = v.mul_add(n, c(2.121_944_4e-4), r);
    let mut p = c(1.987_569_2e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        p = v.mul_add(p, r, c(coefficient));
    }
    (v.mul_add(p, v.mul(r, r), r), v.power_of_two(shifted))
}

/// `tanh x` for each lane, within 3e-7 of its magnitude. NaN stays NaN.
#[inline(always)]
fn tanh<V: Vector>(v: V, x: V::Floats) -> V::Floats {
    let c = |value: f32| v.splat(value);
    // From 10 on, the nearest value is 1. The constant comes first, so that the NaN of `x` stays.
    let x = v.min(c(10.0), v.max(c(-10.0), x));
    // With y = e^2x - 1, which has no cancellation near zero: tanh x = y / (y + 2).
    let y = exp_minus_one(v, v.add(x, x));
    v.div(y, v.add(y, c(2.0)))
}

/// `cap * tanh(x / cap)` for each element.
#[inline(always)]
pub(super) fn softcap<V: Vector>(v: V, x: &mut [f32], cap: f32) {
    let (cap, inverse) = (v.splat(cap), v.splat(1.0 / cap));
    update(
        v,
        x,
        [],
        #[inline(always)]
        |x, []| v.mul(cap, tanh(v, v.mul(x, inverse))),
    );
}

/// [`exp`] of one value.
#[inline(always)]
pub(super) fn exp_of<V: Vector>(v: V, x: f32) -> f32 {
    let mut all = [0.0; LANES];
    v.store(exp(v, v.splat(x)), &mut all);
    all[0]
}

/// The natural logarithm, rounded from `f64`: the standard library's differs between systems.
pub(super) fn ln(x: f32) -> f32 {
    if !(x > 0.0 && x < f32::INFINITY) {
        return if x == 0.0 {
            f32::NEG_INFINITY
        } else if x > 0.0 {
            x
        } else {
            f32::NAN
        };
    }
    // A product with a power of two, in `[√½, √2)`.
    let bits = f64::from(x).to_bits() as i64;
    let exponent = (bits - std::f64::consts::FRAC_1_SQRT_2.to_bits() as i64) >> 52;
    let m = f64::from_bits((bits - (exponent << 52)) as u64);
    // ln m = 2 artanh s, with |s| < 0.172.
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for odd in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * square + 1.0 / odd;
    }
    (exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * sum) as f32
}

/// The vectors of each of some slices of `len` elements, and their last elements.
#[inline(always)]
fn split<const N: usize>(len: usize, x: [&[f32]; N]) -> ([&[[f32; LANES]]; N], [&[f32]; N]) {
    let full = len / LANES;
    (x.map(|x| &x[..len].as_chunks().0[..full]), x.map(|x| &x[full * LANES..len]))
}

// Loops, as a closure with several instructions would not be compiled for them.

/// Vector `i` of each of some slices.
#[inline(always)]
fn load<V: Vector, const N: usize>(v: V, x: &[&[[f32; LANES]]; N], i: usize) -> [V::Floats; N] {
    let mut all = [v.zero(); N];
    for (all, x) in all.iter_mut().zip(x) {
        *all = v.load(&x[i]);
    }
    all
}

/// The last elements of each of some slices.
#[inline(always)]
fn load_last<V: Vector, const N: usize>(v: V, x: &[&[f32]; N]) -> [V::Floats; N] {
    let mut all = [v.zero(); N];
    for (all, x) in all.iter_mut().zip(x) {
        *all = v.load_part(x);
    }
    all
}

/// Adds to a sum with `f(sum, elements)`, in two vectors that take turns, so that an addition need not wait for the last
/// one.
#[inline(always)]
pub(super) fn sum<V: Vector, const N: usize>(
    v: V,
    x: [&[f32]; N],
    f: impl Fn(V::Floats, [V::Floats; N]) -> V::Floats,
) -> f32 {
    let len = x.first().map_or(0, |x| x.len());
    let full = len / LANES;
    let (bodies, tails) = split(len, x);
    let mut sums = [v.zero(); 2];
    for pair in 0..full / 2 {
        sums[0] = f(sums[0], load(v, &bodies, 2 * pair));
        sums[1] = f(sums[1], load(v, &bodies, 2 * pair + 1));
    }
    if full % 2 == 1 {
        sums[0] = f(sums[0], load(v, &bodies, full - 1));
    }
    if full * LANES < len {
        sums[1] = f(sums[1], load_last(v, &tails));
    }
    v.sum(v.add(sums[0], sums[1]))
}

/// `x . y`.
#[inline(always)]
pub(super) fn dot<V: Vector>(v: V, x: &[f32], y: &[f32]) -> f32 {
    sum(
        v,
        [x, y],
        #[inline(always)]
        |sum, [x, y]| v.mul_add(x, y, sum),
    )
}

/// `out = f(out, x…)` for each element.
#[inline(always)]
pub(super) fn update<V: Vector, const N: usize>(
    v: V,
    out: &mut [f32],
    x: [&[f32]; N],
    f: impl Fn(V::Floats, [V::Floats; N]) -> V::Floats,
) {
    let len = out.len();
    let (bodies, tails) = split(len, x);
    let (body, tail) = out.as_chunks_mut::<LANES>();
    for (i, out) in body.iter_mut().enumerate() {
        let result = f(v.load(out), load(v, &bodies, i));
        v.store(result, out);
    }
    if !tail.is_empty() {
        let result = f(v.load_part(tail), load_last(v, &tails));
        v.store_part(result, tail);
    }
}

/// `outs = f(outs, x…)` for each element of two slices of the same length.
#[inline(always)]
pub(super) fn update_two<V: Vector, const N: usize>(
    v: V,
    [a, b]: [&mut [f32]; 2],
    x: [&[f32]; N],
    f: impl Fn([V::Floats; 2], [V::Floats; N]) -> [V::Floats; 2],
) {
    let len = a.len();
    let (bodies, tails) = split(len, x);
    let (a_body, a_tail) = a.as_chunks_mut::<LANES>();
    let (b_body, b_tail) = b[..len].as_chunks_mut::<LANES>();
    for (i, (a, b)) in a_body.iter_mut().zip(b_body).enumerate() {
        let [new_a, new_b] = f([v.load(a), v.load(b)], load(v, &bodies, i));
        v.store(new_a, a);
        v.store(new_b, b);
    }
    if !a_tail.is_empty() {
        let [new_a, new_b] = f([v.load_part(a_tail), v.load_part(b_tail)], load_last(v, &tails));
        v.store_part(new_a, a_tail);
        v.store_part(new_b, b_tail);
    }
}

/// `out = f(x…)` for each element.
#[inline(always)]
pub(super) fn map<V: Vector, const N: usize>(
    v: V,
    x: [&[f32]; N],
    out: &mut [f32],
    f: impl Fn([V::Floats; N]) -> V::Floats,
) {
    update(
        v,
        out,
        x,
        #[inline(always)]
        |_, x| f(x),
    );
}

/// `out = x * factor`.
#[inline(always)]
pub(super) fn scale_into<V: Vector>(v: V, x: &[f32], factor: f32, out: &mut [f32]) {
    let factor = v.splat(factor);
    map(
        v,
        [x],
        out,
        #[inline(always)]
        |[x]| v.mul(x, factor),
    );
}

/// `x *= factor`.
#[inline(always)]
pub(super) fn scale<V: Vector>(v: V, x: &mut [f32], factor: f32) {
    let factor = v.splat(factor);
    update(
        v,
        x,
        [],
        #[inline(always)]
        |x, []| v.mul(x, factor),
    );
}

/// The largest element of `x`; minus infinity for an empty `x`.
#[inline(always)]
pub(super) fn max<V: Vector>(v: V, x: &[f32]) -> f32 {
    let (body, tail) = x.as_chunks::<LANES>();
    let mut best = v.splat(f32::NEG_INFINITY);
    for x in body {
        best = v.max(best, v.load(x));
    }
    if !tail.is_empty() {
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..tail.len()].copy_from_slice(tail);
        best = v.max(best, v.load(&last));
    }
    v.largest(best)
}

/// Replaces each element by `e^(element - shift)` and returns the sum of the results.
#[inline(always)]
pub(super) fn exp_sum<V: Vector>(v: V, x: &mut [f32], shift: f32) -> f32 {
    let shift = v.splat(shift);
    let (body, tail) = x.as_chunks_mut::<LANES>();
    let mut sum = v.zero();
    for x in body {
        let power = exp(v, v.sub(v.load(x), shift));
        v.store(power, x);
        sum = v.add(sum, power);
    }
    if !tail.is_empty() {
        v.store_part(exp(v, v.sub(v.load_part(tail), shift)), tail);
        sum = v.add(sum, v.load_part(tail));
    }
    v.sum(sum)
}

/// The logarithm of the sum of `e^element`.
#[inline(always)]
pub(super) fn log_sum_exp<V: Vector>(v: V, x: &[f32]) -> f32 {
    let largest = max(v, x);
    let shift = v.splat(largest);
    let (body, tail) = x.as_chunks::<LANES>();
    let mut sum = v.zero();
    for x in body {
        sum = v.add(sum, exp(v, v.sub(v.load(x), shift)));
    }
    if !tail.is_empty() {
        let mut last = [0.0; LANES];
        v.store_part(exp(v, v.sub(v.load_part(tail), shift)), &mut last[..tail.len()]);
        sum = v.add(sum, v.load(&last));
    }
    largest + ln(v.sum(sum))
}
