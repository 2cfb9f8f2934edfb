//! Few rows with weights in a floating-point type, read in place: each output element is one dot product with a vector
//! accumulator of its own, filled in the order of the columns, so that a row's result does not depend on the other rows.

use std::marker::PhantomData;

use crate::vector::Vector;
use crate::vector::level::Op;

/// Rows of weights that share what is loaded of several rows of `x`. For one row of `x`, weights are read one row after
/// another: a processor reads one stream from memory up to three times as fast as four short ones.
pub(crate) const STREAMS: usize = 4;

/// How far ahead of its use memory of blocks is prefetched, in bytes.
pub(crate) const AHEAD: usize = 1024;

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
        let mut j = 0;
        while self.out.len() > 1 && j + STREAMS <= n {
            self.rows::<V, STREAMS>(v, j);
            j += STREAMS;
        }
        while j < n {
            self.rows::<V, 1>(v, j);
            j += 1;
        }
    }
}

impl<E: Element<BYTES>, const BYTES: usize> Floats<'_, '_, E, BYTES> {
    /// The columns `j..j + N` of every row.
    #[inline(always)]
    fn rows<V: Vector, const N: usize>(&mut self, v: V, j: usize) {
        let m = self.out.len();
        // 4 x 4 sums fit 32 registers, and 3 x 4 parts of sums fit 16.
        let most = if V::MANY_REGISTERS { 4 } else { 3 };
        let blocks = m.div_ceil(most);
        let mut i = 0;
        for block in 0..blocks {
            // Blocks differ by one row at most.
            let count = (m - i).div_ceil(blocks - block);
            match count {
                1 => self.block::<V, 1, N>(v, (i, block, blocks), j),
                2 => self.block::<V, 2, N>(v, (i, block, blocks), j),
                3 => self.block::<V, 3, N>(v, (i, block, blocks), j),
                _ => self.block::<V, 4, N>(v, (i, block, blocks), j),
            }
            i += count;
        }
    }

    /// `M` rows from row `i` on, which are one of some blocks of rows.
    #[inline(always)]
    fn block<V: Vector, const M: usize, const N: usize>(
        &mut self,
        v: V,
        (i, block, blocks): (usize, usize, usize),
        j: usize,
    ) {
        if M > 3 && !V::MANY_REGISTERS {
            return;
        }
        let (k, row) = (self.k, self.k * BYTES / 16);
        let full = k / 16;
        let mut xs: [&[[f32; 16]]; M] = [&[]; M];
        for (r, xs) in xs.iter_mut().enumerate() {
            *xs = &self.x[(i + r) * k..][..k].as_chunks().0[..full];
        }
        let mut ws: [&[[u8; BYTES]]; N] = [&[]; N];
        for (c, ws) in ws.iter_mut().enumerate() {
            *ws = &self.w[(j + c) * row..][..row].as_chunks().0[..full];
        }
        let mut sums = [[v.zero(); N]; M];
        // The rows of weights that follow these are prefetched, a part of them with each pass over these.
        let next: [usize; N] = core::array::from_fn(|c| (j + N + c) * row);
        if M == 1 || V::PARTS == 1 {
            let ahead = i == 0 && N > 1;
            for p in 0..full {
                if ahead {
                    for next in next {
                        v.prefetch(self.w, next + p * BYTES);
                    }
                }
                for part in 0..V::PARTS {
                    add::<V, E, BYTES, M, N>(v, &xs, &ws, p, part, &mut sums);
                }
            }
        } else {
            let passes = blocks * V::PARTS;
            // Registers hold one part of the sums of several rows.
            for part in 0..V::PARTS {
                let first = (block * V::PARTS + part) * N / passes;
                let second = N > 1 && passes <= 2;
                for p in 0..full {
                    v.prefetch(self.w, next[first] + p * BYTES);
                    if second {
                        v.prefetch(self.w, next[first + 1] + p * BYTES);
                    }
                    add::<V, E, BYTES, M, N>(v, &xs, &ws, p, part, &mut sums);
                }
            }
        }
        if full * 16 < k {
            let mut x = [[0.0; 16]; M];
            for (r, x) in x.iter_mut().enumerate() {
                x[..k - full * 16].copy_from_slice(&self.x[(i + r) * k..][full * 16..k]);
            }
            for c in 0..N {
                let mut w = [0; BYTES];
                let tail = &self.w[(j + c) * row..][..row][full * BYTES..];
                w[..tail.len()].copy_from_slice(tail);
                for part in 0..V::PARTS {
                    let w = E::load(v, &w, part);
                    for (sums, x) in sums.iter_mut().zip(&x) {
                        v.part_mul_add(v.part(x, part), w, &mut sums[c], part);
                    }
                }
            }
        }
        let bias: [f32; N] = core::array::from_fn(|c| self.bias.map_or(0.0, |bias| bias[j + c]));
        for (sums, out) in lane_sums(v, sums).into_iter().zip(&mut self.out[i..i + M]) {
            for ((sum, bias), out) in sums.into_iter().zip(bias).zip(&mut out[j..j + N]) {
                *out = sum + bias;
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
    sums: &mut [[V::Floats; N]; M],
) {
    let mut x = [v.part(&xs[0][p], part); M];
    for r in 1..M {
        x[r] = v.part(&xs[r][p], part);
    }
    for c in 0..N {
        let w = E::load(v, &ws[c][p], part);
        for r in 0..M {
            v.part_mul_add(x[r], w, &mut sums[r][c], part);
        }
    }
}

/// The sum of the lanes of each vector.
#[inline(always)]
fn lane_sums<V: Vector, const M: usize, const N: usize>(v: V, sums: [[V::Floats; N]; M]) -> [[f32; N]; M] {
    let mut out = [[0.0; N]; M];
    let fours = M * N / 4 * 4;
    for i in (0..fours).step_by(4) {
        let mut four = [v.zero(); 4];
        for (l, four) in four.iter_mut().enumerate() {
            *four = sums[(i + l) / N][(i + l) % N];
        }
        for (l, sum) in v.sums_of_four(four).into_iter().enumerate() {
            out[(i + l) / N][(i + l) % N] = sum;
        }
    }
    for i in fours..M * N {
        out[i / N][i % N] = v.sum(sums[i / N][i % N]);
    }
    out
}
