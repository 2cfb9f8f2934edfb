//! Few rows with weights in blocks, read in place: integers are multiplied and summed exactly within a group, and groups
//! are added in `f32` in their order, so that a row's result does not depend on the other rows.

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

/// The sums of `M` rows.
struct Sums<V: Vector, const M: usize> {
    products: [V::Floats; M],
    minima: [V::Eight; M],
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
        let mut sums = Sums::<V, M> { products: [v.zero(); M], minima: [v.eight_zero(); M] };
        let chunks = w.chunks_exact(bytes);
        let rest = chunks.remainder();
        for (c, chunk) in chunks.enumerate() {
            if i == 0 {
                for line in 0..bytes.div_ceil(64) {
                    v.prefetch(self.w, j * row + c * bytes + line * 64 + AHEAD);
                }
            }
            Self::chunk::<V, M>(v, &x, c, chunk, CHUNK, &mut sums);
        }
        if !rest.is_empty() {
            Self::chunk::<V, M>(v, &x, groups / CHUNK, rest, groups % CHUNK, &mut sums);
        }
        for r in 0..M {
            let mut sum = v.sum(sums.products[r]);
            if B::MINIMA {
                sum += v.eight_sum(sums.minima[r]);
            }
            self.out[i + r][j] = sum + self.bias.map_or(0.0, |bias| bias[j]);
        }
    }

    #[inline(always)]
    fn chunk<V: Vector, const M: usize>(
        v: V,
        x: &[Row<'_>; M],
        c: usize,
        chunk: &[u8],
        count: usize,
        sums: &mut Sums<V, M>,
    ) {
        let (scales, minima) = B::scales(v, chunk, count);
        let mut products = [v.scales(scales); M];
        for r in 0..M {
            products[r] = v.scales(v.eight_mul(scales, v.eight_load(&x[r].scales[c])));
            if B::MINIMA {
                sums.minima[r] = v.eight_mul_add(minima, v.eight_load(&x[r].sums[c]), sums.minima[r]);
            }
        }
        for r in 0..M {
            Self::pair::<V, 0>(v, &x[r].q[c], chunk, count, &products[r], &mut sums.products[r]);
        }
        if count > 2 {
            for r in 0..M {
                Self::pair::<V, 1>(v, &x[r].q[c], chunk, count, &products[r], &mut sums.products[r]);
            }
        }
        if count > 4 {
            for r in 0..M {
                Self::pair::<V, 2>(v, &x[r].q[c], chunk, count, &products[r], &mut sums.products[r]);
            }
        }
        if count > 6 {
            for r in 0..M {
                Self::pair::<V, 3>(v, &x[r].q[c], chunk, count, &products[r], &mut sums.products[r]);
            }
        }
    }

    #[inline(always)]
    fn pair<V: Vector, const PAIR: usize>(
        v: V,
        x: &[[u8; GROUP]; CHUNK],
        chunk: &[u8],
        count: usize,
        scales: &V::Scales,
        sum: &mut V::Floats,
    ) {
        let x = v.groups(&x[2 * PAIR], &x[2 * PAIR + 1]);
        let integers = B::dot::<V, PAIR>(v, chunk, 2 * PAIR + 1 < count, x);
        *sum = v.add_scaled(integers, scales, PAIR, *sum);
    }
}
