//! Few rows with weights in a floating-point type, read in place: each output element is one dot product with a vector
//! accumulator of its own, filled in the order of the columns, so that a row's result does not depend on the other rows.

use std::marker::PhantomData;
use std::ops::Range;

use super::SKINNY_ROWS;
use crate::lanes::LANES;
use crate::vector::Vector;
use crate::vector::level::Op;

/// Rows of weights that share what is loaded of many or long rows of `x`. For a few short ones, weights are read one row
/// after another: a processor reads one stream from memory up to three times as fast as four short ones.
pub(crate) const STREAMS: usize = 4;

/// How far ahead of its use memory of blocks is prefetched, in bytes.
pub(crate) const AHEAD: usize = 1024;

/// The most elements of `x` that stay in the first-level cache beside the weights.
const NEAR: usize = 4096;

/// The most vectors of a row of weights that all rows of `x` are multiplied with before the next ones.
const PIECE: usize = 40;

/// A type of weights, of which 16 are `BYTES` bytes.
pub(crate) trait Element<const BYTES: usize> {
    fn load<V: Vector>(v: V, bytes: &[u8; BYTES], part: usize) -> V::Part;
}

pub(crate) struct F32;
pub(crate) struct Bf16;
pub(crate) struct F16;

impl Element<64> for F32 {
    #[inline(always)]
    fn load<V: Vector>(v: V, bytes: &[u8; 64], part: usize) -> V::Part {
        v.part_f32(bytes, part)
    }
}

impl Element<32> for Bf16 {
    #[inline(always)]
    fn load<V: Vector>(v: V, bytes: &[u8; 32], part: usize) -> V::Part {
        v.part_bf16(bytes, part)
    }
}

impl Element<32> for F16 {
    #[inline(always)]
    fn load<V: Vector>(v: V, bytes: &[u8; 32], part: usize) -> V::Part {
        v.part_f16(bytes, part)
    }
}

/// `out[i][j] = x[i] . w[j] (+ bias[j])` for `j` in `0..n`; `out` holds one slice of `n` per row.
pub(crate) struct Floats<'a, 'b, E, const BYTES: usize> {
    pub element: PhantomData<E>,
    /// `[out.len(), k]`.
    pub x: &'a [f32],
    /// `[n, k]`.
    pub w: &'a [u8],
    pub k: usize,
    /// `[n]`.
    pub bias: Option<&'a [f32]>,
    pub out: &'a mut [&'b mut [f32]],
}

impl<E: Element<BYTES>, const BYTES: usize> Op for Floats<'_, '_, E, BYTES> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let n = self.out.first().map_or(0, |row| row.len());
        let m = self.out.len();
        match m {
            1 => self.streams::<V, 1>(v, n),
            _ if m * self.k > NEAR => self.together(v, n),
            2 => self.streams::<V, 2>(v, n),
            3 => self.streams::<V, 3>(v, n),
            4 => self.streams::<V, 4>(v, n),
            _ => self.together(v, n),
        }
    }
}

impl<E: Element<BYTES>, const BYTES: usize> Floats<'_, '_, E, BYTES> {
    /// The first `n` columns of `M` rows, which are all.
    #[inline(always)]
    fn streams<V: Vector, const M: usize>(&mut self, v: V, n: usize) {
        for j in 0..n {
            self.stream::<V, M>(v, j);
        }
    }

    #[inline(always)]
    fn stream<V: Vector, const M: usize>(&mut self, v: V, j: usize) {
        let (k, row) = (self.k, self.k * BYTES / LANES);
        let ws = self.w[j * row..][..row].as_chunks::<BYTES>().0;
        let mut xs: [&[[f32; LANES]]; M] = [&[]; M];
        for (r, xs) in xs.iter_mut().enumerate() {
            *xs = &self.x[r * k..][..k].as_chunks().0[..ws.len()];
        }
        let mut sums = [[v.zero()]; M];
        for (p, w) in ws.iter().enumerate() {
            for part in 0..V::PARTS {
                let w = E::load(v, w, part);
                for r in 0..M {
                    let sum = v.part_mul_add(v.part(&xs[r][p], part), w, v.part_of(sums[r][0], part));
                    v.set_part(&mut sums[r][0], part, sum);
                }
            }
        }
        self.finish(v, &mut sums, j);
    }

    /// The first `n` columns of two rows or more.
    #[inline(always)]
    fn together<V: Vector>(&mut self, v: V, n: usize) {
        let mut sums = [[v.zero(); STREAMS]; SKINNY_ROWS];
        let whole = n / STREAMS * STREAMS;
        for j in (0..whole).step_by(STREAMS) {
            self.rows(v, j, &mut sums);
        }
        let mut sums = [[v.zero()]; SKINNY_ROWS];
        for j in whole..n {
            self.rows(v, j, &mut sums);
        }
    }

