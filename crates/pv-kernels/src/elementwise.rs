//! Element-wise kernels.

use rayon::prelude::*;

use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};
use crate::{PARALLEL_ELEMENTS, lanes};

struct AddInPlace<'a> {
    a: &'a mut [f32],
    b: &'a [f32],
}

impl Op for AddInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        lanes::update(
            v,
            self.a,
            [self.b],
            #[inline(always)]
            |a, [b]| v.add(a, b),
        );
    }
}

/// `a += b`, for slices of equal length.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn add_in_place(a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "add_in_place: lengths differ");
    if a.len() < PARALLEL_ELEMENTS || rayon::current_num_threads() == 1 {
        return dispatch(AddInPlace { a, b });
    }
    let chunk = a.len().div_ceil(rayon::current_num_threads() * 4).max(8 * 1024);
    a.par_chunks_mut(chunk).zip(b.par_chunks(chunk)).for_each(|(a, b)| dispatch(AddInPlace { a, b }));
}
