//! Vectors of AVX2, with FMA and F16C.
#![allow(unsafe_code, reason = "instructions that not every processor has")]

use core::arch::x86_64::*;

use super::Vector;
use super::level::Op;
use groups::load16;

/// A proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    #[inline]
    pub(crate) fn new() -> Option<Self> {
        let all =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        all.then_some(Self(()))
    }

    /// Runs `op` in a function that is compiled for these instructions.
    pub(super) fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner<O: Op>(op: O, v: Avx2) -> O::Output {
            op.run(v)
        }
        // SAFETY: `self` proves that the processor has these features.
        unsafe { inner(op, self) }
    }
}

/// Calls instructions of AVX2, FMA and F16C.
macro_rules! avx2 {
    ($body:expr) => {
        // SAFETY: `Avx2`, which the caller has, proves that the processor has these features. Memory is accessed through
        // references to arrays of the size of the access.
        unsafe { $body }
    };
}

mod groups;

/// The mask of the first `count` of 16 lanes begins at `16 - count`.
const FIRST: [i32; 32] = {
    let mut mask = [0; 32];
    let mut i = 0;
    while i < 16 {
        mask[i] = -1;
        i += 1;
    }
    mask
};

// No closures: they would not be compiled for these instructions.
impl Avx2 {
    #[inline(always)]
    fn eight_power_of_two(self, a: __m256) -> __m256 {
        avx2!({
            let bits = _mm256_slli_epi32::<23>(_mm256_castps_si256(a));
            _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(0x3f80_0000)))
        })
    }

    /// Lanes `l`, `l + 4`, `l + 8` and `l + 12` are added, in the order of a sum.
    #[inline(always)]
    fn fold(self, a: [__m256; 2]) -> __m128 {
        avx2!({
            let eight = _mm256_add_ps(a[0], a[1]);
            _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight))
        })
    }

    /// Lanes 0 and 2, and lanes 1 and 3, of two vectors side by side.
    #[inline(always)]
    fn sum_pair(self, a: __m128, b: __m128) -> __m128 {
        avx2!(_mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b)))
    }

    /// Transposes the halves of four rows: result `i` has column `i` and column `i + 4`.
    #[inline(always)]
    fn transpose_four(self, [a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
        avx2!({
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            [
                _mm256_shuffle_ps::<0x44>(ab, cd),
                _mm256_shuffle_ps::<0xee>(ab, cd),
                _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
                _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
            ]
        })
    }

    /// Masks of the first `count` of 16 lanes.
    #[inline(always)]
    fn first(self, count: usize) -> [__m256i; 2] {
        let masks: &[i32; 16] = FIRST[16 - count..].first_chunk().expect("at most 16 lanes");
        let halves = masks.as_chunks::<8>().0;
        avx2!([_mm256_loadu_si256(halves[0].as_ptr().cast()), _mm256_loadu_si256(halves[1].as_ptr().cast())])
    }
}

impl Vector for Avx2 {
    const PARTS: usize = 2;
    const MANY_REGISTERS: bool = false;
    const SIGNED_OFFSET: i32 = 0;

    type Floats = [__m256; 2];
    type Part = __m256;
    type Eight = __m256;
    type Sums = [__m256i; 2];
    type Bytes = [__m256i; 2];

    #[inline(always)]
    fn call<O: Op>(self, op: O) -> O::Output {
        self.run(op)
    }

