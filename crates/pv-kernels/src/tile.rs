//! Products with many rows: `out[i] (+)= a[i] . b`, with `b` in rows of contiguous columns.
//!
//! Elements of `a` are broadcast against vectors of `b`, so neither the rows of `a` nor the result
//! need any rearrangement, and each output element is summed in the order of `k` whatever the
//! number of rows.

use pulp::{Simd, WithSimd};

/// Columns of a packed panel.
pub(super) const PANEL: usize = 64;

/// Rows of `a` taken together: with 4 vectors of `b`, 24 accumulators.
pub(super) const ROWS: usize = 6;

/// Where the rows of a result are.
pub(super) trait Output {
    /// The rows `i..i + M`, from their first column on.
    fn rows<const M: usize>(&mut self, i: usize) -> [&mut [f32]; M];
}

/// One slice per row.
impl Output for &mut [&mut [f32]] {
    #[inline(always)]
    fn rows<const M: usize>(&mut self, i: usize) -> [&mut [f32]; M] {
        let mut rows = self[i..i + M].iter_mut();
        core::array::from_fn(|_| &mut **rows.next().expect("M rows"))
    }
}

/// A buffer and the distance between its rows.
impl Output for (&mut [f32], usize) {
    #[inline(always)]
    fn rows<const M: usize>(&mut self, i: usize) -> [&mut [f32]; M] {
        let mut rows = self.0[i * self.1..].chunks_mut(self.1);
        core::array::from_fn(|_| rows.next().expect("M rows"))
    }
}

/// `out[i][..columns] = a[i] . b` or, with `accumulate`, `+=`.
pub(super) struct Tile<'a, O> {
    /// Row `i` is at `a[i * a_stride..][..k]`.
    pub a: &'a [f32],
    pub a_stride: usize,
    pub m: usize,
    pub k: usize,
    /// Row `p` is at `b[p * b_stride..]` and can be read up to `columns` rounded up to
    /// [`MAX_LANES`](super::simd::MAX_LANES).
    pub b: &'a [f32],
    pub b_stride: usize,
    /// At most [`PANEL`].
    pub columns: usize,
    pub accumulate: bool,
    pub bias: Option<&'a [f32]>,
    pub out: O,
}

impl<O: Output> WithSimd for Tile<'_, O> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        self.run(s);
    }
}

impl<O: Output> Tile<'_, O> {
    /// The whole product, for a caller which is inside a dispatch already.
    #[inline(always)]
    pub(super) fn run<S: Simd>(&mut self, s: S) {
        let lanes = S::F32_LANES;
        let widest = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        let mut from = 0;
        while from < self.columns {
            let vectors = (self.columns - from).div_ceil(lanes).min(widest);
            match vectors {
                1 => self.strip::<S, 1>(s, from),
                2 => self.strip::<S, 2>(s, from),
                3 => self.strip::<S, 3>(s, from),
                _ => self.strip::<S, 4>(s, from),
            }
            from += vectors * lanes;
        }
    }

    /// `V` vectors of columns from column `from` on, for every row.
    #[inline(always)]
    fn strip<S: Simd, const V: usize>(&mut self, s: S, from: usize) {
        let mut i = 0;
        while i + ROWS <= self.m {
            self.block::<S, V, ROWS>(s, i, from);
            i += ROWS;
        }
        match self.m - i {
            0 => {}
            1 => self.block::<S, V, 1>(s, i, from),
            2 => self.block::<S, V, 2>(s, i, from),
            3 => self.block::<S, V, 3>(s, i, from),
            4 => self.block::<S, V, 4>(s, i, from),
            _ => self.block::<S, V, 5>(s, i, from),
        }
    }

    #[inline(always)]
    fn block<S: Simd, const V: usize, const M: usize>(&mut self, s: S, i: usize, from: usize) {
        let lanes = S::F32_LANES;
        let k = self.k;
        let a: [&[f32]; M] = core::array::from_fn(|r| &self.a[(i + r) * self.a_stride..][..k]);
        let mut sums = [[s.splat_f32s(0.0); V]; M];
        let b = &self.b[from..];
        for p in 0..k {
            let row = S::as_simd_f32s(&b[p * self.b_stride..][..V * lanes]).0;
            let vectors: [S::f32s; V] = core::array::from_fn(|v| row[v]);
            for r in 0..M {
                let broadcast = s.splat_f32s(a[r][p]);
                for v in 0..V {
                    sums[r][v] = s.mul_add_e_f32s(broadcast, vectors[v], sums[r][v]);
                }
            }
        }
        let to = self.columns.min(from + V * lanes);
        let bias = self.bias.map(|bias| &bias[from..to]);
        let rows = self.out.rows::<M>(i);
        for (sums, out) in sums.into_iter().zip(rows) {
            let out = &mut out[from..to];
            for (v, sum) in sums.into_iter().enumerate() {
                // The last vector can be partial, never empty.
                let end = out.len().min((v + 1) * lanes);
                let out = &mut out[v * lanes..end];
                let mut sum = sum;
                if self.accumulate {
                    sum = s.add_f32s(sum, s.partial_load_f32s(out));
                }
                if let Some(bias) = bias {
                    sum = s.add_f32s(sum, s.partial_load_f32s(&bias[v * lanes..end]));
                }
                s.partial_store_f32s(out, sum);
            }
        }
    }
}

