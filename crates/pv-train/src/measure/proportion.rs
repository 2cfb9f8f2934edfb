//! A part of a whole number of trials.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

/// The part of repetitions, with other trials, whose interval covers the true proportion.
const LEVEL: f64 = 0.95;

/// How many of a number of trials succeeded, with Wilson's 95 % interval: it stays within 0 and 1, and does not shrink to
/// nothing when all or none succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proportion {
    /// How many succeeded.
    pub successes: usize,
    /// How many there were; at least one.
    pub trials: usize,
    /// The proportion.
    pub value: f64,
    /// The lower end of its interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Proportion {
    /// Of at least one trial; `None` of none, or with more successes than trials.
    pub fn new(successes: usize, trials: usize) -> Option<Self> {
        if trials == 0 || successes > trials {
            return None;
        }
        let (n, value) = (trials as f64, successes as f64 / trials as f64);
        let z = Normal::standard().inverse_cdf(0.5 + LEVEL / 2.0);
        let middle = (value + z * z / (2.0 * n)) / (1.0 + z * z / n);
        let reach = z / (1.0 + z * z / n) * (value * (1.0 - value) / n + z * z / (4.0 * n * n)).sqrt();
        // Rounding must not make an end of the scale lie outside.
        let (low, high) = ((middle - reach).clamp(0.0, value), (middle + reach).clamp(value, 1.0));
        Some(Self { successes, trials, value, low, high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_where_a_score_test_does_not_reject() {
        // Wilson's interval holds exactly the p with |p̂ − p| ≤ z·√(p(1 − p)/n): its ends solve the equation.
        for (successes, trials) in [(0, 1), (1, 1), (3, 10), (25, 100), (100, 100), (7000, 14042)] {
            let found = Proportion::new(successes, trials).unwrap();
            for end in [found.low, found.high].into_iter().filter(|end| (1e-9..1.0 - 1e-9).contains(end)) {
                let z = (found.value - end).abs() / (end * (1.0 - end) / trials as f64).sqrt();
                assert!((z - 1.959_964).abs() < 1e-4, "{found:?}: {z}");
            }
            assert!(found.low <= found.value && found.value <= found.high && found.low < found.high);
        }
        // Ten of ten: the lower end is n / (n + z²).
        assert!((Proportion::new(10, 10).unwrap().low - 10.0 / (10.0 + 3.841_459)).abs() < 1e-6);
        assert_eq!((Proportion::new(0, 0), Proportion::new(2, 1)), (None, None));
    }
}
