//! Rotary position embedding.

use rayon::prelude::*;

use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};
use crate::{lanes, rows_per_task};

struct Rotate<'a> {
    heads: &'a mut [f32],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Op for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let half = self.cos.len();
        for head in self.heads.chunks_exact_mut(self.head_dim) {
            let (low, high) = head.split_at_mut(half);
            lanes::update_two(
                v,
                [low, &mut high[..half]],
                [self.cos, self.sin],
                #[inline(always)]
                |[x, y], [c, n]| [v.sub(v.mul(x, c), v.mul(y, n)), v.add(v.mul(y, c), v.mul(x, n))],
            );
        }
    }
}

/// Rotates `heads` consecutive heads in each row of `buffer`, in place, in the half-split convention (Hugging Face's
/// `rotate_half`): element `i` is paired with element `i + half`.
///
/// `buffer` is `[m, stride]`; the heads of a row are at columns `0..heads * head_dim`. For a fused row of queries, keys
/// and values, `heads` is the sum of the query and key heads. `cos` and `sin` are `[positions, half]`, one value per
/// pair; row `i` uses the table's row `positions[i]`. `2 * half` may be less than `head_dim`: the rest of a head is
/// unchanged.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
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
    assert!(2 * half <= head_dim, "rope: tables are wider than a head");
    assert_eq!(cos.len(), sin.len(), "rope: tables differ");
    if buffer.is_empty() || half == 0 {
        return;
    }
    let rows_of = |rows: &mut [f32], positions: &[usize]| {
        for (row, &position) in rows.chunks_exact_mut(stride).zip(positions) {
            dispatch(Rotate {
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
