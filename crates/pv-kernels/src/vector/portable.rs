//! Vectors in plain Rust.

use super::Vector;
use super::level::{Level, Op};
use crate::half::{bf16_to_f32, f16_to_f32};

/// Arrays, for any processor.
///
/// On x86, where few processors need it and a product is a call of the standard library for each lane, its longer methods are
/// functions of their own, which makes the crate's code smaller by a tenth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Portable;

type Bytes = [[u8; 32]; 2];

#[inline(always)]
fn two<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]])
}

/// Sums over 4 neighbours of products with `x`.
#[inline(always)]
fn dot(x: Bytes, w: impl Fn(usize, usize) -> i32) -> [i32; 16] {
    let mut sums = [0; 16];
    for (group, x) in x.iter().enumerate() {
        for (i, &x) in x.iter().enumerate() {
            sums[group * 8 + i / 4] += w(group, i) * i32::from(x as i8);
        }
    }
    sums
}

impl Vector for Portable {
    const PARTS: usize = 1;
    const MANY_REGISTERS: bool = false;
    const SIGNED_OFFSET: i32 = 0;

    type Floats = [f32; 16];
    type Part = [f32; 16];
    type Eight = [f32; 8];
    type Sums = [i32; 16];
    type Bytes = Bytes;

    #[inline]
    fn call<O: Op>(self, op: O) -> O::Output {
        Level::Portable.run(op)
    }