    /// The columns `j..j + N` of every row.
    #[inline(always)]
    fn rows<V: Vector, const N: usize>(&mut self, v: V, j: usize, all: &mut [[V::Floats; N]; SKINNY_ROWS]) {
        let (m, full) = (self.out.len(), self.k / LANES);
        // 4 x 4 sums fit 32 registers, and 3 x 4 parts of sums fit 16.
        let most = if V::MANY_REGISTERS { 4 } else { 3 };
        let blocks = m.div_ceil(most);
        all[..m].fill([v.zero(); N]);
        // Every row uses a piece of the weights while it is in the first-level cache.
        let pieces = full.div_ceil(PIECE).max(1);
        for piece in 0..pieces {
            let at = full * piece / pieces..full * (piece + 1) / pieces;
            let mut i = 0;
            for block in 0..blocks {
                // Blocks differ by one row at most.
                let count = (m - i).div_ceil(blocks - block);
                let (sums, turn) = (&mut all[i..], (block, blocks));
                match count {
                    2 => self.block::<V, 2, N>(v, (i, j), at.clone(), turn, sums),
                    3 => self.block::<V, 3, N>(v, (i, j), at.clone(), turn, sums),
                    _ => self.block::<V, 4, N>(v, (i, j), at.clone(), turn, sums),
                }
                i += count;
            }
        }
        self.finish(v, &mut all[..m], j);
    }

    /// Adds the products of the vectors `at` for `M` rows from row `i` on, which are one of some blocks of rows.
    #[inline(always)]
    fn block<V: Vector, const M: usize, const N: usize>(
        &self,
        v: V,
        (i, j): (usize, usize),
        at: Range<usize>,
        (block, blocks): (usize, usize),
        all: &mut [[V::Floats; N]],
    ) {
        if M > 3 && !V::MANY_REGISTERS {
            return;
        }
        let (k, row) = (self.k, self.k * BYTES / LANES);
        let mut xs: [&[[f32; LANES]]; M] = [&[]; M];
        for (r, xs) in xs.iter_mut().enumerate() {
            *xs = &self.x[(i + r) * k..][..k].as_chunks().0[at.clone()];
        }
        let mut ws: [&[[u8; BYTES]]; N] = [&[]; N];
        for (c, ws) in ws.iter_mut().enumerate() {
            *ws = &self.w[(j + c) * row..][..row].as_chunks().0[at.clone()];
        }
        let all = &mut all[..M];
        // The rows of weights that follow these are prefetched, a part of them with each pass over these.
        let next: [usize; N] = core::array::from_fn(|c| (j + N + c) * row + at.start * BYTES);
        let passes = blocks * V::PARTS;
        // Registers hold one part of the sums of several rows.
        for part in 0..V::PARTS {
            let mut sums = [[v.part_of(all[0][0], part); N]; M];
            for (sums, all) in sums.iter_mut().zip(&*all) {
                for (sum, all) in sums.iter_mut().zip(all) {
                    *sum = v.part_of(*all, part);
                }
            }
            let first = (block * V::PARTS + part) * N / passes;
            let second = N > 1 && passes <= 2;
            for p in 0..at.len() {
                v.prefetch(self.w, next[first] + p * BYTES);
                if second {
                    v.prefetch(self.w, next[first + 1] + p * BYTES);
                }
                add::<V, E, BYTES, M, N>(v, &xs, &ws, p, part, &mut sums);
            }
            for (sums, all) in sums.into_iter().zip(&mut *all) {
                for (sum, all) in sums.into_iter().zip(all) {
                    v.set_part(all, part, sum);
                }
            }
        }
    }

    /// Adds the products of the last elements, which are less than a vector, and stores the results.
    #[inline(always)]
    fn finish<V: Vector, const N: usize>(&mut self, v: V, all: &mut [[V::Floats; N]], j: usize) {
        let (k, row, full) = (self.k, self.k * BYTES / LANES, self.k / LANES * LANES);
        if full < k {
            let mut ws = [[0; BYTES]; N];
            for (c, w) in ws.iter_mut().enumerate() {
                let tail = &self.w[(j + c) * row..][..row][full / LANES * BYTES..];
                w[..tail.len()].copy_from_slice(tail);
            }
            for (i, sums) in all.iter_mut().enumerate() {
                let mut x = [0.0; LANES];
                x[..k - full].copy_from_slice(&self.x[i * k..][full..k]);
                for (w, sum) in ws.iter().zip(sums) {
                    for part in 0..V::PARTS {
                        let added = v.part_mul_add(v.part(&x, part), E::load(v, w, part), v.part_of(*sum, part));
                        v.set_part(sum, part, added);
                    }
                }
            }
        }
        let bias: [f32; N] = core::array::from_fn(|c| self.bias.map_or(0.0, |bias| bias[j + c]));
        for (sums, out) in all.iter().zip(self.out.iter_mut()) {
            let out = &mut out[j..j + N];
            if let Some(four) = sums.first_chunk::<4>().filter(|_| N == 4) {
                for ((sum, bias), out) in v.sums_of_four(*four).into_iter().zip(bias).zip(out) {
                    *out = sum + bias;
                }
            } else {
                for ((sum, bias), out) in sums.iter().zip(bias).zip(out) {
                    *out = v.sum(*sum) + bias;
                }
            }
        }
    }
}

/// Adds the products of one vector of each row, or a part of them.
#[inline(always)]
fn add<V: Vector, E: Element<BYTES>, const BYTES: usize, const M: usize, const N: usize>(
    v: V,
    xs: &[&[[f32; 16]]; M],
    ws: &[&[[u8; BYTES]]; N],
    p: usize,
    part: usize,
    sums: &mut [[V::Part; N]; M],
) {
    let mut x = [v.part(&xs[0][p], part); M];
    for r in 1..M {
        x[r] = v.part(&xs[r][p], part);
    }
    for c in 0..N {
        let w = E::load(v, &ws[c][p], part);
        for r in 0..M {
            sums[r][c] = v.part_mul_add(x[r], w, sums[r][c]);
        }
    }
}
