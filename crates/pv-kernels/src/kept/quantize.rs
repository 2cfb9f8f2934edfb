//! From `f32` to kept weights.

mod fit;

use rayon::prelude::*;

use super::Format;
use super::blocks::{BLOCK_K, FP4, half_power_of_two, pack_scales_and_minima};
use crate::half::{f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};
use fit::{Fit, error, inverse, nearest, symmetric, with_minimum};

/// Blocks that are quantized by one task.
const BLOCKS: usize = 64;

/// Appends `values`, rounded to a format, to `out`: the nearest values without blocks; with blocks, scales and minima of
/// which several are tried, for a small squared error. The result is the same on every processor.
///
/// The values must be finite: in blocks, others become arbitrary ones.
///
/// # Panics
/// If `values` do not fill whole blocks.
pub fn quantize(format: Format, values: &[f32], out: &mut Vec<u8>) {
    let size = format.row_bytes(values.len());
    match format {
        Format::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Format::Bf16 => out.extend(values.iter().flat_map(|&v| f32_to_bf16(v).to_le_bytes())),
        Format::F16 => out.extend(values.iter().flat_map(|&v| f32_to_f16(v).to_le_bytes())),
        _ => {
            let from = out.len();
            out.resize(from + size, 0);
            let tasks = out[from..].par_chunks_mut(BLOCKS * format.block_bytes());
            tasks.zip(values.par_chunks(BLOCKS * format.block_elements())).for_each(|(out, values)| {
                dispatch(Quantize { format, values, out });
            });
        }
    }
}

struct Quantize<'a> {
    format: Format,
    values: &'a [f32],
    out: &'a mut [u8],
}

impl Op for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        let Self { format, values, out } = self;
        match format {
            Format::Q8_0 => blocks::<34, 32>(values, out, q8_0),
            Format::Q4_0 => blocks::<18, 32>(values, out, |values, out| small::<8>(values, out)),
            Format::Q5_0 => blocks::<22, 32>(values, out, |values, out| small::<16>(values, out)),
            Format::Q4_1 => blocks::<20, 32>(values, out, |values, out| small_with_minimum::<15>(values, out)),
            Format::Q5_1 => blocks::<24, 32>(values, out, |values, out| small_with_minimum::<31>(values, out)),
            Format::Q4K => blocks::<144, BLOCK_K>(values, out, |values, out| k_with_minima::<15>(values, out)),
            Format::Q5K => blocks::<176, BLOCK_K>(values, out, |values, out| k_with_minima::<31>(values, out)),
            Format::Q6K => blocks::<210, BLOCK_K>(values, out, q6_k),
            Format::Mxfp4 => blocks::<17, 32>(values, out, mxfp4),
            Format::F32 | Format::Bf16 | Format::F16 => unreachable!("a format without blocks"),
        }
    }
}

#[inline(always)]
fn blocks<const B: usize, const E: usize>(values: &[f32], out: &mut [u8], block: impl Fn(&[f32; E], &mut [u8; B])) {
    for (values, out) in values.as_chunks::<E>().0.iter().zip(out.as_chunks_mut::<B>().0) {
        block(values, out);
    }
}

/// The scale is the greatest magnitude over 127, as everywhere.
#[inline(always)]
fn q8_0(values: &[f32; 32], out: &mut [u8; 34]) {
    let scale = values.iter().fold(0f32, |most, v| most.max(v.abs())) / 127.0;
    let by = inverse(scale);
    out[..2].copy_from_slice(&f32_to_f16(scale).to_le_bytes());
    for (out, v) in out[2..].iter_mut().zip(values) {
        *out = (v * by).round() as i8 as u8;
    }
}

/// The 32 integers of a block: halves of bytes, and before them, with 5 bits, the top bits.
#[inline(always)]
fn put_integers(q: &[u8; 32], five: bool, mut out: &mut [u8]) {
    if five {
        let top = q.iter().enumerate().fold(0u32, |top, (i, q)| top | u32::from(q >> 4) << i);
        out[..4].copy_from_slice(&top.to_le_bytes());
        out = &mut out[4..];
    }
    for (i, out) in out.iter_mut().enumerate() {
        *out = q[i] & 15 | q[i + 16] << 4;
    }
}

#[inline(always)]
fn small<const HALF: usize>(values: &[f32; 32], out: &mut [u8]) {
    let half = HALF as f32;
    let scale = symmetric(values, half, |scale| f16_to_f32(f32_to_f16(scale)));
    let q = nearest(values, Fit { scale, minimum: 0.0 }, -half, half - 1.0).map(|q| (q + half) as u8);
    out[..2].copy_from_slice(&f32_to_f16(scale).to_le_bytes());
    put_integers(&q, HALF == 16, &mut out[2..]);
}

#[inline(always)]
fn small_with_minimum<const MOST: usize>(values: &[f32; 32], out: &mut [u8]) {
    let most = MOST as f32;
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let fit = with_minimum(values, low, most, |fit| Fit {
        scale: f16_to_f32(f32_to_f16(fit.scale)),
        minimum: f16_to_f32(f32_to_f16(fit.minimum)),
    });
    let q = nearest(values, fit, 0.0, most).map(|q| q as u8);
    out[..2].copy_from_slice(&f32_to_f16(fit.scale).to_le_bytes());
    out[2..4].copy_from_slice(&f32_to_f16(fit.minimum).to_le_bytes());
    put_integers(&q, MOST == 31, &mut out[4..]);
}

