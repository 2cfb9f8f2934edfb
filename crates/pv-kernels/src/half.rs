//! Conversions between `f32` and the 16-bit floating-point types.

/// Exact.
#[inline(always)]
pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// To the nearest value, ties to even; a NaN stays one.
#[inline(always)]
pub(crate) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    // The carry of the largest finite values leads to infinity.
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Exact.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let sign = u32::from(bits & 0x8000) << 16;
    // 2^112 changes the bias of the exponent and also normalises subnormal values.
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let special = if magnitude >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | sign)
}

/// To the nearest value, ties to even; a NaN stays one.
#[inline(always)]
pub(crate) fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    if magnitude >= 0x4780_0000 {
        return sign | 0x7c00;
    }
    if magnitude < 0x3880_0000 {
        // Subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
        let shifted = f32::from_bits(magnitude) + 0.5;
        return sign | (shifted.to_bits() - 0x3f00_0000) as u16;
    }
    let rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    sign | ((rounded - 0x3800_0000) >> 13) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value by definition.
    fn by_definition(bits: u16) -> f64 {
        let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
        sign * match exponent {
            0 => fraction * 2f64.powi(-24),
            31 if fraction == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
        }
    }

    #[test]
    fn every_f16_is_exact_and_returns() {
        for bits in 0..=u16::MAX {
            let value = f16_to_f32(bits);
            let expected = by_definition(bits);
            if expected.is_nan() {
                assert!(value.is_nan() && f16_to_f32(f32_to_f16(value)).is_nan());
                continue;
            }
            assert_eq!(f64::from(value), expected);
            assert_eq!(value.is_sign_negative(), bits & 0x8000 != 0);
            assert_eq!(f32_to_f16(value), bits);
        }
    }

    #[test]
    fn f16_is_the_nearest() {
        for bits in 0..0x7bff_u16 {
            let (low, high) = (f16_to_f32(bits), f16_to_f32(bits + 1));
            let middle = low + (high - low) / 2.0;
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            assert_eq!(f32_to_f16(middle), even, "{middle}");
            assert_eq!(f32_to_f16(f32::from_bits(middle.to_bits() - 1)), bits);
            assert_eq!(f32_to_f16(-f32::from_bits(middle.to_bits() + 1)), (bits + 1) | 0x8000);
        }
        assert_eq!(f32_to_f16(65519.9), 0x7bff);
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(1e30), 0x7c00);
    }

    #[test]
    fn bf16_is_the_nearest() {
        for bits in (0..0x7f7f_u16).step_by(7) {
            let low = bf16_to_f32(bits).to_bits();
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            assert_eq!(f32_to_bf16(f32::from_bits(low)), bits);
            assert_eq!(f32_to_bf16(f32::from_bits(low + 0x8000)), even);
            assert_eq!(f32_to_bf16(-f32::from_bits(low + 0x7fff)), bits | 0x8000);
            assert_eq!(f32_to_bf16(f32::from_bits(low + 0x8001)), bits + 1);
        }
        assert_eq!(f32_to_bf16(f32::MAX), 0x7f80);
        assert!(bf16_to_f32(f32_to_bf16(f32::from_bits(0x7f80_0001))).is_nan());
    }
}
