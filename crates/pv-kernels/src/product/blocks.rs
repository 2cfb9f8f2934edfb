//! The block formats, as the products with few rows read them: in chunks of 8 groups of 32.

use crate::kept::{FP4, half_power_of_two};
use crate::vector::Vector;

/// The elements of a group.
pub(crate) const GROUP: usize = 32;

/// The groups of a chunk, which is what a step of the products takes.
pub(crate) const CHUNK: usize = 8;

/// What the products need of a block format. A chunk is `count` blocks of 32 or one block of 256.
pub(crate) trait Blocks {
    /// The bytes of a block.
    const BYTES: usize;
    /// The groups of 32 of a block: 1 or [`CHUNK`].
    const GROUPS: usize;
    /// Whether there is a minimum to add.
    const MINIMA: bool;
    /// What is subtracted from integers.
    const CENTRE: i8;
    /// The largest integer before that; 0 if integers are signed.
    const TOP: u8;
    /// Whether each 16 elements have a factor of the scale, see [`part_scale`](Self::part_scale).
    const PARTS: bool = false;

    /// The scales of the first `count` groups and zeros, and what is to be added to each of their elements.
    fn scales<V: Vector>(v: V, chunk: &[u8], count: usize) -> (V::Eight, V::Eight);

    /// The integers of two groups; without the second group in the chunk, of the first one twice.
    fn integers<V: Vector, const PAIR: usize>(v: V, chunk: &[u8], second: bool) -> V::Bytes;

    /// The factor of the scale of the 16 elements from `16 * part` on, for a format that has one.
    #[inline(always)]
    fn part_scale(chunk: &[u8], part: usize) -> Option<f32> {
        let _ = (chunk, part);
        None
    }

    /// The sums of products with `x` of two groups' [`integers`](Self::integers), to which
    /// [`dot_offset`](Self::dot_offset) was added; with factors of the scale, these are part of the sums.
    #[inline(always)]
    fn dot<V: Vector, const PAIR: usize>(v: V, w: V::Bytes, x: V::Bytes, chunk: &[u8]) -> V::Sums {
        let _ = chunk;
        v.dot_unsigned(w, x)
    }

    #[inline(always)]
    fn dot_offset<V: Vector>() -> i32 {
        i32::from(Self::CENTRE)
    }
}

/// Evaluates an expression with the type of a format in blocks, or another for a format without them.
macro_rules! with_blocks {
    ($format:expr, $blocks:ident => $body:expr, _ => $other:expr) => {{
        use $crate::kept::Format;
        use $crate::product::blocks::{K, Mxfp4, Q6K, Q8_0, Short};
        macro_rules! body {
            ($type:ty) => {{
                type $blocks = $type;
                $body
            }};
        }
        match $format {
            Format::Q8_0 => body!(Q8_0),
            Format::Q4_0 => body!(Short<false, false>),
            Format::Q4_1 => body!(Short<false, true>),
            Format::Q5_0 => body!(Short<true, false>),
            Format::Q5_1 => body!(Short<true, true>),
            Format::Q4K => body!(K<false>),
            Format::Q5K => body!(K<true>),
            Format::Q6K => body!(Q6K),
            Format::Mxfp4 => body!(Mxfp4),
            Format::F32 | Format::Bf16 | Format::F16 => $other,
        }
    }};
}
pub(crate) use with_blocks;

/// `N` bytes from `at` on.
#[inline(always)]
fn take<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("the rest of a block")
}

#[inline(always)]
fn two(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*take(bytes, at))
}

/// The 16-bit values at `at` in the first `count` blocks of a chunk.
#[inline(always)]
fn each<V: Vector>(v: V, chunk: &[u8], block: usize, at: usize, count: usize) -> V::Eight {
    let mut bits = [0; CHUNK];
    for (i, bits) in bits.iter_mut().enumerate().take(count) {
        *bits = two(chunk, i * block + at);
    }
    v.eight_from_f16(bits)
}

/// The offsets of the two blocks of a pair in a chunk.
#[inline(always)]
fn pair<const PAIR: usize>(block: usize, second: bool) -> (usize, usize) {
    let first = 2 * PAIR * block;
    (first, if second { first + block } else { first })
}

pub(crate) struct Q8_0;
/// Q4_0, or Q5_0 with a fifth bit, or Q4_1 and Q5_1 with minima.
pub(crate) struct Short<const FIVE: bool, const MINIMA: bool>;
/// Q4_K, or Q5_K with a fifth bit.
pub(crate) struct K<const FIVE: bool>;
pub(crate) struct Q6K;
pub(crate) struct Mxfp4;

impl Blocks for Q8_0 {
    const BYTES: usize = 34;
    const GROUPS: usize = 1;
    const MINIMA: bool = false;
    const CENTRE: i8 = 0;
    const TOP: u8 = 0;

    #[inline(always)]
    fn scales<V: Vector>(v: V, chunk: &[u8], count: usize) -> (V::Eight, V::Eight) {
        (each(v, chunk, Self::BYTES, 0, count), v.eight_zero())
    }

    #[inline(always)]
    fn integers<V: Vector, const PAIR: usize>(v: V, chunk: &[u8], second: bool) -> V::Bytes {
        let (a, b) = pair::<PAIR>(Self::BYTES, second);
        v.groups(take(chunk, a + 2), take(chunk, b + 2))
    }

    #[inline(always)]
    fn dot<V: Vector, const PAIR: usize>(v: V, w: V::Bytes, x: V::Bytes, _: &[u8]) -> V::Sums {
        v.dot_signed(w, x)
    }

    #[inline(always)]
    fn dot_offset<V: Vector>() -> i32 {
        V::SIGNED_OFFSET
    }
}

