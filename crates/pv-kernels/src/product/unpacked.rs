//! Few rows with weights in blocks, without rounding `x`: weights are unpacked to `f32` in the first-level cache. The sums
//! have the order of [`Floats`](super::floats::Floats), so that a result is that of the unpacked weights to the bit.

use super::floats::AHEAD;
use crate::kept::{Format, unpack};
use crate::vector::Vector;
use crate::vector::level::Op;

/// Weights that are unpacked at a time for up to [`TOGETHER`] rows; a multiple of every block.
const CHUNK: usize = 256;

/// Rows of `x` that share an unpacked weight.
const TOGETHER: usize = 4;

/// `out[i][j] = x[i] . w[j] (+ bias[j])` for `j` in `0..n`; `out` holds one slice of `n` per row.
pub(super) struct Unpacked<'a, 'b> {
    pub format: Format,
    /// `[out.len(), k]`, with `k` a multiple of the format's block.
    pub x: &'a [f32],
    /// `[n, k]`.
    pub w: &'a [u8],
    pub k: usize,
    /// `[n]`.
    pub bias: Option<&'a [f32]>,
    /// `[k]`; used for more than [`TOGETHER`] rows.
    pub memory: &'a mut [f32],
    pub out: &'a mut [&'b mut [f32]],
}

impl Op for Unpacked<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let (m, n) = (self.out.len(), self.out.first().map_or(0, |row| row.len()));
        for j in 0..n {
            match m {
                1 => self.chunks::<V, 1>(v, j),
                2 => self.chunks::<V, 2>(v, j),
                3 => self.chunks::<V, 3>(v, j),
                TOGETHER => self.chunks::<V, TOGETHER>(v, j),
                _ => self.whole(v, j),
            }
        }
    }
}

impl Unpacked<'_, '_> {
    #[inline(always)]
    fn row(&self, j: usize) -> &[u8] {
        let bytes = self.w.len() / self.out.first().map_or(1, |row| row.len());
        &self.w[j * bytes..][..bytes]
    }

    /// Column `j` of `M` rows, which are all.
    #[inline(always)]
    fn chunks<V: Vector, const M: usize>(&mut self, v: V, j: usize) {
        let k = self.k;
        let step = CHUNK / self.format.block_elements() * self.format.block_bytes();
        let mut sums = [v.zero(); M];
        let mut memory = [0.0; CHUNK];
        let row = self.row(j);
        for (c, bytes) in row.chunks(step).enumerate() {
            for line in 0..step.div_ceil(64) {
                v.prefetch(self.w, j * row.len() + c * step + line * 64 + AHEAD);
            }
            let at = c * CHUNK;
            let values = &mut memory[..CHUNK.min(k - at)];
            unpack(self.format, bytes, values);
            let values = values.as_chunks::<16>().0;
            for (r, sum) in sums.iter_mut().enumerate() {
                let x = self.x[r * k + at..][..values.len() * 16].as_chunks::<16>().0;
                for (x, w) in x.iter().zip(values) {
                    *sum = v.mul_add(v.load(x), v.load(w), *sum);
                }
            }
        }
        self.store(v, 0, j, sums);
    }

    /// Column `j` of every row.
    #[inline(always)]
    fn whole<V: Vector>(&mut self, v: V, j: usize) {
        let bytes = self.w.len() / self.out.first().map_or(1, |row| row.len());
        unpack(self.format, &self.w[j * bytes..][..bytes], &mut self.memory[..self.k]);
        let m = self.out.len();
        let mut i = 0;
        while i + TOGETHER <= m {
            self.tile::<V, TOGETHER>(v, i, j);
            i += TOGETHER;
        }
        while i < m {
            self.tile::<V, 1>(v, i, j);
            i += 1;
        }
    }

    #[inline(always)]
    fn tile<V: Vector, const M: usize>(&mut self, v: V, i: usize, j: usize) {
        let k = self.k;
        let w = self.memory[..k].as_chunks::<16>().0;
        let mut xs: [&[[f32; 16]]; M] = [&[]; M];
        for (r, xs) in xs.iter_mut().enumerate() {
            *xs = &self.x[(i + r) * k..][..k].as_chunks().0[..w.len()];
        }
        let mut sums = [v.zero(); M];
        for (p, w) in w.iter().enumerate() {
            let w = v.load(w);
            for r in 0..M {
                sums[r] = v.mul_add(v.load(&xs[r][p]), w, sums[r]);
            }
        }
        self.store(v, i, j, sums);
    }

    #[inline(always)]
    fn store<V: Vector, const M: usize>(&mut self, v: V, i: usize, j: usize, sums: [V::Floats; M]) {
        let bias = self.bias.map_or(0.0, |bias| bias[j]);
        for (sum, out) in sums.into_iter().zip(&mut self.out[i..]) {
            out[j] = v.sum(sum) + bias;
        }
    }
}