    #[inline(always)]
    fn zero(self) -> [f32; 16] {
        [0.0; 16]
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; 16] {
        [value; 16]
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> [f32; 16] {
        *values
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn load_f16(self, bits: &[u16; 16]) -> [f32; 16] {
        bits.map(f16_to_f32)
    }

    #[inline(always)]
    fn load_part(self, values: &[f32]) -> [f32; 16] {
        let mut all = [0.0; 16];
        all[..values.len()].copy_from_slice(values);
        all
    }

    #[inline(always)]
    fn store(self, a: [f32; 16], out: &mut [f32; 16]) {
        *out = a;
    }

    #[inline(always)]
    fn store_part(self, a: [f32; 16], out: &mut [f32]) {
        out.copy_from_slice(&a[..out.len()]);
    }

    #[inline(always)]
    fn part(self, values: &[f32; 16], _: usize) -> [f32; 16] {
        *values
    }

    #[inline(always)]
    fn part_splat(self, value: f32) -> [f32; 16] {
        [value; 16]
    }

    #[inline(always)]
    fn part_f32(self, bytes: &[u8; 64], _: usize) -> [f32; 16] {
        let values = bytes.as_chunks::<4>().0;
        core::array::from_fn(|i| f32::from_le_bytes(values[i]))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn part_bf16(self, bytes: &[u8; 32], _: usize) -> [f32; 16] {
        core::array::from_fn(|i| bf16_to_f32(two(bytes, i)))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn part_f16(self, bytes: &[u8; 32], _: usize) -> [f32; 16] {
        core::array::from_fn(|i| f16_to_f32(two(bytes, i)))
    }

    #[inline(always)]
    fn part_of(self, a: [f32; 16], _: usize) -> [f32; 16] {
        a
    }

    #[inline(always)]
    fn set_part(self, a: &mut [f32; 16], _: usize, values: [f32; 16]) {
        *a = values;
    }

    #[inline(always)]
    fn part_mul_add(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        self.mul_add(a, b, c)
    }

    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        core::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        core::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        core::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        core::array::from_fn(|i| a[i] / b[i])
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn mul_add(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        core::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        core::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        core::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn power_of_two(self, a: [f32; 16]) -> [f32; 16] {
        a.map(|a| f32::from_bits((a.to_bits() << 23).wrapping_add(0x3f80_0000)))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn sum(self, a: [f32; 16]) -> f32 {
        self.eight_sum(core::array::from_fn(|i| a[i] + a[i + 8]))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn sums_of_four(self, a: [[f32; 16]; 4]) -> [f32; 4] {
        a.map(|a| self.sum(a))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn largest(self, mut a: [f32; 16]) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] = if a[i] > a[i + half] { a[i] } else { a[i + half] };
            }
        }
        a[0]
    }

    #[inline(always)]
    fn eight_zero(self) -> [f32; 8] {
        [0.0; 8]
    }

    #[inline(always)]
    fn eight_load(self, values: &[f32; 8]) -> [f32; 8] {
        *values
    }

    #[inline(always)]
    fn eight_store(self, a: [f32; 8], out: &mut [f32; 8]) {
        *out = a;
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn eight_transpose(self, rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
        core::array::from_fn(|i| rows.map(|row| row[i]))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn eight_from_f16(self, bits: [u16; 8]) -> [f32; 8] {
        bits.map(f16_to_f32)
    }

    #[inline(always)]
    fn eight_from_u8(self, bytes: u64) -> [f32; 8] {
        bytes.to_le_bytes().map(f32::from)
    }

    #[inline(always)]
    fn eight_splat_f16(self, bits: u16) -> [f32; 8] {
        [f16_to_f32(bits); 8]
    }

    #[inline(always)]
    fn eight_mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        core::array::from_fn(|i| a[i] * b[i])
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn eight_mul_add(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        core::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn eight_sum(self, a: [f32; 8]) -> f32 {
        let four: [f32; 4] = core::array::from_fn(|i| a[i] + a[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }

    #[inline(always)]
    fn eight_from_i32(self, values: &[i32; 8]) -> [f32; 8] {
        values.map(|value| value as f32)
    }

    #[inline(always)]
    fn sums_zero(self) -> [i32; 16] {
        [0; 16]
    }

    #[inline(always)]
    fn sums_to_floats(self, a: [i32; 16]) -> [f32; 16] {
        a.map(|a| a as f32)
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn group_sums(self, a: [[i32; 16]; 4]) -> [f32; 8] {
        core::array::from_fn(|i| a[i / 2][i % 2 * 8..][..8].iter().sum::<i32>() as f32)
    }

    #[inline(always)]
    fn groups(self, a: &[u8; 32], b: &[u8; 32]) -> Bytes {
        [*a, *b]
    }

    #[inline(always)]
    fn store_bytes(self, bytes: Bytes, out: &mut [u8; 64]) {
        out.as_chunks_mut().0.copy_from_slice(&bytes);
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn floats_of(self, bytes: Bytes, part: usize) -> [f32; 16] {
        core::array::from_fn(|i| f32::from(bytes[part / 2][part % 2 * 16 + i] as i8))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn halves(self, bytes: &[u8; 32]) -> Bytes {
        [bytes.map(|b| b & 15), bytes.map(|b| b >> 4)]
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn halves_within(self, a: &[u8; 16], b: &[u8; 16]) -> Bytes {
        [a, b].map(|bytes| core::array::from_fn(|i| bytes[i % 16] >> (i / 16 * 4) & 15))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn looked_up(self, indices: Bytes, table: &[u8; 16]) -> Bytes {
        indices.map(|group| group.map(|index| table[usize::from(index & 15)]))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn half_of(self, bytes: &[u8; 64], high: bool) -> Bytes {
        let shift = if high { 4 } else { 0 };
        core::array::from_fn(|group| core::array::from_fn(|i| bytes[group * 32 + i] >> shift & 15))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn with_bits(self, bytes: Bytes, a: u32, b: u32) -> Bytes {
        let bits = [a, b];
        core::array::from_fn(|g| core::array::from_fn(|i| bytes[g][i] | ((bits[g] >> i & 1) as u8) << 4))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn with_top<const BITS: usize>(self, bytes: Bytes, top: &[u8; 32], shift: usize) -> Bytes {
        let mask = (1 << BITS) - 1;
        core::array::from_fn(|g| core::array::from_fn(|i| bytes[g][i] | (top[i] >> (shift + g * BITS) & mask) << 4))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn dot_signed(self, w: Bytes, x: Bytes) -> [i32; 16] {
        dot(x, |g, i| i32::from(w[g][i] as i8))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn dot_unsigned(self, w: Bytes, x: Bytes) -> [i32; 16] {
        dot(x, |g, i| i32::from(w[g][i]))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn dot_scaled(self, w: Bytes, x: Bytes, scales: &[u8; 16], pair: usize) -> [i32; 16] {
        dot(x, |g, i| (i32::from(w[g][i]) - 32) * i32::from(scales[4 * pair + 2 * g + i / 16] as i8))
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn columns<const M: usize, const FIRST: usize, const TOP: u8>(
        self,
        w: &[[u8; 64]],
        x: &[[[u8; 4]; 8]],
        init: [i32; M],
    ) -> [[i32; 16]; M] {
        let mut sums = init.map(|init| [init; 16]);
        for (w, x) in w.iter().zip(x) {
            for (sums, x) in sums.iter_mut().zip(&x[FIRST..]) {
                for (sum, w) in sums.iter_mut().zip(w.as_chunks::<4>().0) {
                    for (&w, &x) in w.iter().zip(x) {
                        let w = if TOP == 0 { i32::from(w as i8) } else { i32::from(w) };
                        *sum += w * i32::from(x as i8);
                    }
                }
            }
        }
        sums
    }
}
