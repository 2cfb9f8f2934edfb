//! What the block formats have in common.

use crate::half::f16_to_f32;

/// Twice the values of 4-bit floating point, as signed bytes: a sign, two bits of exponent and one of mantissa.
pub(crate) const FP4: [u8; 16] =
    [0, 1, 2, 3, 4, 6, 8, 12, 0, -1i8 as u8, -2i8 as u8, -3i8 as u8, -4i8 as u8, -6i8 as u8, -8i8 as u8, -12i8 as u8];

/// Half of the scale of an exponent in 8 bits, 2^(exponent - 128): the values of [`FP4`] are doubled. The greatest exponent, which
/// the specification reserves for NaN, is a scale as well, as in llama.cpp.
#[inline(always)]
pub(crate) fn half_power_of_two(exponent: u8) -> f32 {
    // Below the least normal number, the exponent is in the mantissa.
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { u32::from(exponent - 1) << 23 })
}

/// The elements of a block of the formats `K`.
pub(super) const BLOCK_K: usize = 256;

/// The 16-bit floating-point value at `at`.
#[inline(always)]
pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The scales and minima of the 8 groups of a block of Q4_K or Q5_K, 6 bits each.
///
/// Bytes 0 to 3 keep the scales of groups 0 to 3, and bytes 4 to 7 their minima, in the low 6 bits. The high 2 bits are
/// the top of the scales and minima of groups 4 to 7, whose low 4 bits are in the halves of bytes 8 to 11.
#[inline(always)]
pub(super) fn scales_and_minima(packed: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = packed[i] & 63;
        minima[i] = packed[i + 4] & 63;
        scales[i + 4] = packed[i + 8] & 15 | packed[i] >> 6 << 4;
        minima[i + 4] = packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4;
    }
    (scales, minima)
}

/// The inverse of [`scales_and_minima`].
pub(super) fn pack_scales_and_minima(scales: [u8; 8], minima: [u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for i in 0..4 {
        packed[i] = scales[i] | scales[i + 4] >> 4 << 6;
        packed[i + 4] = minima[i] | minima[i + 4] >> 4 << 6;
        packed[i + 8] = scales[i + 4] & 15 | minima[i + 4] << 4;
    }
    packed
}
