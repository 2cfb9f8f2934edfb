//! Sums over rows.

use rayon::prelude::*;

use super::{ROWS, total};
use crate::lanes;
use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};

struct ColumnSums<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Op for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for row in self.x.chunks_exact(self.out.len()) {
            lanes::update(
                v,
                self.out,
                [row],
                #[inline(always)]
                |out, [x]| v.add(out, x),
            );
        }
    }
}

/// `out[j]` is the sum of column `j` of `x`, `[m, out.len()]`: the gradient of a bias.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn column_sums(x: &[f32], out: &mut [f32]) {
    let n = out.len();
    assert!(n > 0 && x.len().is_multiple_of(n), "column_sums: x is not [m, n]");
    let part = |x: &[f32]| {
        let mut out = vec![0.0; n];
        dispatch(ColumnSums { x, out: &mut out });
        out
    };
    total(x.par_chunks(ROWS * n).map(part).collect(), out);
}
