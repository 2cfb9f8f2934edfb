//! Few rows with weights in blocks, without rounding `x`: weights are unpacked to `f32` in registers, or for more rows in
//! the first-level cache. The sums have the order of [`Floats`](super::floats::Floats), so that a result is that of the
//! unpacked weights to the bit.

use std::marker::PhantomData;

use super::SKINNY_ROWS;
use super::blocks::{Blocks, CHUNK, GROUP};
use super::floats::{AHEAD, F32, Floats, STREAMS};
use crate::vector::Vector;
use crate::vector::level::Op;

/// The elements of a chunk.
const ELEMENTS: usize = CHUNK * GROUP;

/// Rows of `x` that share an unpacked weight.
pub(super) const TOGETHER: usize = 4;

/// Columns at a time: their sums do not wait for each other, and many rows share them.
pub(super) const COLUMNS: usize = STREAMS;

/// `out[i][j] = x[i] . w[j] (+ bias[j])` for `j` in `0..n`; `out` holds one slice of `n` per row.
pub(super) struct Unpacked<'a, 'b, B> {
    pub blocks: PhantomData<B>,
    /// `[out.len(), k]`, with `k` a multiple of the format's block.
    pub x: &'a [f32],
    /// `[n, k]`.
    pub w: &'a [u8],
    pub k: usize,
    /// `[n]`.
    pub bias: Option<&'a [f32]>,
    /// `[COLUMNS, k]`; used for more than [`TOGETHER`] rows.
    pub memory: &'a mut [f32],
    pub out: &'a mut [&'b mut [f32]],
}

impl<B: Blocks> Op for Unpacked<'_, '_, B> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let (m, n) = (self.out.len(), self.out.first().map_or(0, |row| row.len()));
        let mut j = 0;
        while j + COLUMNS <= n && (m == 1 || m > TOGETHER) {
            match m {
                1 => self.chunks::<V, 1, COLUMNS>(v, j),
                _ => self.whole::<V, COLUMNS>(v, j),
            }
            j += COLUMNS;
        }
        while j < n {
            match m {
                1 => self.chunks::<V, 1, 1>(v, j),
                2 => self.chunks::<V, 2, 1>(v, j),
                3 => self.chunks::<V, 3, 1>(v, j),
                TOGETHER => self.chunks::<V, TOGETHER, 1>(v, j),
                _ => self.whole::<V, 1>(v, j),
            }
            j += 1;
        }
    }
}

/// The 16 weights from `16 * part` of a pair of groups on, in the operations and order of `kept/dequantize.rs`.
#[inline(always)]
fn weights<V: Vector, B: Blocks, const PAIR: usize>(
    v: V,
    chunk: &[u8],
    integers: V::Bytes,
    (scales, minima): (&[f32; CHUNK], &[f32; CHUNK]),
    part: usize,
) -> V::Floats {
    let group = 2 * PAIR + part / 2;
    let mut w = v.floats_of(integers, part);
    if B::CENTRE != 0 {
        w = v.sub(w, v.splat(f32::from(B::CENTRE)));
    }
    let scale = match B::part_scale(chunk, 4 * PAIR + part) {
        Some(factor) => scales[group] * factor,
        None => scales[group],
    };
    w = v.mul(w, v.splat(scale));
    if B::MINIMA { v.add(w, v.splat(minima[group])) } else { w }
}

/// Calls `$body` with the index of 16 elements in the chunk and their weights, for each in the first `$count` groups.
macro_rules! for_weights {
    ($v:ident, $blocks:ident, $chunk:ident, $count:ident, |$at:ident, $w:ident| $body:expr) => {
        let (scales, minima) = $blocks::scales($v, $chunk, $count);
        let mut all = [[0.0; CHUNK]; 2];
        $v.eight_store(scales, &mut all[0]);
        if $blocks::MINIMA {
            $v.eight_store(minima, &mut all[1]);
        }
        for_weights!($v, $blocks, $chunk, $count, all, 0, |$at, $w| $body);
        for_weights!($v, $blocks, $chunk, $count, all, 1, |$at, $w| $body);
        for_weights!($v, $blocks, $chunk, $count, all, 2, |$at, $w| $body);
        for_weights!($v, $blocks, $chunk, $count, all, 3, |$at, $w| $body);
    };
    ($v:ident, $blocks:ident, $chunk:ident, $count:ident, $all:ident, $pair:literal, |$at:ident, $w:ident| $body:expr) => {
        if $count > 2 * $pair {
            let second = $count > 2 * $pair + 1;
            let integers = $blocks::integers::<V, $pair>($v, $chunk, second);
            for part in 0..if second { 4 } else { 2 } {
                let $at = 4 * $pair + part;
                let $w = weights::<V, $blocks, $pair>($v, $chunk, integers, (&$all[0], &$all[1]), part);
                $body
            }
        }
    };
}

