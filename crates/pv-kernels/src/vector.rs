//! What the kernels need of an instruction set.
//!
//! Sums have 16 lanes on every processor: one register of AVX-512, two of AVX2, four of NEON. Every product is added with
//! one rounding, integers are summed exactly, and lanes are added in one order, so that a result is the same to the bit
//! everywhere.

pub(crate) mod level;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_512;

use level::Op;

/// [`Vector::pairs_mul_add`] without an instruction for it.
#[inline(always)]
fn pairs_mul_add<V: Vector>(v: V, a: V::Floats, b: V::Floats, c: V::Floats) -> V::Floats {
    let (mut x, mut y) = ([0.0; 16], [0.0; 16]);
    v.store(a, &mut x);
    v.store(b, &mut y);
    let mut sum = c;
    for (shift, mask) in [(0, 0xffff_0000), (16, u32::MAX)] {
        let (mut first, mut second) = (x, y);
        for value in first.iter_mut().chain(&mut second) {
            *value = f32::from_bits(value.to_bits() << shift & mask);
        }
        sum = v.mul_add(v.load(&first), v.load(&second), sum);
    }
    sum
}

/// 16 lanes of `f32`, and 8-bit integers in two groups of 32. A value is a proof that the processor has the instructions.
///
/// Except for the bits of a NaN, every method gives the same bits on every processor.
pub(crate) trait Vector: Copy + Send + Sync {
    /// The registers of [`Self::Floats`], if there are 16 of them; 1 otherwise.
    const PARTS: usize;
    /// Whether there are registers for 32 [`Self::Floats`]; otherwise there are for 8, or fewer.
    const MANY_REGISTERS: bool;
    /// What products of signed weights have added to each weight.
    const SIGNED_OFFSET: i32;

    /// 16 values.
    type Floats: Copy;
    /// One of the [`PARTS`](Self::PARTS) of 16 values.
    type Part: Copy;
    /// 8 values.
    type Eight: Copy;
    /// 16 sums of integers.
    type Sums: Copy;
    /// Two groups of 32 bytes.
    type Bytes: Copy;

    /// Runs `op` in a function of its own, so that an operation that others use is compiled once.
    fn call<O: Op>(self, op: O) -> O::Output;

