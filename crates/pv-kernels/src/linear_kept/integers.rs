//! Few rows of rounded activations with weights in blocks, read in place.
//!
//! The products of a group are summed exactly. Group `g` is then added in `f32` to sum `g % 8`, in the order of the groups,
//! and the 8 sums at the end. [`columns`](super::columns) adds in the same order, so that a row's result depends neither on
//! the other rows nor on their number.

use std::marker::PhantomData;

use super::rounded::Row;
use crate::product::blocks::{Blocks, CHUNK, GROUP};
use crate::product::floats::AHEAD;
use crate::vector::Vector;
use crate::vector::level::Op;

/// `out[i][j] = x[i] . w[j] (+ bias[j])` for `j` in `0..n`; `out` holds one slice of `n` per row.
pub(super) struct Integers<'a, 'b, B> {
    pub blocks: PhantomData<B>,
    /// `[out.len()]`
    pub x: &'a [Row<'a>],
    /// `[n, k]`
    pub w: &'a [u8],
    pub k: usize,
    /// `[n]`
    pub bias: Option<&'a [f32]>,
    pub out: &'a mut [&'b mut [f32]],
}

impl<B: Blocks> Op for Integers<'_, '_, B> {
    type Output = ();

    const INTEGERS: bool = true;

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let m = self.out.len();
        let n = self.out.first().map_or(0, |row| row.len());
        for j in 0..n {
            let mut i = 0;
            if V::MANY_REGISTERS {
                while i + 4 <= m {
                    self.block::<V, 4>(v, i, j);
                    i += 4;
                }
            }
            while i + 2 <= m {
                self.block::<V, 2>(v, i, j);
                i += 2;
            }
            if i < m {
                self.block::<V, 1>(v, i, j);
            }
        }
    }
}

impl<B: Blocks> Integers<'_, '_, B> {
    #[inline(always)]
    fn block<V: Vector, const M: usize>(&mut self, v: V, i: usize, j: usize) {
        let groups = self.k / GROUP;
        let bytes = B::BYTES * CHUNK / B::GROUPS;
        let row = groups / B::GROUPS * B::BYTES;
        let w = &self.w[j * row..][..row];
        let mut x = [self.x[i]; M];
        x.copy_from_slice(&self.x[i..i + M]);
        let mut sums = [v.eight_zero(); M];
        let chunks = w.chunks_exact(bytes);
        let rest = chunks.remainder();
        for (c, chunk) in chunks.enumerate() {
            // For one row, the processor reads ahead by itself.
            if M > 1 && i == 0 {
                for line in 0..bytes.div_ceil(64) {
                    v.prefetch(self.w, j * row + c * bytes + line * 64 + AHEAD);
                }
            }
            Self::chunk::<V, M>(v, &x, c, chunk, CHUNK, &mut sums);
        }
        if !rest.is_empty() {
            Self::chunk::<V, M>(v, &x, groups / CHUNK, rest, groups % CHUNK, &mut sums);
        }
        let bias = self.bias.map_or(0.0, |bias| bias[j]);
        for (sum, out) in sums.into_iter().zip(&mut self.out[i..]) {
            out[j] = v.eight_sum(sum) + bias;
        }
    }

    #[inline(always)]
    fn chunk<V: Vector, const M: usize>(
        v: V,
        x: &[Row<'_>; M],
        c: usize,
        chunk: &[u8],
        count: usize,
        sums: &mut [V::Eight; M],
    ) {
        let (scales, minima) = B::scales(v, chunk, count);
        let mut dots = [[v.sums_zero(); 4]; M];
        Self::pair::<V, 0, M>(v, x, c, chunk, count, &mut dots);
        if count > 2 {
            Self::pair::<V, 1, M>(v, x, c, chunk, count, &mut dots);
        }
        if count > 4 {
            Self::pair::<V, 2, M>(v, x, c, chunk, count, &mut dots);
        }
        if count > 6 {
            Self::pair::<V, 3, M>(v, x, c, chunk, count, &mut dots);
        }
        let offset = B::dot_offset::<V>();
        for r in 0..M {
            let mut integers = v.group_sums(dots[r]);
            if offset != 0 {
                // Integers below 2^24 are exact.
                let totals = v.eight_from_i32(&x[r].totals[c]);
                integers = v.eight_mul_add(totals, v.eight_load(&[-(offset as f32); 8]), integers);
            }
            let scales = v.eight_mul(scales, v.eight_load(&x[r].scales[c]));
            sums[r] = v.eight_mul_add(integers, scales, sums[r]);
            if B::MINIMA {
                sums[r] = v.eight_mul_add(minima, v.eight_load(&x[r].sums[c]), sums[r]);
            }
        }
    }

    #[inline(always)]
    fn pair<V: Vector, const PAIR: usize, const M: usize>(
        v: V,
        x: &[Row<'_>; M],
        c: usize,
        chunk: &[u8],
        count: usize,
        dots: &mut [[V::Sums; 4]; M],
    ) {
        let w = B::integers::<V, PAIR>(v, chunk, 2 * PAIR + 1 < count);
        for r in 0..M {
            let q = &x[r].q[c];
            dots[r][PAIR] = B::dot::<V, PAIR>(v, w, v.groups(&q[2 * PAIR], &q[2 * PAIR + 1]), chunk);
        }
    }
}
