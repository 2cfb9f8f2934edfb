//! Cross-entropy of rows of logits.

use rayon::prelude::*;

use crate::vector::Vector;
use crate::vector::level::{Op, dispatch};
use crate::{lanes, rows_per_task};

struct LogSumExp<'a>(&'a [f32]);

impl Op for LogSumExp<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> f32 {
        lanes::log_sum_exp(v, self.0)
    }
}

struct Softmax<'a> {
    x: &'a mut [f32],
    /// The logarithm of the sum of the exponentials.
    log_sum: f32,
    factor: f32,
}

impl Op for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let (shift, factor) = (v.splat(self.log_sum), v.splat(self.factor));
        lanes::update(
            v,
            self.x,
            [],
            #[inline(always)]
            |x, []| v.mul(lanes::exp(v, v.sub(x, shift)), factor),
        );
    }
}

/// Returns the sum over the rows of `logits`, `[targets.len(), vocab]`, of −log softmax at the row's target. Writes the
/// logarithm of each row's sum of exponentials to `log_sums`, `[targets.len()]`, for the gradient.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn cross_entropy(logits: &[f32], targets: &[usize], vocab: usize, log_sums: &mut [f32]) -> f32 {
    assert_eq!(logits.len(), targets.len() * vocab, "cross_entropy: logits are not [n, vocab]");
    assert_eq!(log_sums.len(), targets.len(), "cross_entropy: log_sums is not [n]");
    let row = |(log_sum, row): (&mut f32, &[f32])| *log_sum = dispatch(LogSumExp(row));
    match rows_per_task(targets.len(), vocab) {
        None => log_sums.iter_mut().zip(logits.chunks_exact(vocab)).for_each(row),
        Some(rows) => {
            log_sums.par_iter_mut().zip(logits.par_chunks_exact(vocab)).with_min_len(rows).for_each(row);
        }
    }
    let rows = logits.chunks_exact(vocab).zip(targets).zip(&*log_sums);
    rows.map(|((row, &target), &log_sum)| f64::from(log_sum) - f64::from(row[target])).sum::<f64>() as f32
}

/// Replaces logits with their gradient: the softmax, less one at the target, times `upstream`.
///
/// # Panics
/// If the length of a slice does not match the shapes above.
pub fn cross_entropy_gradient(logits: &mut [f32], targets: &[usize], vocab: usize, log_sums: &[f32], upstream: f32) {
    assert_eq!(logits.len(), targets.len() * vocab, "cross_entropy_gradient: logits are not [n, vocab]");
    let row = |(x, (&target, &log_sum)): (&mut [f32], (&usize, &f32))| {
        dispatch(Softmax { x, log_sum, factor: upstream });
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
