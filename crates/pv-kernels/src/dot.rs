//! Products with few rows: each output element is one dot product over contiguous memory.
//!
//! The weights are read once, in place. Each output element has one vector accumulator, filled in
//! the order of the columns, so a row's result does not depend on how many rows come with it.

use pulp::{Simd, WithSimd};

/// Rows of weights taken together: as many concurrent streams from memory.
pub(super) const COLUMNS: usize = 4;

/// `out[i][j] = x[i] . w[j] (+ bias[j])` for `j` in `0..n`; `out` holds one slice of `n` per row.
pub(super) struct Dot<'a, 'b> {
    /// `[out.len(), k]`.
    pub x: &'a [f32],
    /// `[n, k]`.
    pub w: &'a [f32],
    pub k: usize,
    /// `[n]`.
    pub bias: Option<&'a [f32]>,
    pub out: &'a mut [&'b mut [f32]],
}

impl WithSimd for Dot<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let n = self.w.len() / self.k;
        let mut j = 0;
        while j + COLUMNS <= n {
            self.rows::<S, COLUMNS>(s, j);
            j += COLUMNS;
        }
        while j < n {
            self.rows::<S, 1>(s, j);
            j += 1;
        }
    }
}

impl Dot<'_, '_> {
    /// The columns `j..j + N` of every row.
    #[inline(always)]
    fn rows<S: Simd, const N: usize>(&mut self, s: S, j: usize) {
        let m = self.out.len();
        let mut i = 0;
        // 4 x 4 accumulators fit 32 registers; with 16 registers 2 x 4 do.
        if S::REGISTER_COUNT >= 32 {
            while i + 4 <= m {
                self.block::<S, 4, N>(s, i, j);
                i += 4;
            }
        }
        while i + 2 <= m {
            self.block::<S, 2, N>(s, i, j);
            i += 2;
        }
        if i < m {
            self.block::<S, 1, N>(s, i, j);
        }
    }

    #[inline(always)]
    fn block<S: Simd, const M: usize, const N: usize>(&mut self, s: S, i: usize, j: usize) {
        let k = self.k;
        let x: [_; M] = core::array::from_fn(|r| S::as_simd_f32s(&self.x[(i + r) * k..][..k]));
        let w: [_; N] = core::array::from_fn(|c| S::as_simd_f32s(&self.w[(j + c) * k..][..k]));
        let mut sums = [[s.splat_f32s(0.0); N]; M];
        let full = k / S::F32_LANES;
        let xs = x.map(|(body, _)| &body[..full]);
        let ws = w.map(|(body, _)| &body[..full]);
        // The rows of weights to come, spread over the blocks that share the present ones.
        let blocks = self.out.len().div_ceil(4);
        let first = i / 4 * N / blocks;
        let ahead = (i / 4 + 1) * N / blocks - first;
        for p in 0..full {
            let columns = ws.map(|w| w[p]);
            // A fixed count where there is one block, as in decoding, keeps the loop tight.
            if ahead == N {
                for c in 0..N {
                    prefetch(self.w, (j + N + c) * k + p * S::F32_LANES);
                }
            } else {
                for c in 0..ahead {
                    prefetch(self.w, (j + N + first + c) * k + p * S::F32_LANES);
                }
            }
            for r in 0..M {
                let v = xs[r][p];
                for c in 0..N {
                    sums[r][c] = s.mul_add_e_f32s(v, columns[c], sums[r][c]);
                }
            }
        }
        if full * S::F32_LANES < k {
            let columns = w.map(|(_, tail)| s.partial_load_f32s(tail));
            for r in 0..M {
                let v = s.partial_load_f32s(x[r].1);
                for c in 0..N {
                    sums[r][c] = s.mul_add_e_f32s(v, columns[c], sums[r][c]);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let out = &mut self.out[i + r][j..j + N];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = s.reduce_sum_f32s(sum);
            }
            if let Some(bias) = self.bias {
                for (out, &bias) in out.iter_mut().zip(&bias[j..j + N]) {
                    *out += bias;
                }
            }
        }
    }
}

/// Asks for the memory around `w[at]`, which may be past the end, ahead of its use.
#[inline(always)]
#[allow(unsafe_code, reason = "a hint to the processor")]
fn prefetch(w: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint, which never faults and reads nothing the program can see, so
    // any address will do; SSE is part of x86-64.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (w, at);
}
