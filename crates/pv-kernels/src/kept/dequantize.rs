//! From kept weights to `f32`.

use super::Format;
use super::blocks::{BLOCK_K, FP4, half_at, half_power_of_two, scales_and_minima};
use crate::half::{bf16_to_f32, f16_to_f32};

/// The values of whole blocks: `bytes` are `n` blocks, and `out` is `[n * block_elements]`. Every format's values are
/// the same to the bit on every processor.
///
/// # Panics
/// If `bytes` are not whole blocks, or `out` has another number of elements.
pub fn dequantize(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert!(bytes.len().is_multiple_of(format.block_bytes()), "dequantize: the bytes are not whole blocks of {format}");
    let blocks = bytes.len() / format.block_bytes();
    assert_eq!(out.len(), blocks * format.block_elements(), "dequantize: out is not [blocks * elements of a block]");
    unpack(format, bytes, out);
}

/// Calls a function for each value or block. A function that is an argument, as in `map(f)`, would not always be inlined
/// into one that is compiled for wide vectors, whatever its attribute says.
macro_rules! each {
    ($bytes:ident, $out:ident, |$block:ident| $value:expr) => {
        for (out, $block) in $out.iter_mut().zip($bytes.as_chunks().0) {
            *out = $value;
        }
    };
    ($bytes:ident, $out:ident, $unpack:ident) => {
        for (bytes, out) in $bytes.as_chunks().0.iter().zip($out.as_chunks_mut().0) {
            $unpack(bytes, out);
        }
    };
}

/// [`dequantize`] without its checks, for callers within a function with wide vectors.
#[inline(always)]
pub(crate) fn unpack(format: Format, bytes: &[u8], out: &mut [f32]) {
    match format {
        Format::F32 => each!(bytes, out, |b| f32::from_le_bytes(*b)),
        Format::Bf16 => each!(bytes, out, |b| bf16_to_f32(u16::from_le_bytes(*b))),
        Format::F16 => each!(bytes, out, |b| f16_to_f32(u16::from_le_bytes(*b))),
        Format::Q8_0 => each!(bytes, out, q8_0),
        Format::Q4_0 => each!(bytes, out, q4_0),
        Format::Q4_1 => each!(bytes, out, q4_1),
        Format::Q5_0 => each!(bytes, out, q5_0),
        Format::Q5_1 => each!(bytes, out, q5_1),
        Format::Q4K => each!(bytes, out, q4_k),
        Format::Q5K => each!(bytes, out, q5_k),
        Format::Q6K => each!(bytes, out, q6_k),
        Format::Mxfp4 => each!(bytes, out, mxfp4),
    }
}

#[inline(always)]
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(q as i8) * scale;
    }
}

#[inline(always)]
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (i, &q) in block[2..].iter().enumerate() {
        out[i] = (f32::from(q & 15) - 8.0) * scale;
        out[i + 16] = (f32::from(q >> 4) - 8.0) * scale;
    }
}

#[inline(always)]
fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let scale = half_power_of_two(block[0]);
    for (i, &q) in block[1..].iter().enumerate() {
        out[i] = f32::from(FP4[usize::from(q & 15)] as i8) * scale;
        out[i + 16] = f32::from(FP4[usize::from(q >> 4)] as i8) * scale;
    }
}

#[inline(always)]
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    for (i, &q) in block[4..].iter().enumerate() {
        out[i] = f32::from(q & 15) * scale + minimum;
        out[i + 16] = f32::from(q >> 4) * scale + minimum;
    }
}

/// Bit `i` of 4 bytes as bit 4 of byte `i`.
#[inline(always)]
fn top_bits(bytes: &[u8]) -> [u8; 32] {
    let mut top = [0; 32];
    for (top, &byte) in top.as_chunks_mut::<8>().0.iter_mut().zip(bytes) {
        // Each byte of the copies keeps one bit; adding 0x7f moves it to the top.
        let bits = (u64::from(byte) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        *top = (((bits + 0x7f7f_7f7f_7f7f_7f7f) >> 3) & 0x1010_1010_1010_1010).to_le_bytes();
    }
    top
}

#[inline(always)]
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    let top = top_bits(&block[2..6]);
    for (i, &q) in block[6..].iter().enumerate() {
        out[i] = (f32::from(q & 15 | top[i]) - 16.0) * scale;
        out[i + 16] = (f32::from(q >> 4 | top[i + 16]) - 16.0) * scale;
    }
}

#[inline(always)]
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let top = top_bits(&block[4..8]);
    for (i, &q) in block[8..].iter().enumerate() {
        out[i] = f32::from(q & 15 | top[i]) * scale + minimum;
        out[i + 16] = f32::from(q >> 4 | top[i + 16]) * scale + minimum;
    }
}

#[inline(always)]
fn q4_k(block: &[u8; 144], out: &mut [f32; BLOCK_K]) {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    let (scales, minima) = scales_and_minima(&block[4..16]);
    for (pair, (qs, out)) in block[16..].chunks_exact(32).zip(out.chunks_exact_mut(64)).enumerate() {
        let (low, high) = out.split_at_mut(32);
        let (scale, minimum) = (d * f32::from(scales[2 * pair]), d_min * f32::from(minima[2 * pair]));
        for (out, q) in low.iter_mut().zip(qs) {
            *out = f32::from(q & 15) * scale - minimum;
        }
        let (scale, minimum) = (d * f32::from(scales[2 * pair + 1]), d_min * f32::from(minima[2 * pair + 1]));
        for (out, q) in high.iter_mut().zip(qs) {
            *out = f32::from(q >> 4) * scale - minimum;
        }
    }
}

#[inline(always)]
fn q5_k(block: &[u8; 176], out: &mut [f32; BLOCK_K]) {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    let (scales, minima) = scales_and_minima(&block[4..16]);
    let top = &block[16..48];
    for (pair, (qs, out)) in block[48..].chunks_exact(32).zip(out.chunks_exact_mut(64)).enumerate() {
        let (low, high) = out.split_at_mut(32);
        let (scale, minimum) = (d * f32::from(scales[2 * pair]), d_min * f32::from(minima[2 * pair]));
        for ((out, q), top) in low.iter_mut().zip(qs).zip(top) {
            *out = f32::from(q & 15 | (top >> (2 * pair) & 1) << 4) * scale - minimum;
        }
        let (scale, minimum) = (d * f32::from(scales[2 * pair + 1]), d_min * f32::from(minima[2 * pair + 1]));
        for ((out, q), top) in high.iter_mut().zip(qs).zip(top) {
            *out = f32::from(q >> 4 | (top >> (2 * pair + 1) & 1) << 4) * scale - minimum;
        }
    }
}

#[inline(always)]
fn q6_k(block: &[u8; 210], out: &mut [f32; BLOCK_K]) {
    let d = half_at(block, 208);
    for (half, out) in out.chunks_exact_mut(128).enumerate() {
        let low = &block[half * 64..][..64];
        let high = &block[128 + half * 32..][..32];
        for (group, out) in out.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(block[192 + half * 8 + group] as i8);
            // A quarter of 32 elements has two scales.
            let (quarter, first) = (group / 2, group % 2 * 16);
            let low = &low[quarter % 2 * 32 + first..][..16];
            let high = &high[first..][..16];
            for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                let q = low >> (quarter / 2 * 4) & 15 | (high >> (quarter * 2) & 3) << 4;
                *out = (f32::from(q) - 32.0) * scale;
            }
        }
    }
}
