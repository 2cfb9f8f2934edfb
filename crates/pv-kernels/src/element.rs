//! The types in which keys and values are cached: `f32`, and f16 as its bits in a `u16`. Widening is exact, so that a kernel
//! gives the bits of the same values in `f32`.

use crate::half::f16_to_f32;
use crate::vector::Vector;

/// An element that kernels read in place and widen in registers.
pub(crate) trait Element: bytemuck::Pod + Send + Sync {
    fn widened(self) -> f32;
    fn load<V: Vector>(v: V, values: &[Self; 16]) -> V::Floats;
    fn part<V: Vector>(v: V, values: &[Self; 16], part: usize) -> V::Part;
    fn eight<V: Vector>(v: V, values: &[Self; 8]) -> V::Eight;
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