impl<B: Blocks> Unpacked<'_, '_, B> {
    /// The bytes of a row.
    #[inline(always)]
    fn row_bytes(&self) -> usize {
        self.k / GROUP / B::GROUPS * B::BYTES
    }

    /// `N` columns from `j` on of `M` rows, which are all.
    #[inline(always)]
    fn chunks<V: Vector, const M: usize, const N: usize>(&mut self, v: V, j: usize) {
        let (k, row) = (self.k, self.row_bytes());
        let step = B::BYTES * CHUNK / B::GROUPS;
        let mut sums = [[v.zero(); M]; N];
        for (c, at) in (0..k).step_by(ELEMENTS).enumerate() {
            let count = ((k - at) / GROUP).min(CHUNK);
            let elements = count * GROUP;
            let mut xs: [&[[f32; 16]]; M] = [&[]; M];
            for (r, xs) in xs.iter_mut().enumerate() {
                *xs = self.x[r * k + at..][..elements].as_chunks().0;
            }
            for (n, sums) in sums.iter_mut().enumerate() {
                let from = (j + n) * row + c * step;
                let chunk = &self.w[from..][..count * B::BYTES / B::GROUPS];
                for line in 0..step.div_ceil(64) {
                    v.prefetch(self.w, from + line * 64 + AHEAD);
                }
                for_weights!(v, B, chunk, count, |p, w| for r in 0..M {
                    sums[r] = v.mul_add(v.load(&xs[r][p]), w, sums[r]);
                });
            }
        }
        for (n, sums) in sums.into_iter().enumerate() {
            self.store(v, 0, j + n, sums);
        }
    }

    /// `N` columns from `j` on of every row, of which there are at most [`SKINNY_ROWS`].
    #[inline(always)]
    fn whole<V: Vector, const N: usize>(&mut self, v: V, j: usize) {
        let (k, row) = (self.k, self.row_bytes());
        let step = B::BYTES * CHUNK / B::GROUPS;
        let memory = &mut self.memory[..N * k];
        for (w, memory) in self.w[j * row..][..N * row].chunks_exact(row).zip(memory.chunks_exact_mut(k)) {
            for (chunk, memory) in w.chunks(step).zip(memory.chunks_mut(ELEMENTS)) {
                let count = memory.len() / GROUP;
                let memory = memory.as_chunks_mut().0;
                for_weights!(v, B, chunk, count, |p, w| v.store(w, &mut memory[p]));
            }
        }
        let m = self.out.len();
        let mut out: [&mut [f32]; SKINNY_ROWS] = core::array::from_fn(|_| &mut [][..]);
        for (part, out) in out.iter_mut().zip(self.out.iter_mut()) {
            *part = &mut out[j..j + N];
        }
        let (w, bias) = (bytemuck::cast_slice(memory), self.bias.map(|bias| &bias[j..j + N]));
        let out = &mut out[..m];
        v.call(Floats { element: PhantomData::<F32>, x: self.x, w, k, bias, out });
    }

    #[inline(always)]
    fn store<V: Vector, const M: usize>(&mut self, v: V, i: usize, j: usize, sums: [V::Floats; M]) {
        let bias = self.bias.map_or(0.0, |bias| bias[j]);
        for (sum, out) in sums.into_iter().zip(&mut self.out[i..]) {
            out[j] = v.sum(sum) + bias;
        }
    }
}
