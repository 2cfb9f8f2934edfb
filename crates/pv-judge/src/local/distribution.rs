//! The probabilities of the numbers with which a reply may start.

use crate::score::{Evidence, LEAST_MASS};
use crate::{Abstention, Score, Verdict};

/// The probability of every number from 0 to 100 as the start of a model's reply.
///
/// A number is written as the model's tokenizer writes it after the prompt, at the very start or after one space if the
/// tokenizer keeps that space; both are counted. Other splits of the same characters into tokens, on which a model is
/// not trained, are not counted.
///
/// If the tokens of one number are a prefix of another ("8" of "85", when digits are tokens), the reply means the
/// longest: the probability of "8" is that of its tokens, times the probability that none of the tokens follows that
/// would continue to another number in `0..=100`. Other tokens may follow: "100" counts if the reply continues with
/// "%", and if it continues with a fourth digit, as for a judge that may write one token only. No reply counts for two
/// numbers, and the probabilities of all numbers and of everything else sum to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberDistribution {
    /// One value per number, 101.
    numbers: Vec<f64>,
    refusal: f64,
}

impl Default for NumberDistribution {
    /// No number.
    fn default() -> Self {
        Self { numbers: vec![0.0; 101], refusal: 0.0 }
    }
}

impl NumberDistribution {
    pub(super) fn add(&mut self, number: usize, probability: f64) {
        self.numbers[number] += probability;
    }

    pub(super) fn add_refusal(&mut self, probability: f64) {
        self.refusal += probability;
    }

    /// The probability of each number: 101 values, indexed by number.
    pub fn numbers(&self) -> &[f64] {
        &self.numbers
    }

    /// The probability of the word `REFUSAL`, at the very start or after a space.
    pub fn refusal(&self) -> f64 {
        self.refusal
    }

    /// The probability that the reply starts with a number.
    pub fn mass(&self) -> f64 {
        // Sums of rounded probabilities may slightly exceed 1.
        self.numbers.iter().sum::<f64>().min(1.0)
    }

    /// The expectation over the numbers, `Σ k·p(k) / Σ p(k)`; `None` if all have probability 0.
    pub fn expectation(&self) -> Option<f64> {
        let mass: f64 = self.numbers.iter().sum();
        let sum: f64 = self.numbers.iter().enumerate().map(|(number, probability)| number as f64 * probability).sum();
        (mass > 0.0).then(|| (sum / mass).clamp(0.0, 100.0))
    }

    /// The expectation as a score, or an abstention if the numbers have less than [`LEAST_MASS`] of the probability.
    pub fn verdict(&self) -> Verdict {
        let mass = self.mass();
        match self.expectation() {
            Some(value) if mass >= LEAST_MASS => {
                Verdict::Scored(Score { value, evidence: Evidence::Distribution { mass } })
            }
            _ => Verdict::Abstained(Abstention::NoMass { mass, refusal: Some(self.refusal) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_takes_a_quarter_of_the_probability() {
        let mut distribution = NumberDistribution::default();
        assert_eq!(distribution.expectation(), None);
        distribution.add_refusal(0.5);
        distribution.add(80, 0.125);
        distribution.add(100, 0.0625);
        let none = Abstention::NoMass { mass: 0.1875, refusal: Some(0.5) };
        assert_eq!(distribution.verdict(), Verdict::Abstained(none));
        distribution.add(0, 0.0625);
        assert_eq!((distribution.mass(), distribution.expectation()), (0.25, Some(65.0)));
        let score = Score { value: 65.0, evidence: Evidence::Distribution { mass: 0.25 } };
        assert_eq!(distribution.verdict(), Verdict::Scored(score));
    }

    #[test]
    fn what_is_not_a_number_is_no_score() {
        let mut distribution = NumberDistribution::default();
        distribution.add(50, f64::NAN);
        assert!(matches!(distribution.verdict(), Verdict::Abstained(_)));
    }
}
