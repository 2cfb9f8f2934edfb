//! How much the mean over an answer varies, whatever its length.

use serde::{Deserialize, Serialize};

use super::{Answer, Distribution};

/// Sums over ordinary answers from which the variance of a mean over `n` tokens follows, `between + within / n`: what answers differ
/// by, and what their tokens do.
///
/// `within` is fitted to the differences between the first and the second half of each answer. Neighbouring tokens go together,
/// which makes a mean over them vary more than that of as many independent ones; halves feel that as whole answers do, so that
/// nothing has to be known of how far it reaches, as long as it is less than half an answer. `between` is what is left of the
/// variance of the means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    /// Answers with tokens.
    answers: u64,
    /// The sum of `1/n` over them.
    inverse_lengths: f64,
    /// Answers of two tokens or more.
    halved: u64,
    /// The sum of weights over those, `1 / (1/a + 1/b)` where the halves have `a` and `b` tokens.
    weights: f64,
    /// The weighted sum of the differences between the halves' means.
    differences: f64,
    /// The weighted sum of their squares.
    squares: f64,
}

impl Spread {
    pub(super) fn add(&mut self, answer: &Answer, watch: usize) {
        let tokens: Vec<f64> =
            answer.tokens().iter().filter_map(|values| values.get(watch)).map(|v| f64::from(*v)).collect();
        if tokens.is_empty() {
            return;
        }
        self.answers += 1;
        self.inverse_lengths += 1.0 / tokens.len() as f64;
        let (first, second) = tokens.split_at(tokens.len() / 2);
        if first.is_empty() {
            return;
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let weight = 1.0 / (1.0 / first.len() as f64 + 1.0 / second.len() as f64);
        let difference = mean(first) - mean(second);
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

    /// The parts of the variance, `between` answers and `within` them, from these sums and the distribution of the means; `None` where
    /// they are of other answers, or of fewer than three with two tokens.
    pub(super) fn parts(&self, means: &Distribution) -> Option<VarianceParts> {
        let variance = means.sd()?.powi(2);
        if self.answers != means.n() || self.halved < 3 || self.weights <= 0.0 {
            return None;
        }
        let around = self.squares - self.differences * self.differences / self.weights;
        let within = (around / (self.halved - 1) as f64).max(0.0);
        // What tokens add to the variance of the means of these lengths cannot be more than that variance.
        let inverse_length = self.inverse_lengths / self.answers as f64;
        let within = within.min(variance / inverse_length);
        Some(VarianceParts { between: (variance - within * inverse_length).max(0.0), within })
    }
}

/// What the mean over an answer of `n` tokens varies by: `between + within / n`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct VarianceParts {
    /// The variance between answers, however long they are.
    pub between: f64,
    /// The variance that tokens add, over their number.
    pub within: f64,
}

impl VarianceParts {
    /// The standard deviation of the mean over an answer of so many tokens, at least one.
    pub fn sd(&self, tokens: usize) -> f64 {
        (self.between + self.within / tokens.max(1) as f64).sqrt()
    }
}
