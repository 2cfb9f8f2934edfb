//! The variance of the mean over an answer, as a function of its length.

use pv_statistics::Distribution;
use pv_statistics::moments::mean;
use serde::{Deserialize, Serialize};

use super::reading::Answer;

/// Sums over ordinary answers that give the variance of a mean over `n` tokens, `between + within / n`: the variance
/// between answers, and that of their tokens.
///
/// `within` is fitted to the differences between the first and the second half of each answer. Neighbouring tokens are
/// correlated, so a mean over them varies more than one over as many independent tokens. This affects halves as it
/// affects whole answers, so the length of the correlation need not be known as long as it is less than half an answer.
/// `between` is the remainder of the variance of the means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    /// The number of answers with tokens.
    answers: u64,
    /// The sum of `1/n` over them.
    inverse_lengths: f64,
    /// The number of answers with at least two tokens.
    halved: u64,
    /// The sum of their weights, `1 / (1/a + 1/b)` for halves with `a` and `b` tokens.
    weights: f64,
    /// The weighted sum of the differences between the halves' means.
    differences: f64,
    /// The weighted sum of their squares.
    squares: f64,
}

impl Spread {
    pub(super) fn add(&mut self, answer: &Answer, watch: usize) {
        let tokens: Vec<f64> =
            answer.tokens().outer_iter().filter_map(|row| row.get(watch).map(|value| f64::from(*value))).collect();
        if tokens.is_empty() {
            return;
        }
        self.answers += 1;
        self.inverse_lengths += 1.0 / tokens.len() as f64;
        let (first, second) = tokens.split_at(tokens.len() / 2);
        let (Some(first_mean), Some(second_mean)) = (mean(first), mean(second)) else { return };
        let weight = 1.0 / (1.0 / first.len() as f64 + 1.0 / second.len() as f64);
        let difference = first_mean - second_mean;
        self.halved += 1;
        self.weights += weight;
        self.differences += weight * difference;
        self.squares += weight * difference * difference;
    }

    pub(super) fn merged(self, other: &Self) -> Self {
        Self {
            answers: self.answers.saturating_add(other.answers),
            inverse_lengths: self.inverse_lengths + other.inverse_lengths,
            halved: self.halved.saturating_add(other.halved),
            weights: self.weights + other.weights,
            differences: self.differences + other.differences,
            squares: self.squares + other.squares,
        }
    }

    /// The parts of the variance, `between` answers and `within` them, from these sums and the distribution of the
    /// means; `None` if they come from different answers, or from fewer than three with two tokens.
    pub(super) fn parts(&self, means: &Distribution) -> Option<VarianceParts> {
        let variance = means.sd()?.powi(2);
        if self.answers != means.n() || self.halved < 3 || self.weights <= 0.0 {
            return None;
        }
        let around = self.squares - self.differences * self.differences / self.weights;
        let within = (around / (self.halved - 1) as f64).max(0.0);
        // The contribution of tokens to the variance of the means of these lengths cannot exceed that variance.
        let inverse_length = self.inverse_lengths / self.answers as f64;
        let within = within.min(variance / inverse_length);
        Some(VarianceParts { between: (variance - within * inverse_length).max(0.0), within })
    }
}

/// The variance of the mean over an answer of `n` tokens: `between + within / n`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VarianceParts {
    /// The variance between answers, independent of their length.
    pub between: f64,
    /// The variance that tokens contribute, before division by their number.
    pub within: f64,
}

impl VarianceParts {
    /// The standard deviation of the mean over an answer of this many tokens, at least one.
    pub fn sd(&self, tokens: usize) -> f64 {
        (self.between + self.within / tokens.max(1) as f64).sqrt()
    }
}
