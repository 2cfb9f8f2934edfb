//! Rotary position embedding.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::{rows_per_task, simd};

struct Rotate<'a> {
    heads: &'a mut [f32],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl WithSimd for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let half = self.cos.len();
        let (cos, cos_tail) = S::as_simd_f32s(self.cos);
        let (sin, sin_tail) = S::as_simd_f32s(self.sin);
        for head in self.heads.chunks_exact_mut(self.head_dim) {
            let (low, high) = head.split_at_mut(half);
            let (low, low_tail) = S::as_mut_simd_f32s(low);
            let (high, high_tail) = S::as_mut_simd_f32s(&mut high[..half]);
            for ((a, b), (&c, &n)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
                let (x, y) = (*a, *b);
                *a = s.sub_f32s(s.mul_f32s(x, c), s.mul_f32s(y, n));
                *b = s.add_f32s(s.mul_f32s(y, c), s.mul_f32s(x, n));
            }
            let tails = low_tail.iter_mut().zip(high_tail);
            for ((a, b), (&c, &n)) in tails.zip(cos_tail.iter().zip(sin_tail)) {
                (*a, *b) = (*a * c - *b * n, *b * c + *a * n);
            }
        }
    }
}

/// Rotates `heads` consecutive heads in each row of `buffer`, in place, in the half-split
/// (Hugging Face `rotate_half`) convention: element `i` is paired with element `i + half`.
///
/// `buffer` is `[m, stride]` and the heads of a row are at columns `0..heads * head_dim`: for a
/// fused row of queries, keys and values, `heads` is the sum of the query and key heads. `cos` and
/// `sin` are `[positions, half]`, one value per pair, and row `i` uses the table's row
/// `positions[i]`. `2 * half` may be below `head_dim`: the rest of a head is left as it is.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
#[allow(clippy::too_many_arguments)]
pub fn rope_in_place(
    buffer: &mut [f32],
    stride: usize,
    heads: usize,
    head_dim: usize,
    half: usize,
    cos: &[f32],
    sin: &[f32],
    positions: &[usize],
) {
    assert_eq!(buffer.len(), positions.len() * stride, "rope: buffer is not [m, stride]");
    assert!(heads * head_dim <= stride, "rope: heads exceed the row");
    assert!(2 * half <= head_dim, "rope: tables wider than a head");
    assert_eq!(cos.len(), sin.len(), "rope: tables differ");
    if buffer.is_empty() || half == 0 {
        return;
    }
    let rows_of = |rows: &mut [f32], positions: &[usize]| {
        for (row, &position) in rows.chunks_exact_mut(stride).zip(positions) {
            simd::dispatch(Rotate {
                heads: &mut row[..heads * head_dim],
                head_dim,
                cos: &cos[position * half..][..half],
                sin: &sin[position * half..][..half],
            });
        }
    };
    match rows_per_task(positions.len(), heads * head_dim) {
        None => rows_of(buffer, positions),
        Some(rows) => buffer
            .par_chunks_mut(rows * stride)
            .zip(positions.par_chunks(rows))
            .for_each(|(buffer, positions)| rows_of(buffer, positions)),
    }
}
