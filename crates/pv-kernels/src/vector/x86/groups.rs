//! Bytes in groups of 32, and their products.

use core::arch::x86_64::*;

use super::Avx2;

/// For each 16 bytes and each group, the mask that copies the two scales of a group to 8 bytes each.
const SPREAD: [[u8; 16]; 8] = {
    let mut masks = [[0; 16]; 8];
    let mut i = 0;
    while i < 128 {
        masks[i / 16][i % 16] = (i / 8) as u8;
        i += 1;
    }
    masks
};

#[inline(always)]
pub(super) fn load16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: SSE2 is part of x86-64, and the reference is to 16 bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

impl Avx2 {
    #[inline(always)]
    pub(in super::super) fn load32(self, bytes: &[u8; 32]) -> __m256i {
        avx2!(_mm256_loadu_si256(bytes.as_ptr().cast()))
    }

    #[inline(always)]
    pub(in super::super) fn low_halves(self, a: __m256i) -> __m256i {
        avx2!(_mm256_and_si256(a, _mm256_set1_epi8(15)))
    }

    /// Bytes shifted to the right; bits of the neighbour come in at the top.
    #[inline(always)]
    pub(in super::super) fn shift(self, a: __m256i, by: usize) -> __m256i {
        avx2!(_mm256_srl_epi16(a, _mm_cvtsi64_si128(by as i64)))
    }

    /// Sums of neighbours.
    #[inline(always)]
    pub(in super::super) fn add_pairs(self, a: __m256i) -> __m256i {
        avx2!(_mm256_madd_epi16(a, _mm256_set1_epi16(1)))
    }

    /// Products of unsigned and signed bytes, neighbours added. The sums must fit 16 bits.
    #[inline(always)]
    pub(in super::super) fn products(self, unsigned: __m256i, signed: __m256i) -> __m256i {
        avx2!(_mm256_maddubs_epi16(unsigned, signed))
    }

    /// [`products`](Self::products) with `w - centre`.
    #[inline(always)]
    pub(in super::super) fn centred(self, w: __m256i, x: __m256i, centre: i8) -> __m256i {
        let shift = self.products(avx2!(_mm256_set1_epi8(centre)), x);
        avx2!(_mm256_sub_epi16(self.products(w, x), shift))
    }

    /// The scales of the two halves of a group, in 16 bits.
    #[inline(always)]
    pub(in super::super) fn spread(self, scales: &[u8; 16], group: usize) -> __m256i {
        avx2!(_mm256_cvtepi8_epi16(_mm_shuffle_epi8(load16(scales), load16(&SPREAD[group]))))
    }

    /// [`spread`](Self::spread) for the two groups of a pair.
    #[inline(always)]
    pub(in super::super) fn spread_pair(self, scales: &[u8; 16], pair: usize) -> [__m256i; 2] {
        [self.spread(scales, 2 * pair), self.spread(scales, 2 * pair + 1)]
    }

    #[inline(always)]
    pub(in super::super) fn widen_bf16(self, bytes: &[u8; 16]) -> __m256 {
        avx2!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load16(bytes)))))
    }

    #[inline(always)]
    pub(in super::super) fn halves_of_group(self, bytes: &[u8; 16]) -> __m256i {
        let bytes = load16(bytes);
        self.low_halves(avx2!(_mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes)))
    }

    #[inline(always)]
    pub(in super::super) fn group_with_bits(self, bytes: __m256i, bits: u32) -> __m256i {
        avx2!({
            // Byte i of the vector is the byte of `bits` with bit i, and then that bit alone.
            let copies = _mm256_shuffle_epi8(
                _mm256_set1_epi32(bits as i32),
                _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303),
            );
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(copies, bit), bit);
            _mm256_or_si256(bytes, _mm256_and_si256(set, _mm256_set1_epi8(16)))
        })
    }

    #[inline(always)]
    pub(in super::super) fn group_with_top<const BITS: usize>(
        self,
        bytes: __m256i,
        top: __m256i,
        shift: usize,
    ) -> __m256i {
        let mask = avx2!(_mm256_set1_epi8(((1 << BITS) - 1) << 4));
        let moved = match shift {
            0 => avx2!(_mm256_slli_epi16::<4>(top)),
            1 => avx2!(_mm256_slli_epi16::<3>(top)),
            2 => avx2!(_mm256_slli_epi16::<2>(top)),
            3 => avx2!(_mm256_slli_epi16::<1>(top)),
            shift => self.shift(top, shift - 4),
        };
        avx2!(_mm256_or_si256(bytes, _mm256_and_si256(moved, mask)))
    }

    #[inline(always)]
    pub(in super::super) fn group_signed(self, w: __m256i, x: __m256i) -> __m256i {
        self.add_pairs(self.products(avx2!(_mm256_abs_epi8(w)), avx2!(_mm256_sign_epi8(x, w))))
    }

    /// See [`columns`](crate::vector::Vector::columns).
    #[inline(always)]
    pub(super) fn columns_of_groups<const M: usize, const FIRST: usize, const TOP: u8>(
        self,
        w: &[[u8; 64]],
        x: &[[[u8; 4]; 8]],
        init: [i32; M],
    ) -> [[__m256i; 2]; M] {
        let mut sums = [[avx2!(_mm256_setzero_si256()); 2]; M];
        for r in 0..M {
            sums[r] = [avx2!(_mm256_set1_epi32(init[r])); 2];
        }
        let steps = w.len();
        let mut from = 0;
        while from < steps {
            // The sums of pairs fit 16 bits for so many steps.
            let to = steps.min(from + pair_steps(TOP));
            let mut pairs = [[avx2!(_mm256_setzero_si256()); 2]; M];
            for s in from..to {
                let halves = w[s].as_chunks::<32>().0;
                let (low, high) = (self.load32(&halves[0]), self.load32(&halves[1]));
                for r in 0..M {
                    let four = avx2!(_mm256_set1_epi32(i32::from_le_bytes(x[s][FIRST + r])));
                    let found = if TOP == 0 {
                        avx2!({
                            let (a, b) = (_mm256_sign_epi8(four, low), _mm256_sign_epi8(four, high));
                            [
                                _mm256_maddubs_epi16(_mm256_abs_epi8(low), a),
                                _mm256_maddubs_epi16(_mm256_abs_epi8(high), b),
                            ]
                        })
                    } else {
                        [self.products(low, four), self.products(high, four)]
                    };
                    avx2!({
                        pairs[r][0] = _mm256_add_epi16(pairs[r][0], found[0]);
                        pairs[r][1] = _mm256_add_epi16(pairs[r][1], found[1]);
                    });
                }
            }
            for r in 0..M {
                avx2!({
                    sums[r][0] = _mm256_add_epi32(sums[r][0], self.add_pairs(pairs[r][0]));
                    sums[r][1] = _mm256_add_epi32(sums[r][1], self.add_pairs(pairs[r][1]));
                });
            }
            from = to;
        }
        sums
    }
}

/// How many sums of two products with weights up to `top`, or with signed weights if that is 0, fit 16 bits.
pub(in super::super) const fn pair_steps(top: u8) -> usize {
    let top = if top == 0 { 128 } else { top as usize };
    i16::MAX as usize / (2 * top * 127)
}
