//! Vectors of AVX-512. Weights are unpacked with the instructions of AVX2.
#![allow(unsafe_code, reason = "instructions that not every processor has")]

use core::arch::x86_64::*;

use super::level::Op;
use super::x86::Avx2;
use super::{Vector, pairs_mul_add};

/// A proof that the processor has AVX2, FMA, F16C, and AVX-512 F, BW, DQ and VL, and VNNI or BF16 if so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512<const VNNI: bool, const BF16: bool = false>(Avx2);

/// Calls instructions of AVX-512 F, BW, DQ and VL.
macro_rules! avx512 {
    ($body:expr) => {
        // SAFETY: `Avx512`, which the caller has, proves that the processor has these features. Memory is accessed through
        // references to arrays of the size of the access.
        unsafe { $body }
    };
}

/// Of two groups of four 128-bit parts, the lanes of the first parts by turns, and the lanes of the second parts.
const FIRST_PARTS: [i32; 16] = [0, 8, 1, 9, 2, 10, 3, 11, 0, 0, 0, 0, 0, 0, 0, 0];
const SECOND_PARTS: [i32; 16] = [4, 12, 5, 13, 6, 14, 7, 15, 0, 0, 0, 0, 0, 0, 0, 0];

impl<const VNNI: bool, const BF16: bool> Avx512<VNNI, BF16> {
    #[inline]
    pub(crate) fn new() -> Option<Self> {
        let avx2 = Avx2::new()?;
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && (!VNNI || is_x86_feature_detected!("avx512vnni"))
            && (!BF16 || is_x86_feature_detected!("avx512bf16"));
        all.then_some(Self(avx2))
    }

    /// The same without VNNI and BF16.
    pub(super) fn plain(self) -> Avx512<false> {
        Avx512(self.0)
    }

    /// The same without BF16.
    pub(super) fn integers(self) -> Avx512<VNNI> {
        Avx512(self.0)
    }

    /// The same without VNNI.
    pub(super) fn pairs(self) -> Avx512<false, BF16> {
        Avx512(self.0)
    }

    pub(super) fn avx2(self) -> Avx2 {
        self.0
    }

    /// Runs `op` in a function that is compiled for these instructions.
    pub(super) fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
        fn inner<O: Op>(op: O, v: Avx512<false>) -> O::Output {
            op.run(v)
        }
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn with_vnni<O: Op>(op: O, v: Avx512<true>) -> O::Output {
            op.run(v)
        }
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
        fn with_bf16<O: Op>(op: O, v: Avx512<false, true>) -> O::Output {
            op.run(v)
        }
        // SAFETY: `self` proves that the processor has these features.
        unsafe {
            if BF16 {
                with_bf16(op, Avx512(self.0))
            } else if VNNI {
                with_vnni(op, Avx512(self.0))
            } else {
                inner(op, Avx512(self.0))
            }
        }
    }

    #[inline(always)]
    fn join(self, [low, high]: [__m256i; 2]) -> __m512i {
        avx512!(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
    }

    /// The mask of the first `count` of 16 lanes.
    #[inline(always)]
    fn first(self, count: usize) -> __mmask16 {
        assert!(count <= 16, "at most 16 lanes");
        ((1_u32 << count) - 1) as __mmask16
    }

    /// The halves of a vector.
    #[inline(always)]
    fn split(self, a: __m512) -> [__m256; 2] {
        avx512!([_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a)])
    }

    #[inline(always)]
    fn split_bytes(self, a: __m512i) -> [__m256i; 2] {
        avx512!([_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64::<1>(a)])
    }

    /// Products of unsigned and signed bytes, neighbours added. The sums must fit 16 bits.
    #[inline(always)]
    fn products(self, unsigned: __m512i, signed: __m512i) -> __m512i {
        avx512!(_mm512_maddubs_epi16(unsigned, signed))
    }

    #[inline(always)]
    fn centred(self, w: __m512i, x: __m512i, centre: i8) -> __m512i {
        let shift = self.products(avx512!(_mm512_set1_epi8(centre)), x);
        avx512!(_mm512_sub_epi16(self.products(w, x), shift))
    }

    /// Signed bytes plus 128.
    #[inline(always)]
    fn unsigned(self, signed: __m512i) -> __m512i {
        avx512!(_mm512_xor_si512(signed, _mm512_set1_epi8(-128)))
    }

    /// Sums of four products of unsigned and signed bytes.
    #[inline(always)]
    fn dot(self, unsigned: __m512i, signed: __m512i) -> __m512i {
        if VNNI {
            avx512!(_mm512_dpbusd_epi32(_mm512_setzero_si512(), unsigned, signed))
        } else {
            avx512!(_mm512_madd_epi16(self.products(unsigned, signed), _mm512_set1_epi16(1)))
        }
    }
}