    #[inline(always)]
    fn zero(self) -> [__m256; 2] {
        [self.eight_zero(); 2]
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> [__m256; 2] {
        let halves = values.as_chunks::<8>().0;
        [self.eight_load(&halves[0]), self.eight_load(&halves[1])]
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        [avx2!(_mm256_set1_ps(value)); 2]
    }

    #[inline(always)]
    fn load_f16(self, bits: &[u16; 16]) -> [__m256; 2] {
        let bytes: &[u8; 32] = bytemuck::cast_ref(bits);
        [self.part_f16(bytes, 0), self.part_f16(bytes, 1)]
    }

    #[inline(always)]
    fn load_part(self, values: &[f32]) -> [__m256; 2] {
        let masks = self.first(values.len());
        let from = values.as_ptr();
        // SAFETY: `self` proves that the processor has AVX. Only the elements of `values` are read.
        unsafe { [_mm256_maskload_ps(from, masks[0]), _mm256_maskload_ps(from.wrapping_add(8), masks[1])] }
    }

    #[inline(always)]
    fn store(self, a: [__m256; 2], out: &mut [f32; 16]) {
        let halves = out.as_chunks_mut::<8>().0;
        self.eight_store(a[0], &mut halves[0]);
        self.eight_store(a[1], &mut halves[1]);
    }

    #[inline(always)]
    fn store_part(self, a: [__m256; 2], out: &mut [f32]) {
        let masks = self.first(out.len());
        let to = out.as_mut_ptr();
        // SAFETY: `self` proves that the processor has AVX. Only the elements of `out` are written.
        unsafe {
            _mm256_maskstore_ps(to, masks[0], a[0]);
            _mm256_maskstore_ps(to.wrapping_add(8), masks[1], a[1]);
        }
    }

    #[inline(always)]
    fn part(self, values: &[f32; 16], part: usize) -> __m256 {
        self.eight_load(&values.as_chunks().0[part])
    }

    #[inline(always)]
    fn part_splat(self, value: f32) -> __m256 {
        avx2!(_mm256_set1_ps(value))
    }

    #[inline(always)]
    fn part_f32(self, bytes: &[u8; 64], part: usize) -> __m256 {
        avx2!(_mm256_castsi256_ps(self.load32(&bytes.as_chunks().0[part])))
    }

    #[inline(always)]
    fn part_bf16(self, bytes: &[u8; 32], part: usize) -> __m256 {
        self.widen_bf16(&bytes.as_chunks().0[part])
    }

    #[inline(always)]
    fn part_f16(self, bytes: &[u8; 32], part: usize) -> __m256 {
        avx2!(_mm256_cvtph_ps(load16(&bytes.as_chunks().0[part])))
    }

    #[inline(always)]
    fn part_of(self, a: [__m256; 2], part: usize) -> __m256 {
        a[part]
    }

    #[inline(always)]
    fn set_part(self, a: &mut [__m256; 2], part: usize, values: __m256) {
        a[part] = values;
    }

    #[inline(always)]
    fn part_mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        self.eight_mul_add(a, b, c)
    }

    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        avx2!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        avx2!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        avx2!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        avx2!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        [self.eight_mul_add(a[0], b[0], c[0]), self.eight_mul_add(a[1], b[1], c[1])]
    }

    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        avx2!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn min(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        avx2!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn power_of_two(self, a: [__m256; 2]) -> [__m256; 2] {
        [self.eight_power_of_two(a[0]), self.eight_power_of_two(a[1])]
    }

    #[inline(always)]
    fn sum(self, a: [__m256; 2]) -> f32 {
        self.eight_sum(avx2!(_mm256_add_ps(a[0], a[1])))
    }

    #[inline(always)]
    fn sums_of_four(self, [a, b, c, d]: [[__m256; 2]; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        let low = self.sum_pair(self.fold(a), self.fold(b));
        let high = self.sum_pair(self.fold(c), self.fold(d));
        avx2!({
            let all = _mm_add_ps(_mm_movelh_ps(low, high), _mm_movehl_ps(high, low));
            _mm_storeu_ps(sums.as_mut_ptr(), all);
        });
        sums
    }

    #[inline(always)]
    fn largest(self, a: [__m256; 2]) -> f32 {
        avx2!({
            let eight = _mm256_max_ps(a[0], a[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn eight_zero(self) -> __m256 {
        avx2!(_mm256_setzero_ps())
    }

    #[inline(always)]
    fn eight_load(self, values: &[f32; 8]) -> __m256 {
        avx2!(_mm256_loadu_ps(values.as_ptr()))
    }

    #[inline(always)]
    fn eight_store(self, a: __m256, out: &mut [f32; 8]) {
        avx2!(_mm256_storeu_ps(out.as_mut_ptr(), a));
    }

    #[inline(always)]
    fn eight_transpose(self, [a, b, c, d, e, f, g, h]: [__m256; 8]) -> [__m256; 8] {
        let (top, bottom) = (self.transpose_four([a, b, c, d]), self.transpose_four([e, f, g, h]));
        avx2!([
            _mm256_permute2f128_ps::<0x20>(top[0], bottom[0]),
            _mm256_permute2f128_ps::<0x20>(top[1], bottom[1]),
            _mm256_permute2f128_ps::<0x20>(top[2], bottom[2]),
            _mm256_permute2f128_ps::<0x20>(top[3], bottom[3]),
            _mm256_permute2f128_ps::<0x31>(top[0], bottom[0]),
            _mm256_permute2f128_ps::<0x31>(top[1], bottom[1]),
            _mm256_permute2f128_ps::<0x31>(top[2], bottom[2]),
            _mm256_permute2f128_ps::<0x31>(top[3], bottom[3]),
        ])
    }

    #[inline(always)]
    fn eight_from_f16(self, bits: [u16; 8]) -> __m256 {
        let [a, b, c, d, e, f, g, h] = bits.map(|bits| bits as i16);
        avx2!(_mm256_cvtph_ps(_mm_setr_epi16(a, b, c, d, e, f, g, h)))
    }

    #[inline(always)]
    fn eight_from_u8(self, bytes: u64) -> __m256 {
        avx2!(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes as i64))))
    }

    #[inline(always)]
    fn eight_splat_f16(self, bits: u16) -> __m256 {
        avx2!(_mm256_cvtph_ps(_mm_set1_epi16(bits as i16)))
    }

    #[inline(always)]
    fn eight_mul(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn eight_mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        avx2!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn eight_sum(self, a: __m256) -> f32 {
        avx2!({
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn eight_from_i32(self, values: &[i32; 8]) -> __m256 {
        avx2!(_mm256_cvtepi32_ps(_mm256_loadu_si256(values.as_ptr().cast())))
    }

    #[inline(always)]
    fn sums_zero(self) -> [__m256i; 2] {
        [avx2!(_mm256_setzero_si256()); 2]
    }

    #[inline(always)]
    fn sums_to_floats(self, a: [__m256i; 2]) -> [__m256; 2] {
        avx2!([_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])])
    }

    #[inline(always)]
    fn group_sums(self, [a, b, c, d]: [[__m256i; 2]; 4]) -> __m256 {
        avx2!({
            let low = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(b[0], b[1]));
            let high = _mm256_hadd_epi32(_mm256_hadd_epi32(c[0], c[1]), _mm256_hadd_epi32(d[0], d[1]));
            let first = _mm256_permute2x128_si256::<0x20>(low, high);
            _mm256_cvtepi32_ps(_mm256_add_epi32(first, _mm256_permute2x128_si256::<0x31>(low, high)))
        })
    }

    #[inline(always)]
    fn groups(self, a: &[u8; 32], b: &[u8; 32]) -> [__m256i; 2] {
        [self.load32(a), self.load32(b)]
    }

    #[inline(always)]
    fn store_bytes(self, bytes: [__m256i; 2], out: &mut [u8; 64]) {
        let halves = out.as_chunks_mut::<32>().0;
        avx2!({
            _mm256_storeu_si256(halves[0].as_mut_ptr().cast(), bytes[0]);
            _mm256_storeu_si256(halves[1].as_mut_ptr().cast(), bytes[1]);
        });
    }

    #[inline(always)]
    fn floats_of(self, bytes: [__m256i; 2], part: usize) -> [__m256; 2] {
        let group = bytes[part / 2];
        avx2!({
            let low = match part % 2 {
                0 => _mm256_castsi256_si128(group),
                _ => _mm256_extracti128_si256::<1>(group),
            };
            [low, _mm_srli_si128::<8>(low)].map(|eight| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight)))
        })
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; 32]) -> [__m256i; 2] {
        let bytes = self.load32(bytes);
        [self.low_halves(bytes), self.low_halves(self.shift(bytes, 4))]
    }

    #[inline(always)]
    fn halves_within(self, a: &[u8; 16], b: &[u8; 16]) -> [__m256i; 2] {
        [self.halves_of_group(a), self.halves_of_group(b)]
    }

    #[inline(always)]
    fn looked_up(self, indices: [__m256i; 2], table: &[u8; 16]) -> [__m256i; 2] {
        avx2!({
            let table = _mm256_broadcastsi128_si256(load16(table));
            [_mm256_shuffle_epi8(table, indices[0]), _mm256_shuffle_epi8(table, indices[1])]
        })
    }

    #[inline(always)]
    fn half_of(self, bytes: &[u8; 64], high: bool) -> [__m256i; 2] {
        let halves = bytes.as_chunks::<32>().0;
        let shift = if high { 4 } else { 0 };
        [
            self.low_halves(self.shift(self.load32(&halves[0]), shift)),
            self.low_halves(self.shift(self.load32(&halves[1]), shift)),
        ]
    }

    #[inline(always)]
    fn with_bits(self, bytes: [__m256i; 2], a: u32, b: u32) -> [__m256i; 2] {
        [self.group_with_bits(bytes[0], a), self.group_with_bits(bytes[1], b)]
    }

    #[inline(always)]
    fn with_top<const BITS: usize>(self, bytes: [__m256i; 2], top: &[u8; 32], shift: usize) -> [__m256i; 2] {
        let top = self.load32(top);
        [self.group_with_top::<BITS>(bytes[0], top, shift), self.group_with_top::<BITS>(bytes[1], top, shift + BITS)]
    }

    #[inline(always)]
    fn dot_signed(self, w: [__m256i; 2], x: [__m256i; 2]) -> [__m256i; 2] {
        [self.group_signed(w[0], x[0]), self.group_signed(w[1], x[1])]
    }

    #[inline(always)]
    fn dot_unsigned(self, w: [__m256i; 2], x: [__m256i; 2]) -> [__m256i; 2] {
        [self.add_pairs(self.products(w[0], x[0])), self.add_pairs(self.products(w[1], x[1]))]
    }

    #[inline(always)]
    fn dot_scaled(self, w: [__m256i; 2], x: [__m256i; 2], scales: &[u8; 16], pair: usize) -> [__m256i; 2] {
        let scales = self.spread_pair(scales, pair);
        let (low, high) = (self.centred(w[0], x[0], 32), self.centred(w[1], x[1], 32));
        avx2!([_mm256_madd_epi16(low, scales[0]), _mm256_madd_epi16(high, scales[1])])
    }

    #[inline(always)]
    fn columns<const M: usize, const FIRST: usize, const TOP: u8>(
        self,
        w: &[[u8; 64]],
        x: &[[[u8; 4]; 8]],
        init: [i32; M],
    ) -> [[__m256i; 2]; M] {
        self.columns_of_groups::<M, FIRST, TOP>(w, x, init)
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], at: usize) {
        // SAFETY: a prefetch is a hint. It never faults and reads nothing that the program can see, so that any address is
        // valid; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at).cast()) }
    }
}
