//! Many rows of rounded activations with weights in blocks: a strip of 16 columns is rearranged, so that the lanes of a
//! vector are columns, and then used for every row. The sums have the order of [`integers`](super::integers).

use std::marker::PhantomData;

use super::rounded::{Block, Fours, ROWS};
use crate::lanes::LANES;
use crate::product::blocks::{Blocks, CHUNK, GROUP};
use crate::vector::Vector;
use crate::vector::level::Op;

/// Vectors of 16 columns by 4 elements in a group.
pub(super) const STEPS: usize = GROUP / 4;

/// `f32` elements of memory for a strip with rows of `k`.
pub(super) fn strip_len<B: Blocks>(k: usize) -> usize {
    lens::<B>(k).iter().sum()
}

/// The same for integers, scales, minima and factors.
fn lens<B: Blocks>(k: usize) -> [usize; 4] {
    let one = k.div_ceil(GROUP * CHUNK) * CHUNK * LANES;
    [one * STEPS, one, if B::MINIMA { one } else { 0 }, if B::PARTS { 2 * one } else { 0 }]
}

/// `out[i][j] = x[i] . w[j] (+ bias[j])` for `j` in `0..n`; `out` holds one slice of `n` per row.
pub(super) struct Columns<'a, 'b, B> {
    pub blocks: PhantomData<B>,
    /// The rows of `out`.
    pub x: &'a [Block<'a>],
    /// `[n, k]`
    pub w: &'a [u8],
    pub k: usize,
    /// `[n]`
    pub bias: Option<&'a [f32]>,
    /// `[strip_len(k)]`
    pub memory: &'a mut [f32],
    /// [`STEPS`], unknown to the compiler, which else unrolls the loop over them and has no registers left.
    pub steps: usize,
    pub out: &'a mut [&'b mut [f32]],
}

/// The integers of a group, `[4 elements of each of 16 columns]`.
type Integers = [[u8; 4 * LANES]; STEPS];

/// A strip, group by group.
struct Strip<'a> {
    integers: &'a [Integers],
    scales: &'a [[f32; LANES]],
    /// Empty for a format without minima.
    minima: &'a [[f32; LANES]],
    /// The factors of the scales of both halves of a group; empty for a format without them.
    factors: &'a [[[f32; LANES]; 2]],
}

/// The parts of a strip's memory, for whole chunks.
fn parts_mut<B: Blocks>(k: usize, memory: &mut [f32]) -> [&mut [f32]; 4] {
    let [integers, scales, minima, factors] = lens::<B>(k);
    let (a, rest) = memory.split_at_mut(integers);
    let (b, rest) = rest.split_at_mut(scales);
    let (c, rest) = rest.split_at_mut(minima);
    [a, b, c, &mut rest[..factors]]
}

impl<'a> Strip<'a> {
    fn of<B: Blocks>(k: usize, memory: &'a [f32]) -> Self {
        let [integers, scales, minima, factors] = lens::<B>(k);
        let (integers, rest) = memory.split_at(integers);
        let (scales, rest) = rest.split_at(scales);
        let (minima, rest) = rest.split_at(minima);
        Self {
            integers: bytemuck::cast_slice::<f32, u8>(integers).as_chunks().0.as_chunks().0,
            scales: scales.as_chunks().0,
            minima: minima.as_chunks().0,
            factors: rest[..factors].as_chunks().0.as_chunks().0,
        }
    }
}

impl<B: Blocks> Op for Columns<'_, '_, B> {
    type Output = ();

    const INTEGERS: bool = true;

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let n = self.out.first().map_or(0, |row| row.len());
        for j in (0..n).step_by(LANES) {
            let columns = LANES.min(n - j);
            self.pack(v, j, columns);
            for block in 0..self.x.len() {
                if V::MANY_REGISTERS {
                    self.rows::<V, ROWS, 0>(v, block, j, columns);
                } else {
                    self.rows::<V, { ROWS / 2 }, 0>(v, block, j, columns);
                    self.rows::<V, { ROWS / 2 }, { ROWS / 2 }>(v, block, j, columns);
                }
            }
        }
    }
}