impl<const VNNI: bool, const BF16: bool> Vector for Avx512<VNNI, BF16> {
    const PARTS: usize = 1;
    const MANY_REGISTERS: bool = true;
    const SIGNED_OFFSET: i32 = if VNNI { 128 } else { 0 };

    type Floats = __m512;
    type Part = __m512;
    type Eight = __m256;
    type Sums = __m512i;
    type Bytes = __m512i;

    #[inline(always)]
    fn call<O: Op>(self, op: O) -> O::Output {
        self.run(op)
    }

    #[inline(always)]
    fn zero(self) -> __m512 {
        avx512!(_mm512_setzero_ps())
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> __m512 {
        avx512!(_mm512_loadu_ps(values.as_ptr()))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        avx512!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load_f16(self, bits: &[u16; 16]) -> __m512 {
        self.part_f16(bytemuck::cast_ref(bits), 0)
    }

    #[inline(always)]
    fn load_part(self, values: &[f32]) -> __m512 {
        // SAFETY: `self` proves that the processor has AVX-512 F. Only the elements of `values` are read.
        unsafe { _mm512_maskz_loadu_ps(self.first(values.len()), values.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, a: __m512, out: &mut [f32; 16]) {
        avx512!(_mm512_storeu_ps(out.as_mut_ptr(), a));
    }

    #[inline(always)]
    fn store_part(self, a: __m512, out: &mut [f32]) {
        // SAFETY: `self` proves that the processor has AVX-512 F. Only the elements of `out` are written.
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), self.first(out.len()), a) }
    }

    #[inline(always)]
    fn part(self, values: &[f32; 16], _: usize) -> __m512 {
        self.load(values)
    }

    #[inline(always)]
    fn part_splat(self, value: f32) -> __m512 {
        self.splat(value)
    }

    #[inline(always)]
    fn part_f32(self, bytes: &[u8; 64], _: usize) -> __m512 {
        avx512!(_mm512_castsi512_ps(_mm512_loadu_si512(bytes.as_ptr().cast())))
    }

    #[inline(always)]
    fn part_bf16(self, bytes: &[u8; 32], _: usize) -> __m512 {
        avx512!({
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        })
    }

    #[inline(always)]
    fn part_f16(self, bytes: &[u8; 32], _: usize) -> __m512 {
        avx512!(_mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())))
    }

    #[inline(always)]
    fn part_of(self, a: __m512, _: usize) -> __m512 {
        a
    }

    #[inline(always)]
    fn set_part(self, a: &mut __m512, _: usize, values: __m512) {
        *a = values;
    }

    #[inline(always)]
    fn part_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        self.mul_add(a, b, c)
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        avx512!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn pairs_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        if !BF16 {
            return pairs_mul_add(self, a, b, c);
        }
        // SAFETY: `self` proves that the processor has AVX-512 BF16. The types are those of the same 64 bytes.
        unsafe {
            _mm512_dpbf16_ps(
                c,
                core::mem::transmute::<__m512, __m512bh>(a),
                core::mem::transmute::<__m512, __m512bh>(b),
            )
        }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn power_of_two(self, a: __m512) -> __m512 {
        avx512!({
            let bits = _mm512_slli_epi32::<23>(_mm512_castps_si512(a));
            _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(0x3f80_0000)))
        })
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        self.0.sum(self.split(a))
    }

    #[inline(always)]
    fn sums_of_four(self, a: [__m512; 4]) -> [f32; 4] {
        let [a, b, c, d] = a;
        self.0.sums_of_four([self.split(a), self.split(b), self.split(c), self.split(d)])
    }

    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        self.0.largest(self.split(a))
    }

    #[inline(always)]
    fn eight_zero(self) -> __m256 {
        self.0.eight_zero()
    }

    #[inline(always)]
    fn eight_load(self, values: &[f32; 8]) -> __m256 {
        self.0.eight_load(values)
    }

    #[inline(always)]
    fn eight_store(self, a: __m256, out: &mut [f32; 8]) {
        self.0.eight_store(a, out);
    }

    #[inline(always)]
    fn eight_transpose(self, rows: [__m256; 8]) -> [__m256; 8] {
        self.0.eight_transpose(rows)
    }

    #[inline(always)]
    fn eight_from_f16(self, bits: [u16; 8]) -> __m256 {
        self.0.eight_from_f16(bits)
    }

    #[inline(always)]
    fn eight_from_u8(self, bytes: u64) -> __m256 {
        self.0.eight_from_u8(bytes)
    }

    #[inline(always)]
    fn eight_splat_f16(self, bits: u16) -> __m256 {
        self.0.eight_splat_f16(bits)
    }

    #[inline(always)]
    fn eight_mul(self, a: __m256, b: __m256) -> __m256 {
        self.0.eight_mul(a, b)
    }

    #[inline(always)]
    fn eight_mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        self.0.eight_mul_add(a, b, c)
    }

    #[inline(always)]
    fn eight_sum(self, a: __m256) -> f32 {
        self.0.eight_sum(a)
    }

    #[inline(always)]
    fn eight_from_i32(self, values: &[i32; 8]) -> __m256 {
        self.0.eight_from_i32(values)
    }

    #[inline(always)]
    fn sums_zero(self) -> __m512i {
        avx512!(_mm512_setzero_si512())
    }

    #[inline(always)]
    fn sums_to_floats(self, a: __m512i) -> __m512 {
        avx512!(_mm512_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn group_sums(self, [a, b, c, d]: [__m512i; 4]) -> __m256 {
        avx512!({
            let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            let all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
            let first = _mm512_permutexvar_epi32(_mm512_loadu_si512(FIRST_PARTS.as_ptr().cast()), all);
            let second = _mm512_permutexvar_epi32(_mm512_loadu_si512(SECOND_PARTS.as_ptr().cast()), all);
            _mm256_cvtepi32_ps(_mm512_castsi512_si256(_mm512_add_epi32(first, second)))
        })
    }

    #[inline(always)]
    fn groups(self, a: &[u8; 32], b: &[u8; 32]) -> __m512i {
        self.join(self.0.groups(a, b))
    }

    #[inline(always)]
    fn store_bytes(self, bytes: __m512i, out: &mut [u8; 64]) {
        avx512!(_mm512_storeu_si512(out.as_mut_ptr().cast(), bytes));
    }

    #[inline(always)]
    fn floats_of(self, bytes: __m512i, part: usize) -> __m512 {
        avx512!({
            let sixteen = match part {
                0 => _mm512_castsi512_si128(bytes),
                1 => _mm512_extracti32x4_epi32::<1>(bytes),
                2 => _mm512_extracti32x4_epi32::<2>(bytes),
                _ => _mm512_extracti32x4_epi32::<3>(bytes),
            };
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen))
        })
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; 32]) -> __m512i {
        self.join(self.0.halves(bytes))
    }

    #[inline(always)]
    fn halves_within(self, a: &[u8; 16], b: &[u8; 16]) -> __m512i {
        self.join(self.0.halves_within(a, b))
    }

    #[inline(always)]
    fn looked_up(self, indices: __m512i, table: &[u8; 16]) -> __m512i {
        self.join(self.0.looked_up(self.split_bytes(indices), table))
    }

    #[inline(always)]
    fn half_of(self, bytes: &[u8; 64], high: bool) -> __m512i {
        self.join(self.0.half_of(bytes, high))
    }

    #[inline(always)]
    fn with_bits(self, bytes: __m512i, a: u32, b: u32) -> __m512i {
        self.join(self.0.with_bits(self.split_bytes(bytes), a, b))
    }

    #[inline(always)]
    fn with_top<const BITS: usize>(self, bytes: __m512i, top: &[u8; 32], shift: usize) -> __m512i {
        self.join(self.0.with_top::<BITS>(self.split_bytes(bytes), top, shift))
    }

    #[inline(always)]
    fn dot_signed(self, w: __m512i, x: __m512i) -> __m512i {
        if VNNI {
            return self.dot(self.unsigned(w), x);
        }
        avx512!({
            let negative = _mm512_movepi8_mask(w);
            let signed = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
            self.dot(_mm512_abs_epi8(w), signed)
        })
    }

    #[inline(always)]
    fn dot_unsigned(self, w: __m512i, x: __m512i) -> __m512i {
        self.dot(w, x)
    }

    #[inline(always)]
    fn dot_scaled(self, w: __m512i, x: __m512i, scales: &[u8; 16], pair: usize) -> __m512i {
        let scales = self.join(self.0.spread_pair(scales, pair));
        avx512!(_mm512_madd_epi16(self.centred(w, x, 32), scales))
    }

    #[inline(always)]
    fn columns<const M: usize, const FIRST: usize, const TOP: u8>(
        self,
        w: &[[u8; 64]],
        x: &[[[u8; 4]; 8]],
        init: [i32; M],
    ) -> [__m512i; M] {
        let mut sums = [avx512!(_mm512_setzero_si512()); M];
        for r in 0..M {
            sums[r] = avx512!(_mm512_set1_epi32(init[r]));
        }
        for (w, x) in w.iter().zip(x) {
            let w = avx512!(_mm512_loadu_si512(w.as_ptr().cast()));
            let w = if VNNI && TOP == 0 { self.unsigned(w) } else { w };
            for r in 0..M {
                let four = avx512!(_mm512_set1_epi32(i32::from_le_bytes(x[FIRST + r])));
                sums[r] = if VNNI {
                    avx512!(_mm512_dpbusd_epi32(sums[r], w, four))
                } else if TOP == 0 {
                    avx512!(_mm512_add_epi32(sums[r], self.dot_signed(w, four)))
                } else {
                    avx512!(_mm512_add_epi32(sums[r], self.dot(w, four)))
                };
            }
        }
        sums
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], at: usize) {
        self.0.prefetch(bytes, at);
    }
}
