//! The scale, and the minimum, with the least squared error of those that are tried. Sums have 8 lanes, which the
//! compiler makes vectors of.

/// `value ≈ scale * integer + minimum`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fit {
    pub scale: f32,
    pub minimum: f32,
}

/// `1 / scale`, or 0 if that is too great: then all integers are 0.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    let by = 1.0 / scale;
    if by.is_finite() { by } else { 0.0 }
}

/// The sum of `term(i)` for `i` in `0..N`.
#[inline(always)]
fn sum<const N: usize>(term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; 8];
    for at in (0..N).step_by(8) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += term(at + i);
        }
    }
    lanes.iter().sum()
}

/// To the nearest integer between bounds, with magnitudes below 2^22.
#[inline(always)]
fn round(value: f32, low: f32, high: f32) -> f32 {
    // Not `clamp`, so that NaN becomes a bound.
    (value.max(low).min(high) + 12_582_912.0) - 12_582_912.0
}

/// The integers between bounds whose values are nearest.
#[inline(always)]
pub(super) fn nearest<const N: usize>(values: &[f32; N], fit: Fit, low: f32, high: f32) -> [f32; N] {
    let by = inverse(fit.scale);
    let mut q = [0.0; N];
    for (q, v) in q.iter_mut().zip(values) {
        *q = round((v - fit.minimum) * by, low, high);
    }
    q
}

/// The squared error of the [`nearest`] integers.
#[inline(always)]
pub(super) fn error<const N: usize>(values: &[f32; N], fit: Fit, low: f32, high: f32) -> f32 {
    let by = inverse(fit.scale);
    sum::<N>(|i| {
        let q = round((values[i] - fit.minimum) * by, low, high);
        let difference = fit.scale * q + fit.minimum - values[i];
        difference * difference
    })
}

/// A scale for integers from `-half` to `half - 1`, as `kept` rounds it.
#[inline(always)]
pub(super) fn symmetric<const N: usize>(values: &[f32; N], half: f32, kept: impl Fn(f32) -> f32) -> f32 {
    let most = values.iter().fold(0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
    let (low, high) = (-half, half - 1.0);
    let mut scale = kept(most / low);
    let mut best = error(values, Fit { scale, minimum: 0.0 }, low, high);
    // The greatest magnitude becomes an integer around either bound.
    for (end, from) in [(low, -8), (high, -3)] {
        for step in from..=8 {
            let start = Fit { scale: most / (end + end.signum() * 0.1 * step as f32), minimum: 0.0 };
            let q = nearest(values, start, low, high);
            let squares = sum::<N>(|i| q[i] * q[i]);
            if squares == 0.0 {
                continue;
            }
            let candidate = kept(sum::<N>(|i| q[i] * values[i]) / squares);
            let error = error(values, Fit { scale: candidate, minimum: 0.0 }, low, high);
            if error < best {
                (best, scale) = (error, candidate);
            }
        }
    }
    scale
}

/// A scale and a minimum for integers from 0 to `most`, as `kept` rounds them. `low` is the first minimum.
#[inline(always)]
pub(super) fn with_minimum<const N: usize>(values: &[f32; N], low: f32, most: f32, kept: impl Fn(Fit) -> Fit) -> Fit {
    let high = values.iter().copied().fold(low, f32::max);
    let mut fit = kept(Fit { scale: (high - low) / most, minimum: low });
    let mut best = error(values, fit, 0.0, most);
    let count = N as f32;
    let total = sum::<N>(|i| values[i]);
    for step in -10..=10 {
        let start = Fit { scale: (high - low) / (most + 0.1 * step as f32), minimum: low };
        let q = nearest(values, start, 0.0, most);
        let (sum_q, squares) = (sum::<N>(|i| q[i]), sum::<N>(|i| q[i] * q[i]));
        let products = sum::<N>(|i| q[i] * values[i]);
        let determinant = count * squares - sum_q * sum_q;
        if determinant <= 0.0 {
            continue;
        }
        let least_squares = kept(Fit {
            scale: (count * products - total * sum_q) / determinant,
            minimum: (squares * total - sum_q * products) / determinant,
        });
        // The best scale for the minimum as it is kept.
        let scale = (products - least_squares.minimum * sum_q) / squares;
        for candidate in [least_squares, kept(Fit { scale, ..least_squares })] {
            let error = error(values, candidate, 0.0, most);
            if error < best {
                (best, fit) = (error, candidate);
            }
        }
    }
    fit
}