/// The nearest values with a scale, and the sum of their squared errors.
#[inline(always)]
fn nearest_fp4(values: &[f32; 32], scale: f32) -> ([u8; 32], f32) {
    /// The bounds between neighbouring magnitudes.
    const BOUNDS: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];
    let (mut q, mut error) = ([0; 32], 0.0);
    for (q, v) in q.iter_mut().zip(values) {
        let size = v.abs() / scale;
        let magnitude = BOUNDS.iter().fold(0, |sum, &bound| sum + u8::from(size > bound));
        *q = if magnitude > 0 && *v < 0.0 { magnitude | 8 } else { magnitude };
        let difference = v - f32::from(FP4[usize::from(*q)] as i8) * scale;
        error += difference * difference;
    }
    (q, error)
}

/// The scale is the greatest power of two with which the greatest value is below twice the greatest magnitude, as
/// everywhere; or twice that, if the error is smaller.
#[inline(always)]
fn mxfp4(values: &[f32; 32], out: &mut [u8; 17]) {
    let most = values.iter().fold(0f32, |most, v| most.max(v.abs()));
    // 4 is the power of two of the greatest magnitude, 6.
    let exponent = ((most.to_bits() >> 23) as u8).saturating_sub(2);
    let (mut q, error) = nearest_fp4(values, half_power_of_two(exponent));
    out[0] = exponent;
    let (other, smaller) = nearest_fp4(values, half_power_of_two(exponent + 1));
    if smaller < error {
        (out[0], q) = (exponent + 1, other);
    }
    put_integers(&q, false, &mut out[1..]);
}

/// An integer and its neighbours within bounds.
#[inline(always)]
fn around(value: f32, low: f32, high: f32) -> [f32; 3] {
    let value = value.round();
    [value, value - 1.0, value + 1.0].map(|value| value.clamp(low, high))
}

#[inline(always)]
fn k_with_minima<const MOST: usize>(values: &[f32; BLOCK_K], out: &mut [u8]) {
    let most = MOST as f32;
    let groups = values.as_chunks::<32>().0;
    let mut fits = [Fit::default(); 8];
    for (fit, values) in fits.iter_mut().zip(groups) {
        // What is kept is a minimum of at most zero.
        let low = values.iter().copied().fold(0.0, f32::min);
        *fit = with_minimum(values, low, most, |fit| Fit { minimum: fit.minimum.min(0.0), ..fit });
    }
    let d = f32_to_f16(fits.iter().fold(0.0, |most, fit| fit.scale.max(most)) / 63.0);
    let d_min = f32_to_f16(fits.iter().fold(0.0, |most, fit| (-fit.minimum).max(most)) / 63.0);
    let (unit, unit_min) = (f16_to_f32(d), f16_to_f32(d_min));
    let (mut scales, mut minima, mut q) = ([0; 8], [0; 8], [0u8; BLOCK_K]);
    for (group, (values, fit)) in groups.iter().zip(fits).enumerate() {
        // Rounding to 6 bits changed the fit: the neighbours may be better.
        let (mut best, mut chosen) = (f32::INFINITY, Fit::default());
        for scale in around(fit.scale * inverse(unit), 0.0, 63.0) {
            for minimum in around(-fit.minimum * inverse(unit_min), 0.0, 63.0) {
                let fit = Fit { scale: unit * scale, minimum: -unit_min * minimum };
                let error = error(values, fit, 0.0, most);
                if error < best {
                    (best, chosen) = (error, fit);
                    (scales[group], minima[group]) = (scale as u8, minimum as u8);
                }
            }
        }
        for (q, nearest) in q[group * 32..].iter_mut().zip(nearest(values, chosen, 0.0, most)) {
            *q = nearest as u8;
        }
    }
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&d_min.to_le_bytes());
    out[4..16].copy_from_slice(&pack_scales_and_minima(scales, minima));
    let mut out = &mut out[16..];
    if MOST == 31 {
        for (i, out) in out[..32].iter_mut().enumerate() {
            *out = (0..8).fold(0, |top, group| top | q[group * 32 + i] >> 4 << group);
        }
        out = &mut out[32..];
    }
    for (q, out) in q.chunks_exact(64).zip(out.chunks_exact_mut(32)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = q[i] & 15 | q[i + 32] << 4;
        }
    }
}

#[inline(always)]
fn q6_k(values: &[f32; BLOCK_K], out: &mut [u8; 210]) {
    let groups = values.as_chunks::<16>().0;
    let mut fits = [0f32; 16];
    for (scale, values) in fits.iter_mut().zip(groups) {
        *scale = symmetric(values, 32.0, |scale| scale);
    }
    let most = fits.iter().fold(0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
    let d = f32_to_f16(most / -128.0);
    let unit = f16_to_f32(d);
    let (mut scales, mut q) = ([0u8; 16], [0u8; BLOCK_K]);
    for (group, (values, fit)) in groups.iter().zip(fits).enumerate() {
        let (mut best, mut chosen) = (f32::INFINITY, Fit::default());
        for scale in around(fit * inverse(unit), -128.0, 127.0) {
            let fit = Fit { scale: unit * scale, minimum: 0.0 };
            let error = error(values, fit, -32.0, 31.0);
            if error < best {
                (best, chosen) = (error, fit);
                scales[group] = scale as i8 as u8;
            }
        }
        for (q, nearest) in q[group * 16..].iter_mut().zip(nearest(values, chosen, -32.0, 31.0)) {
            *q = (nearest + 32.0) as u8;
        }
    }
    for (half, q) in q.chunks_exact(128).enumerate() {
        for i in 0..64 {
            out[half * 64 + i] = q[i] & 15 | q[i + 64] << 4;
        }
        for i in 0..32 {
            out[128 + half * 32 + i] = (0..4).fold(0, |high, quarter| high | q[quarter * 32 + i] >> 4 << (2 * quarter));
        }
    }
    out[192..208].copy_from_slice(&scales);
    out[208..].copy_from_slice(&d.to_le_bytes());
}
