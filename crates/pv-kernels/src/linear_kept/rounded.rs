//! Activations in 8 bits, with a scale per group of 32, for products with weights in blocks.

use rayon::prelude::*;

use crate::product::blocks::{CHUNK, GROUP};
use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};

/// The activations are zero below this magnitude, so that the inverse of a scale is finite.
const LEAST: f32 = 1e-30;

/// The `f32` elements of memory of a row's group: integers, scale, sum, and total.
const MEMORY: usize = GROUP / 4 + 3;

/// The same in a block, with the total of the first half.
const BLOCK_MEMORY: usize = MEMORY + 1;

/// One row, in whole chunks: zeros follow the row's groups.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// `[chunks]`
    pub q: &'a [[[u8; GROUP]; CHUNK]],
    /// The scale of each group.
    pub scales: &'a [[f32; CHUNK]],
    /// The scale of each group times the sum of its integers.
    pub sums: &'a [[f32; CHUNK]],
    /// The sum of each group's integers.
    pub totals: &'a [[i32; CHUNK]],
}

/// Rows whose elements are side by side.
pub(super) const ROWS: usize = 8;

/// Four neighbouring elements of each of some rows, by row.
pub(super) type Fours = [[u8; 4]; ROWS];

/// [`ROWS`] rows, group by group; those that do not exist are zeros.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// `[groups]`, the elements of a group.
    pub q: &'a [[Fours; GROUP / 4]],
    /// `[groups]`, and so are the others; as in [`Row`].
    pub scales: &'a [[f32; ROWS]],
    pub sums: &'a [[f32; ROWS]],
    pub totals: &'a [[i32; ROWS]],
    /// The sum of the first half of each group's integers.
    pub halves: &'a [[i32; ROWS]],
}

/// `f32` elements of memory for one row of `k`.
pub(super) fn row_len(k: usize) -> usize {
    padded(k) * MEMORY
}

/// The groups of a row, in whole chunks.
fn padded(k: usize) -> usize {
    k.div_ceil(GROUP * CHUNK) * CHUNK
}

/// Rounds the rows of `x`, `[m, k]` with `k` in whole groups, to 8 bits: each group's largest magnitude becomes 127. A
/// group with a value that is not finite has the scale NaN, and so has every product with it. `memory` is
/// `[m, row_len(k)]`.
pub(super) fn rows<'a>(x: &[f32], k: usize, memory: &'a mut [f32]) -> Vec<Row<'a>> {
    dispatch(RoundRows { x, k, memory: &mut *memory });
    let row = |row: &'a [f32]| {
        let groups = padded(k);
        let (q, rest) = row.split_at(groups * (GROUP / 4));
        let (scales, rest) = rest.split_at(groups);
        let (sums, totals) = rest.split_at(groups);
        let q: &[u8] = bytemuck::cast_slice(q);
        Row {
            q: q.as_chunks().0.as_chunks().0,
            scales: scales.as_chunks().0,
            sums: sums.as_chunks().0,
            totals: bytemuck::cast_slice(totals).as_chunks().0,
        }
    };
    memory.chunks_exact(row_len(k)).map(row).collect()
}

struct RoundRows<'a> {
    x: &'a [f32],
    k: usize,
    memory: &'a mut [f32],
}

impl Op for RoundRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        let (groups, padded) = (self.k / GROUP, padded(self.k));
        for (x, row) in self.x.chunks_exact(self.k).zip(self.memory.chunks_exact_mut(row_len(self.k))) {
            row.fill(0.0);
            let (q, rest) = row.split_at_mut(padded * (GROUP / 4));
            let (scales, rest) = rest.split_at_mut(padded);
            let (sums, totals) = rest.split_at_mut(padded);
            let q = &mut q.as_chunks_mut::<{ GROUP / 4 }>().0[..groups];
            for (g, (x, q)) in x.as_chunks::<GROUP>().0.iter().zip(q).enumerate() {
                let group = round(x);
                *q = bytemuck::cast(group.integers);
                scales[g] = group.scale;
                sums[g] = group.scale * group.total as f32;
                totals[g] = f32::from_bits(group.total as u32);
            }
        }
    }
}