impl<B: Blocks> Columns<'_, '_, B> {
    /// Rearranges `columns` columns from `j` on; zeros follow them.
    #[inline(always)]
    fn pack<V: Vector>(&mut self, v: V, j: usize, columns: usize) {
        let groups = self.k / GROUP;
        let row = groups / B::GROUPS * B::BYTES;
        let bytes = B::BYTES * CHUNK / B::GROUPS;
        let w = &self.w[j * row..][..columns * row];
        let [integers, scales, minima, factors] = parts_mut::<B>(self.k, self.memory);
        let integers = integers.as_chunks_mut::<LANES>().0.as_chunks_mut::<STEPS>().0;
        let scales = scales.as_chunks_mut::<LANES>().0;
        let minima = minima.as_chunks_mut::<LANES>().0;
        let factors = factors.as_chunks_mut::<LANES>().0;
        // By column: the words of each group, and the scales.
        let mut words = [[[0.0; STEPS]; CHUNK]; LANES];
        let mut all = [[[0.0; CHUNK]; LANES]; 2];
        for c in 0..groups.div_ceil(CHUNK) {
            let count = CHUNK.min(groups - c * CHUNK);
            for column in 0..columns {
                let chunk = &w[column * row + c * bytes..][..count * B::BYTES / B::GROUPS];
                let (scales, minima) = B::scales(v, chunk, count);
                v.eight_store(scales, &mut all[0][column]);
                v.eight_store(minima, &mut all[1][column]);
                let words = words[column].as_chunks_mut::<2>().0;
                integers_to::<V, B, 0>(v, chunk, count, &mut words[0]);
                integers_to::<V, B, 1>(v, chunk, count, &mut words[1]);
                integers_to::<V, B, 2>(v, chunk, count, &mut words[2]);
                integers_to::<V, B, 3>(v, chunk, count, &mut words[3]);
                if B::PARTS {
                    for (part, factors) in factors[c * 2 * CHUNK..][..2 * CHUNK].iter_mut().enumerate() {
                        factors[column] = B::part_scale(chunk, part).unwrap_or(1.0);
                    }
                }
            }
            for half in 0..2 {
                let columns = 8 * half..8 * half + 8;
                for (all, to) in all.iter().zip([&mut *scales, &mut *minima]) {
                    if let Some(to) = to.get_mut(c * CHUNK..(c + 1) * CHUNK) {
                        transpose(v, all[columns.clone()].iter(), to, half);
                    }
                }
                for (g, to) in integers[c * CHUNK..][..count].iter_mut().enumerate() {
                    transpose(v, words[columns.clone()].iter().map(|words| &words[g]), to, half);
                }
            }
        }
    }

    /// The results of `M` rows of a block from `FIRST` on, for `columns` columns from `j` on.
    #[inline(always)]
    fn rows<V: Vector, const M: usize, const FIRST: usize>(&mut self, v: V, block: usize, j: usize, columns: usize) {
        let first = block * ROWS + FIRST;
        let count = M.min(self.out.len().saturating_sub(first));
        if count == 0 {
            return;
        }
        let strip = Strip::of::<B>(self.k, self.memory);
        let x = &self.x[block];
        let mut sums = [[v.zero(); M]; CHUNK];
        for g in 0..self.k / GROUP {
            let found = group::<V, B, M, FIRST>(v, &strip, x, g, self.steps);
            let scale = v.load(&strip.scales[g]);
            for r in 0..M {
                let scale = v.mul(scale, v.splat(x.scales[g][FIRST + r]));
                let mut sum = v.mul_add(found[r], scale, sums[g % CHUNK][r]);
                if B::MINIMA {
                    sum = v.mul_add(v.load(&strip.minima[g]), v.splat(x.sums[g][FIRST + r]), sum);
                }
                sums[g % CHUNK][r] = sum;
            }
        }
        let bias = match self.bias {
            Some(bias) => v.load_part(&bias[j..j + columns]),
            None => v.zero(),
        };
        for (r, out) in self.out[first..first + count].iter_mut().enumerate() {
            // The order of `eight_sum`.
            let mut four = [v.zero(); 4];
            for (at, four) in four.iter_mut().enumerate() {
                *four = v.add(sums[at][r], sums[at + 4][r]);
            }
            let sum = v.add(v.add(four[0], four[2]), v.add(four[1], four[3]));
            v.store_part(v.add(sum, bias), &mut out[j..j + columns]);
        }
    }
}