impl<const FIVE: bool, const MINIMA: bool> Blocks for Short<FIVE, MINIMA> {
    const BYTES: usize = 18 + if MINIMA { 2 } else { 0 } + if FIVE { 4 } else { 0 };
    const GROUPS: usize = 1;
    const MINIMA: bool = MINIMA;
    const CENTRE: i8 = match (FIVE, MINIMA) {
        (_, true) => 0,
        (false, _) => 8,
        (true, _) => 16,
    };
    const TOP: u8 = if FIVE { 31 } else { 15 };

    #[inline(always)]
    fn scales<V: Vector>(v: V, chunk: &[u8], count: usize) -> (V::Eight, V::Eight) {
        let minima = if MINIMA { each(v, chunk, Self::BYTES, 2, count) } else { v.eight_zero() };
        (each(v, chunk, Self::BYTES, 0, count), minima)
    }

    #[inline(always)]
    fn integers<V: Vector, const PAIR: usize>(v: V, chunk: &[u8], second: bool) -> V::Bytes {
        let (a, b) = pair::<PAIR>(Self::BYTES, second);
        let at = Self::BYTES - 16;
        let w = v.halves_within(take(chunk, a + at), take(chunk, b + at));
        if !FIVE {
            return w;
        }
        let bits = |block: usize| u32::from_le_bytes(*take(chunk, block + at - 4));
        v.with_bits(w, bits(a), bits(b))
    }
}

impl<const FIVE: bool> Blocks for K<FIVE> {
    const BYTES: usize = if FIVE { 176 } else { 144 };
    const GROUPS: usize = CHUNK;
    const MINIMA: bool = true;
    const CENTRE: i8 = 0;
    const TOP: u8 = if FIVE { 31 } else { 15 };

    #[inline(always)]
    fn scales<V: Vector>(v: V, chunk: &[u8], _: usize) -> (V::Eight, V::Eight) {
        // See `scales_and_minima` of `kept/blocks.rs`, of which this takes 4 groups at a time.
        let word = |at| u32::from_le_bytes(*take(chunk, at));
        let (scales, minima, low) = (word(4), word(8), word(12));
        let join = |first: u32, low: u32| {
            let second = low & 0x0f0f_0f0f | first >> 2 & 0x3030_3030;
            u64::from(first & 0x3f3f_3f3f) | u64::from(second) << 32
        };
        // The minima are subtracted.
        let d = v.eight_splat_f16(two(chunk, 0));
        let d_min = v.eight_splat_f16(two(chunk, 2) ^ 0x8000);
        let scales = v.eight_from_u8(join(scales, low));
        let minima = v.eight_from_u8(join(minima, low >> 4));
        (v.eight_mul(scales, d), v.eight_mul(minima, d_min))
    }

    #[inline(always)]
    fn integers<V: Vector, const PAIR: usize>(v: V, chunk: &[u8], _: bool) -> V::Bytes {
        let w = v.halves(take(chunk, Self::BYTES - 128 + 32 * PAIR));
        if FIVE { v.with_top::<1>(w, take(chunk, 16), 2 * PAIR) } else { w }
    }
}

impl Blocks for Q6K {
    const BYTES: usize = 210;
    const GROUPS: usize = CHUNK;
    const MINIMA: bool = false;
    const CENTRE: i8 = 32;
    const TOP: u8 = 63;
    const PARTS: bool = true;

    #[inline(always)]
    fn scales<V: Vector>(v: V, chunk: &[u8], _: usize) -> (V::Eight, V::Eight) {
        (v.eight_splat_f16(two(chunk, 208)), v.eight_zero())
    }

    #[inline(always)]
    fn integers<V: Vector, const PAIR: usize>(v: V, chunk: &[u8], _: bool) -> V::Bytes {
        let half = PAIR / 2;
        let w = v.half_of(take(chunk, 64 * half), PAIR % 2 == 1);
        v.with_top::<2>(w, take(chunk, 128 + 32 * half), PAIR % 2 * 4)
    }

    #[inline(always)]
    fn part_scale(chunk: &[u8], part: usize) -> Option<f32> {
        Some(f32::from(chunk[192 + part] as i8))
    }

    #[inline(always)]
    fn dot<V: Vector, const PAIR: usize>(v: V, w: V::Bytes, x: V::Bytes, chunk: &[u8]) -> V::Sums {
        v.dot_scaled(w, x, take(chunk, 192), PAIR)
    }

    #[inline(always)]
    fn dot_offset<V: Vector>() -> i32 {
        0
    }
}

impl Blocks for Mxfp4 {
    const BYTES: usize = 17;
    const GROUPS: usize = 1;
    const MINIMA: bool = false;
    const CENTRE: i8 = 0;
    const TOP: u8 = 0;

    #[inline(always)]
    fn scales<V: Vector>(v: V, chunk: &[u8], count: usize) -> (V::Eight, V::Eight) {
        let mut scales = [0.0; CHUNK];
        for (i, scale) in scales.iter_mut().enumerate().take(count) {
            *scale = half_power_of_two(chunk[i * Self::BYTES]);
        }
        (v.eight_load(&scales), v.eight_zero())
    }

    #[inline(always)]
    fn integers<V: Vector, const PAIR: usize>(v: V, chunk: &[u8], second: bool) -> V::Bytes {
        let (a, b) = pair::<PAIR>(Self::BYTES, second);
        v.looked_up(v.halves_within(take(chunk, a + 1), take(chunk, b + 1)), &FP4)
    }

    #[inline(always)]
    fn dot<V: Vector, const PAIR: usize>(v: V, w: V::Bytes, x: V::Bytes, _: &[u8]) -> V::Sums {
        v.dot_signed(w, x)
    }

    #[inline(always)]
    fn dot_offset<V: Vector>() -> i32 {
        V::SIGNED_OFFSET
    }
}
