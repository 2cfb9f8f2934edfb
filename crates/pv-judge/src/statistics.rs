//! How two series of numbers go together.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

/// Pearson's correlation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correlation {
    /// r, from −1 to 1.
    pub r: f64,
    /// The number of pairs.
    pub pairs: usize,
}

impl Correlation {
    /// The interval that covers the true correlation with probability `level`, such as 0.95, by Fisher's transformation:
    /// `tanh(artanh r ± z / √(n − 3))`. It is meant for pairs from a bivariate normal distribution, and rough otherwise.
    ///
    /// Three pairs tell nothing: the interval is −1 to 1. `None` for a level that is not between 0 and 1.
    pub fn interval(&self, level: f64) -> Option<(f64, f64)> {
        if !(level > 0.0 && level < 1.0) {
            return None;
        }
        if self.pairs <= 3 {
            return Some((-1.0, 1.0));
        }
        let z = Normal::standard().inverse_cdf(0.5 + level / 2.0);
        let (middle, reach) = (self.r.atanh(), z / ((self.pairs - 3) as f64).sqrt());
        Some(((middle - reach).tanh(), (middle + reach).tanh()))
    }
}

/// Pearson's r: how well a straight line describes the pairs.
///
/// `None` with fewer than three pairs, with a value that is not finite, or when one side does not vary.
pub fn pearson(pairs: &[(f64, f64)]) -> Option<Correlation> {
    if pairs.len() < 3 {
        return None;
    }
    let x = deviations(pairs.iter().map(|pair| pair.0))?;
    let y = deviations(pairs.iter().map(|pair| pair.1))?;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let r = product(&x, &y) / (product(&x, &x).sqrt() * product(&y, &y).sqrt());
    r.is_finite().then(|| Correlation { r: r.clamp(-1.0, 1.0), pairs: pairs.len() })
}

/// Spearman's ρ: Pearson's r of the ranks, where equal values share the mean of their ranks. It asks whether both sides
/// rise together, in a straight line or not.
///
/// `None` as for [`pearson`].
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.iter().any(|(x, y)| !x.is_finite() || !y.is_finite()) {
        return None;
    }
    let (x, y): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let ranked: Vec<(f64, f64)> = ranks(&x).into_iter().zip(ranks(&y)).collect();
    pearson(&ranked).map(|correlation| correlation.r)
}

/// Differences from the mean, divided by the greatest of them so that their squares are in range. `None` when the values
/// are not finite or all the same.
fn deviations(values: impl ExactSizeIterator<Item = f64> + Clone) -> Option<Vec<f64>> {
    let first = values.clone().next()?;
    // Sums of equal numbers may differ from a multiple of them, so that "all the same" must be asked directly.
    if values.clone().all(|value| value == first) {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.clone().map(|value| value / n).sum::<f64>();
    let differences: Vec<f64> = values.map(|value| value - mean).collect();
    let greatest = differences.iter().fold(0.0, |most: f64, difference| most.max(difference.abs()));
    let scaled: Vec<f64> = differences.iter().map(|difference| difference / greatest).collect();
    scaled.iter().all(|value| value.is_finite()).then_some(scaled)
}

/// The rank of each value, from 1; equal values have the mean of the ranks that they take up together.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = before as f64 + (equal.len() + 1) as f64 / 2.0;
        equal.iter().for_each(|&index| ranks[index] = rank);
        before += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests;