/// Transposes at most [`PANEL`] rows of `k` elements into a panel `[k, PANEL]`, with zeros in the
/// columns which have no row. Row `j` is at `w[j * stride..][..k]`, the last one ends `w`.
pub(super) fn pack_transposed(w: &[f32], stride: usize, k: usize, panel: &mut [f32]) {
    const SIDE: usize = 8;
    let rows = w.len().div_ceil(stride);
    debug_assert!(rows <= PANEL && panel.len() >= k * PANEL);
    if rows < PANEL {
        panel[..k * PANEL].fill(0.0);
    }
    let mut j = 0;
    while j + SIDE <= rows {
        let source: [&[f32]; SIDE] = core::array::from_fn(|r| &w[(j + r) * stride..][..k]);
        for (p, row) in panel.chunks_exact_mut(PANEL).take(k).enumerate() {
            let row = &mut row[j..j + SIDE];
            for (v, source) in row.iter_mut().zip(source) {
                *v = source[p];
            }
        }
        j += SIDE;
    }
    while j < rows {
        for (p, &v) in w[j * stride..][..k].iter().enumerate() {
            panel[p * PANEL + j] = v;
        }
        j += 1;
    }
}

/// `out[i] += Σₚ a[p][i] · b[p]`: the product with `a` transposed, in place.
pub(super) struct TransposedTile<'a> {
    /// Row `p` is at `a[p * a_stride..][..m]`.
    pub a: &'a [f32],
    pub a_stride: usize,
    pub m: usize,
    pub k: usize,
    /// `[k, width]`.
    pub b: &'a [f32],
    /// A multiple of [`MAX_LANES`](super::simd::MAX_LANES).
    pub width: usize,
    /// `[m, width]`.
    pub out: &'a mut [f32],
}

impl TransposedTile<'_> {
    #[inline(always)]
    pub(super) fn run<S: Simd>(&mut self, s: S) {
        let lanes = S::F32_LANES;
        let widest = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        let mut from = 0;
        while from < self.width {
            let vectors = ((self.width - from) / lanes).min(widest);
            match vectors {
                1 => self.strip::<S, 1>(s, from),
                2 => self.strip::<S, 2>(s, from),
                3 => self.strip::<S, 3>(s, from),
                _ => self.strip::<S, 4>(s, from),
            }
            from += vectors * lanes;
        }
    }

    #[inline(always)]
    fn strip<S: Simd, const V: usize>(&mut self, s: S, from: usize) {
        let mut i = 0;
        while i + ROWS <= self.m {
            self.block::<S, V, ROWS>(s, i, from);
            i += ROWS;
        }
        while i < self.m {
            self.block::<S, V, 1>(s, i, from);
            i += 1;
        }
    }

    #[inline(always)]
    fn block<S: Simd, const V: usize, const M: usize>(&mut self, s: S, i: usize, from: usize) {
        let width = V * S::F32_LANES;
        let mut sums = [[s.splat_f32s(0.0); V]; M];
        let (a, b) = (&self.a[i..], &self.b[from..]);
        for p in 0..self.k {
            let row = S::as_simd_f32s(&b[p * self.width..][..width]).0;
            let vectors: [S::f32s; V] = core::array::from_fn(|v| row[v]);
            let column = &a[p * self.a_stride..][..M];
            for r in 0..M {
                let broadcast = s.splat_f32s(column[r]);
                for v in 0..V {
                    sums[r][v] = s.mul_add_e_f32s(broadcast, vectors[v], sums[r][v]);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let out = S::as_mut_simd_f32s(&mut self.out[(i + r) * self.width + from..][..width]).0;
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = s.add_f32s(*out, sum);
            }
        }
    }
}
