//! The types of elements: `f32`; f16 as its bits in a `u16`, which is widened exactly, so that a kernel gives the bits of the
//! same values in `f32`; and pairs in bf16.

use crate::half::f16_to_f32;
use crate::vector::Vector;

/// An element that kernels read in place and widen in registers.
pub(crate) trait Element: bytemuck::Pod + Send + Sync {
    /// Whether an element is two values, both here and in the other factor of a product.
    const PAIRS: bool = false;

    fn widened(self) -> f32;
    fn load<V: Vector>(v: V, values: &[Self; 16]) -> V::Floats;
    fn part<V: Vector>(v: V, values: &[Self; 16], part: usize) -> V::Part;
    fn eight<V: Vector>(v: V, values: &[Self; 8]) -> V::Eight;

    /// `a * b + c`, with a loaded `b`.
    #[inline(always)]
    fn mul_add<V: Vector>(v: V, a: V::Floats, b: V::Floats, c: V::Floats) -> V::Floats {
        v.mul_add(a, b, c)
    }
}

/// The bytes of two values in bf16, which are not widened: they move as the bits of an `f32`.
pub(crate) type Pair = [u8; 4];

impl Element for Pair {
    const PAIRS: bool = true;

    #[inline(always)]
    fn widened(self) -> f32 {
        f32::from_le_bytes(self)
    }

    #[inline(always)]
    fn load<V: Vector>(v: V, values: &[Self; 16]) -> V::Floats {
        v.load(&values.map(f32::from_le_bytes))
    }

    #[inline(always)]
    fn part<V: Vector>(v: V, values: &[Self; 16], part: usize) -> V::Part {
        v.part_f32(values.as_flattened().first_chunk().expect("64 bytes"), part)
    }

    #[inline(always)]
    fn eight<V: Vector>(v: V, values: &[Self; 8]) -> V::Eight {
        v.eight_load(&values.map(f32::from_le_bytes))
    }

    #[inline(always)]
    fn mul_add<V: Vector>(v: V, a: V::Floats, b: V::Floats, c: V::Floats) -> V::Floats {
        v.pairs_mul_add(a, b, c)
    }
}

impl Element for f32 {
    #[inline(always)]
    fn widened(self) -> f32 {
        self
    }

    #[inline(always)]
    fn load<V: Vector>(v: V, values: &[f32; 16]) -> V::Floats {
        v.load(values)
    }

    #[inline(always)]
    fn part<V: Vector>(v: V, values: &[f32; 16], part: usize) -> V::Part {
        v.part(values, part)
    }

    #[inline(always)]
    fn eight<V: Vector>(v: V, values: &[f32; 8]) -> V::Eight {
        v.eight_load(values)
    }
}

impl Element for u16 {
    #[inline(always)]
    fn widened(self) -> f32 {
        f16_to_f32(self)
    }

    #[inline(always)]
    fn load<V: Vector>(v: V, values: &[u16; 16]) -> V::Floats {
        v.load_f16(values)
    }

    #[inline(always)]
    fn part<V: Vector>(v: V, values: &[u16; 16], part: usize) -> V::Part {
        v.part_f16(bytemuck::cast_ref(values), part)
    }

    #[inline(always)]
    fn eight<V: Vector>(v: V, values: &[u16; 8]) -> V::Eight {
        v.eight_from_f16(*values)
    }
}
