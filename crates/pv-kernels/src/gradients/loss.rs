//! Cross-entropy of rows of logits.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::{rows_per_task, simd};

struct LogSumExp<'a>(&'a [f32]);

impl WithSimd for LogSumExp<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> f32 {
        let largest = simd::max(s, self.0);
        let shift = s.splat_f32s(largest);
        let (body, tail) = S::as_simd_f32s(self.0);
        let mut sum = s.splat_f32s(0.0);
        for &x in body {
            sum = s.add_f32s(sum, simd::exp(s, s.sub_f32s(x, shift)));
        }
        let mut total = s.reduce_sum_f32s(sum);
        for &x in tail {
            total += (x - largest).exp();
        }
        largest + total.ln()
    }
}

struct Softmax<'a> {
    x: &'a mut [f32],
    /// The logarithm of the sum of the exponentials.
    log_sum: f32,
    factor: f32,
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (shift, factor) = (s.splat_f32s(self.log_sum), s.splat_f32s(self.factor));
        let (body, tail) = S::as_mut_simd_f32s(self.x);
        for x in body {
            *x = s.mul_f32s(simd::exp(s, s.sub_f32s(*x, shift)), factor);
        }
        for x in tail {
            *x = (*x - self.log_sum).exp() * self.factor;
        }
    }
}

/// The sum over the rows of `logits`, `[targets.len(), vocab]`, of −log softmax at the row's target; and each row's
/// logarithm of the sum of the exponentials, for the gradient.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
pub fn cross_entropy(logits: &[f32], targets: &[usize], vocab: usize, log_sums: &mut [f32]) -> f32 {
    assert_eq!(logits.len(), targets.len() * vocab, "cross_entropy: logits are not [n, vocab]");
    assert_eq!(log_sums.len(), targets.len(), "cross_entropy: log_sums is not [n]");
    let row = |(log_sum, row): (&mut f32, &[f32])| *log_sum = simd::dispatch(LogSumExp(row));
    match rows_per_task(targets.len(), vocab) {
        None => log_sums.iter_mut().zip(logits.chunks_exact(vocab)).for_each(row),
        Some(rows) => {
            log_sums.par_iter_mut().zip(logits.par_chunks_exact(vocab)).with_min_len(rows).for_each(row);
        }
    }
    let rows = logits.chunks_exact(vocab).zip(targets).zip(&*log_sums);
    rows.map(|((row, &target), &log_sum)| f64::from(log_sum) - f64::from(row[target])).sum::<f64>() as f32
}

/// Replaces logits by their gradient: the softmax, less one at the target, times `upstream`.
///
/// # Panics
/// If a slice is not of the length that the shapes above give it.
pub fn cross_entropy_gradient(logits: &mut [f32], targets: &[usize], vocab: usize, log_sums: &[f32], upstream: f32) {
    assert_eq!(logits.len(), targets.len() * vocab, "cross_entropy_gradient: logits are not [n, vocab]");
    let row = |(x, (&target, &log_sum)): (&mut [f32], (&usize, &f32))| {
        simd::dispatch(Softmax { x, log_sum, factor: upstream });
        x[target] -= upstream;
    };
    match rows_per_task(targets.len(), vocab) {
        None => logits.chunks_exact_mut(vocab).zip(targets.iter().zip(log_sums)).for_each(row),
        Some(rows) => {
            let known = targets.par_iter().zip(log_sums);
            logits.par_chunks_exact_mut(vocab).zip(known).with_min_len(rows).for_each(row);
        }
    }
}