/// The sums of products of a group, which are exact.
#[inline(always)]
fn group<V: Vector, B: Blocks, const M: usize, const FIRST: usize>(
    v: V,
    strip: &Strip<'_>,
    x: &Block<'_>,
    g: usize,
    steps: usize,
) -> [V::Floats; M] {
    let offset = if B::TOP == 0 { V::SIGNED_OFFSET } else { i32::from(B::CENTRE) };
    let (mut first, mut second) = ([0; M], [0; M]);
    for r in 0..M {
        let (total, half) = (x.totals[g][FIRST + r], x.halves[g][FIRST + r]);
        first[r] = -offset * if B::PARTS { half } else { total };
        second[r] = -offset * (total - half);
    }
    let (w, q) = (&strip.integers[g], &x.q[g]);
    let mut out = [v.zero(); M];
    if !B::PARTS {
        let sums = columns::<V, B, M, FIRST>(v, &w[..steps], q, first);
        for r in 0..M {
            out[r] = v.sums_to_floats(sums[r]);
        }
        return out;
    }
    let half = steps / 2;
    let first = columns::<V, B, M, FIRST>(v, &w[..half], q, first);
    let second = columns::<V, B, M, FIRST>(v, &w[half..steps], &q[half..], second);
    let factors = [v.load(&strip.factors[g][0]), v.load(&strip.factors[g][1])];
    for r in 0..M {
        // Integers below 2^24 are exact.
        let second = v.mul(v.sums_to_floats(second[r]), factors[1]);
        out[r] = v.mul_add(v.sums_to_floats(first[r]), factors[0], second);
    }
    out
}

/// [`Vector::columns`] for the integers of a format.
#[inline(always)]
fn columns<V: Vector, B: Blocks, const M: usize, const FIRST: usize>(
    v: V,
    w: &[[u8; 4 * LANES]],
    x: &[Fours],
    init: [i32; M],
) -> [V::Sums; M] {
    // A constant of a generic type is no argument of a generic function.
    match B::TOP {
        0 => v.columns::<M, FIRST, 0>(w, x, init),
        15 => v.columns::<M, FIRST, 15>(w, x, init),
        31 => v.columns::<M, FIRST, 31>(w, x, init),
        _ => v.columns::<M, FIRST, 63>(w, x, init),
    }
}

#[inline(always)]
fn integers_to<V: Vector, B: Blocks, const PAIR: usize>(v: V, chunk: &[u8], count: usize, to: &mut [[f32; STEPS]; 2]) {
    if count > 2 * PAIR {
        let integers = B::integers::<V, PAIR>(v, chunk, 2 * PAIR + 1 < count);
        v.store_bytes(integers, bytemuck::cast_mut(to));
    }
}

/// Writes eight rows of eight as columns, to the first or the second half of the lanes.
#[inline(always)]
fn transpose<'a, V: Vector>(v: V, from: impl Iterator<Item = &'a [f32; 8]>, to: &mut [[f32; LANES]], half: usize) {
    let mut rows = [v.eight_zero(); 8];
    for (row, from) in rows.iter_mut().zip(from) {
        *row = v.eight_load(from);
    }
    for (column, to) in v.eight_transpose(rows).into_iter().zip(to) {
        v.eight_store(column, &mut to.as_chunks_mut::<8>().0[half]);
    }
}
