//! Activations in 8 bits, with a scale per group of 32, for products with weights in blocks.

use crate::product::blocks::{CHUNK, GROUP};
use crate::vector::Vector;
use crate::vector::level::Op;

/// The activations are zero below this magnitude, so that the inverse of a scale is finite.
const LEAST: f32 = 1e-30;

/// One row, in whole chunks: zeros follow the row's groups.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// `[chunks]`
    pub q: &'a [[[u8; GROUP]; CHUNK]],
    /// The scale of each group.
    pub scales: &'a [[f32; CHUNK]],
    /// The scale of each group times the sum of its integers.
    pub sums: &'a [[f32; CHUNK]],
}

/// `f32` elements of memory for one row of `k`.
pub(super) fn row_len(k: usize) -> usize {
    k.div_ceil(GROUP * CHUNK) * CHUNK * (GROUP / 4 + 2)
}

/// Splits a row's memory.
fn split(k: usize, row: &mut [f32]) -> (&mut [[f32; GROUP / 4]], &mut [f32], &mut [f32]) {
    let groups = k.div_ceil(GROUP * CHUNK) * CHUNK;
    let (q, rest) = row.split_at_mut(groups * (GROUP / 4));
    let (scales, sums) = rest.split_at_mut(groups);
    (q.as_chunks_mut().0, scales, sums)
}

/// The rows that [`Round`] wrote.
pub(super) fn rows(k: usize, memory: &[f32]) -> impl Iterator<Item = Row<'_>> {
    memory.chunks_exact(row_len(k)).map(move |row| {
        let groups = k.div_ceil(GROUP * CHUNK) * CHUNK;
        let (q, rest) = row.split_at(groups * (GROUP / 4));
        let (scales, sums) = rest.split_at(groups);
        let q: &[u8] = bytemuck::cast_slice(q);
        Row { q: q.as_chunks().0.as_chunks().0, scales: scales.as_chunks().0, sums: sums.as_chunks().0 }
    })
}

/// Rounds rows of `x` to 8 bits: each group's greatest magnitude becomes 127. A group with a value that is not finite has
/// the scale NaN, and so has every product with it.
pub(super) struct Round<'a> {
    /// `[m, k]`, with `k` in whole groups.
    pub x: &'a [f32],
    pub k: usize,
    /// `[m, row_len(k)]`
    pub memory: &'a mut [f32],
}

impl Op for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        for (x, row) in self.x.chunks_exact(self.k).zip(self.memory.chunks_exact_mut(row_len(self.k))) {
            let (q, scales, sums) = split(self.k, row);
            let groups = self.k / GROUP;
            for (g, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
                let (integers, scale, sum) = round(x);
                q[g] = bytemuck::cast(integers);
                scales[g] = scale;
                sums[g] = sum;
            }
            q[groups..].fill([0.0; GROUP / 4]);
            scales[groups..].fill(0.0);
            sums[groups..].fill(0.0);
        }
    }
}

#[inline(always)]
fn round(x: &[f32; GROUP]) -> ([i8; GROUP], f32, f32) {
    // As integers, magnitudes have the same order, and NaN is the greatest.
    let most = x.iter().fold(0, |most, v| (v.to_bits() & 0x7fff_ffff).max(most));
    if most >= f32::INFINITY.to_bits() {
        return ([0; GROUP], f32::NAN, f32::NAN);
    }
    let most = f32::from_bits(most);
    if most < LEAST {
        return ([0; GROUP], 0.0, 0.0);
    }
    let by = 127.0 / most;
    let mut integers = [0i8; GROUP];
    let mut total = 0;
    for (q, v) in integers.iter_mut().zip(x) {
        // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low mantissa bits.
        let integer = (v * by + 12_582_912.0).to_bits() as i8;
        *q = integer;
        total += i32::from(integer);
    }
    let scale = most / 127.0;
    (integers, scale, scale * total as f32)
}