    fn zero(self) -> Self::Floats;
    fn splat(self, value: f32) -> Self::Floats;
    fn load(self, values: &[f32; 16]) -> Self::Floats;
    /// Values of f16.
    fn load_f16(self, bits: &[u16; 16]) -> Self::Floats;
    /// At most 16 values, and zeros.
    fn load_part(self, values: &[f32]) -> Self::Floats;
    fn store(self, a: Self::Floats, out: &mut [f32; 16]);
    /// The first lanes, at most 16.
    fn store_part(self, a: Self::Floats, out: &mut [f32]);
    fn part(self, values: &[f32; 16], part: usize) -> Self::Part;
    fn part_splat(self, value: f32) -> Self::Part;
    fn part_f32(self, bytes: &[u8; 64], part: usize) -> Self::Part;
    fn part_bf16(self, bytes: &[u8; 32], part: usize) -> Self::Part;
    fn part_f16(self, bytes: &[u8; 32], part: usize) -> Self::Part;
    fn part_of(self, a: Self::Floats, part: usize) -> Self::Part;
    fn set_part(self, a: &mut Self::Floats, part: usize, values: Self::Part);
    /// `a * b + c` with one rounding.
    fn part_mul_add(self, a: Self::Part, b: Self::Part, c: Self::Part) -> Self::Part;
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c` with one rounding.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `c`, to which the product of the second values of `a` and `b` is added and then that of the first, each with one
    /// rounding: the bits of a lane of `a` and `b` are two values in bf16. A sum or a value below 2^-126 may count as zero.
    fn pairs_mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        pairs_mul_add(self, a, b, c)
    }
    /// `a` if `a > b`, else `b`: a NaN in `b` stays.
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a` if `a < b`, else `b`: a NaN in `b` stays.
    fn min(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `2^n` for the integer `n` in the low bits of `a`.
    fn power_of_two(self, a: Self::Floats) -> Self::Floats;
    /// Lanes `l` and `l + 8` are added, then `l` and `l + 4`, `l` and `l + 2`, and the last two.
    fn sum(self, a: Self::Floats) -> f32;
    /// [`sum`](Self::sum) of each.
    fn sums_of_four(self, a: [Self::Floats; 4]) -> [f32; 4];
    /// [`max`](Self::max) of all lanes, in the order of [`sum`](Self::sum).
    fn largest(self, a: Self::Floats) -> f32;

    fn eight_zero(self) -> Self::Eight;
    fn eight_load(self, values: &[f32; 8]) -> Self::Eight;
    fn eight_store(self, a: Self::Eight, out: &mut [f32; 8]);
    /// Lane `i` of row `j` becomes lane `j` of row `i`.
    fn eight_transpose(self, rows: [Self::Eight; 8]) -> [Self::Eight; 8];
    fn eight_from_f16(self, bits: [u16; 8]) -> Self::Eight;
    /// The bytes of an integer, lowest first.
    fn eight_from_u8(self, bytes: u64) -> Self::Eight;
    fn eight_splat_f16(self, bits: u16) -> Self::Eight;
    fn eight_mul(self, a: Self::Eight, b: Self::Eight) -> Self::Eight;
    /// `a * b + c` with one rounding.
    fn eight_mul_add(self, a: Self::Eight, b: Self::Eight, c: Self::Eight) -> Self::Eight;
    /// Lanes `l` and `l + 4` are added, then `l` and `l + 2`, and the last two.
    fn eight_sum(self, a: Self::Eight) -> f32;

    fn eight_from_i32(self, values: &[i32; 8]) -> Self::Eight;

    fn sums_zero(self) -> Self::Sums;
    fn sums_to_floats(self, a: Self::Sums) -> Self::Floats;
    /// The sums of lanes 0 to 7 and of lanes 8 to 15 of each, which are exact.
    fn group_sums(self, a: [Self::Sums; 4]) -> Self::Eight;

    /// Two groups as they are.
    fn groups(self, a: &[u8; 32], b: &[u8; 32]) -> Self::Bytes;
    fn store_bytes(self, bytes: Self::Bytes, out: &mut [u8; 64]);
    /// The low halves of the bytes, and their high halves.
    fn halves(self, bytes: &[u8; 32]) -> Self::Bytes;
    /// For both groups, the low halves of 16 bytes and then their high halves.
    fn halves_within(self, a: &[u8; 16], b: &[u8; 16]) -> Self::Bytes;
    /// The bytes of a table with these indices, which are below 16.
    fn looked_up(self, indices: Self::Bytes, table: &[u8; 16]) -> Self::Bytes;
    /// The low halves of the bytes or, if `high`, their high halves.
    fn half_of(self, bytes: &[u8; 64], high: bool) -> Self::Bytes;
    /// Bit 4 of byte `i` of a group becomes bit `i` of `a` for the first group, and of `b` for the second.
    fn with_bits(self, bytes: Self::Bytes, a: u32, b: u32) -> Self::Bytes;
    /// The bits from 4 on of byte `i` of a group become those of `top[i]` from `shift` on for the first group and from
    /// `shift + BITS` on for the second, `BITS` of them.
    fn with_top<const BITS: usize>(self, bytes: Self::Bytes, top: &[u8; 32], shift: usize) -> Self::Bytes;

    /// The 16 signed bytes from `16 * part` on.
    fn floats_of(self, bytes: Self::Bytes, part: usize) -> Self::Floats;

    // Each lane of the following products is the exact sum over 4 neighbours; `x` is not -128.

    /// `w + SIGNED_OFFSET`, with `w` signed.
    fn dot_signed(self, w: Self::Bytes, x: Self::Bytes) -> Self::Sums;
    /// `w` is unsigned and at most 63.
    fn dot_unsigned(self, w: Self::Bytes, x: Self::Bytes) -> Self::Sums;
    /// `(w - 32) * scale`, with `w` at most 63, and four neighbouring scales for the quarters of `w`, the first of them
    /// `scales[4 * pair]`.
    fn dot_scaled(self, w: Self::Bytes, x: Self::Bytes, scales: &[u8; 16], pair: usize) -> Self::Sums;

    /// For `M` rows and lane `l`, the exact sum of `init[r]` and, over `s` and `i`, of `w[s][4 * l + i] * x[s][FIRST + r][i]`.
    /// `w` is unsigned and at most `TOP`, which is at most 63; or signed if `TOP` is 0: then `SIGNED_OFFSET` is added to it.
    fn columns<const M: usize, const FIRST: usize, const TOP: u8>(
        self,
        w: &[[u8; 64]],
        x: &[[[u8; 4]; 8]],
        init: [i32; M],
    ) -> [Self::Sums; M];

    /// A hint that the memory around `bytes[at]`, which may be past the end, is read soon.
    #[inline(always)]
    fn prefetch(self, bytes: &[u8], at: usize) {
        let _ = (bytes, at);
    }
}