/// `f32` elements of memory for the blocks of `m` rows of `k`.
pub(super) fn blocks_len(m: usize, k: usize) -> usize {
    m.div_ceil(ROWS) * block_len(k)
}

fn block_len(k: usize) -> usize {
    k / GROUP * ROWS * BLOCK_MEMORY
}

/// Like [`rows`], as blocks. `memory` is `[blocks_len(m, k)]`.
pub(super) fn blocks<'a>(x: &[f32], k: usize, memory: &'a mut [f32]) -> Vec<Block<'a>> {
    let round = |(x, memory): (&[f32], &mut [f32])| dispatch(RoundBlock { x, k, memory });
    x.par_chunks(ROWS * k).zip(memory.par_chunks_mut(block_len(k))).for_each(round);
    let block = |memory: &'a [f32]| {
        let [q, scales, sums, totals, halves] = lens(k);
        let (q, rest) = memory.split_at(q);
        let (scales, rest) = rest.split_at(scales);
        let (sums, rest) = rest.split_at(sums);
        let (totals, rest) = rest.split_at(totals);
        let q: &[u8] = bytemuck::cast_slice(q);
        Block {
            q: q.as_chunks().0.as_chunks().0.as_chunks().0,
            scales: scales.as_chunks().0,
            sums: sums.as_chunks().0,
            totals: bytemuck::cast_slice(totals).as_chunks().0,
            halves: bytemuck::cast_slice(&rest[..halves]).as_chunks().0,
        }
    };
    memory.chunks_exact(block_len(k)).map(block).collect()
}

/// The sizes of a block's parts.
fn lens(k: usize) -> [usize; 5] {
    let one = k / GROUP * ROWS;
    [one * (GROUP / 4), one, one, one, one]
}

struct RoundBlock<'a> {
    x: &'a [f32],
    k: usize,
    memory: &'a mut [f32],
}

impl Op for RoundBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        let rows = self.x.len() / self.k;
        if rows < ROWS {
            self.memory.fill(0.0);
        }
        let [q, scales, sums, totals, _] = lens(self.k);
        let (q, rest) = self.memory.split_at_mut(q);
        let (scales, rest) = rest.split_at_mut(scales);
        let (sums, rest) = rest.split_at_mut(sums);
        let (totals, halves) = rest.split_at_mut(totals);
        let q = q.as_chunks_mut::<ROWS>().0.as_chunks_mut::<{ GROUP / 4 }>().0;
        for (r, x) in self.x.chunks_exact(self.k).enumerate() {
            for (g, (x, q)) in x.as_chunks::<GROUP>().0.iter().zip(&mut *q).enumerate() {
                let group = round(x);
                let fours: [f32; GROUP / 4] = bytemuck::cast(group.integers);
                for (q, four) in q.iter_mut().zip(fours) {
                    q[r] = four;
                }
                let at = g * ROWS + r;
                scales[at] = group.scale;
                sums[at] = group.scale * group.total as f32;
                totals[at] = f32::from_bits(group.total as u32);
                halves[at] = f32::from_bits(group.half as u32);
            }
        }
    }
}

struct Group {
    integers: [i8; GROUP],
    scale: f32,
    /// The sum of the integers, and of the first half of them.
    total: i32,
    half: i32,
}

#[inline(always)]
fn round(x: &[f32; GROUP]) -> Group {
    let zero = Group { integers: [0; GROUP], scale: 0.0, total: 0, half: 0 };
    // As integers, magnitudes have the same order, and NaN is the greatest.
    let mut most = 0;
    for v in x {
        most = most.max(v.to_bits() & 0x7fff_ffff);
    }
    if most >= f32::INFINITY.to_bits() {
        return Group { scale: f32::NAN, ..zero };
    }
    let most = f32::from_bits(most);
    if most < LEAST {
        return zero;
    }
    let by = 127.0 / most;
    let mut integers = [0; GROUP];
    let mut totals = [0; 2];
    for i in 0..GROUP {
        // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low mantissa bits.
        let integer = (x[i] * by + 12_582_912.0).to_bits() as i8;
        integers[i] = integer;
        totals[i / (GROUP / 2)] += i32::from(integer);
    }
    Group { integers, scale: most / 127.0, total: totals[0] + totals[1], half: totals[0] }
}
