//! Proportions of successes in a number of trials.

use serde::{Deserialize, Serialize};

use crate::Interval;
use crate::intervals::normal_reach;

/// The confidence level of the interval.
const LEVEL: f64 = 0.95;

/// The number of successes in a number of trials, with Wilson's 95 % interval. It stays within 0 and 1, and does not
/// shrink to nothing if all or no trials succeed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proportion {
    /// The number of successes.
    pub successes: usize,
    /// The number of trials, at least one.
    pub trials: usize,
    /// The proportion.
    pub value: f64,
    /// The lower end of its interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Proportion {
    /// The proportion in at least one trial; `None` without trials, or with more successes than trials.
    pub fn new(successes: usize, trials: usize) -> Option<Self> {
        let Interval { low, high } = wilson(successes as u64, trials as u64, LEVEL)?;
        Some(Self { successes, trials, value: successes as f64 / trials as f64, low, high })
    }

    /// Its interval.
    pub fn interval(&self) -> Interval {
        Interval { low: self.low, high: self.high }
    }
}

/// The mean of independent proportions, whatever their numbers of trials, with an interval that combines theirs (the
/// squared distances to the ends are summed on each side); `None` without proportions.
pub fn mean_proportion(proportions: &[Proportion]) -> Option<(f64, Interval)> {
    if proportions.is_empty() {
        return None;
    }
    let n = proportions.len() as f64;
    let over = |value: &dyn Fn(&Proportion) -> f64| proportions.iter().map(value).sum::<f64>();
    let mean = over(&|p| p.value) / n;
    let below = over(&|p| (p.value - p.low).powi(2)).sqrt() / n;
    let above = over(&|p| (p.high - p.value).powi(2)).sqrt() / n;
    Some((mean, Interval { low: (mean - below).max(0.0), high: (mean + above).min(1.0) }))
}

/// Wilson's score interval of a proportion; `None` without trials, with more successes than trials, or for a level that
/// is not between 0 and 1.
pub fn wilson(successes: u64, trials: u64, level: f64) -> Option<Interval> {
    if trials == 0 || successes > trials || !(level > 0.0 && level < 1.0) {
        return None;
    }
    let (n, value) = (trials as f64, successes as f64 / trials as f64);
    let z = normal_reach(level);
    let middle = (value + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let reach = z / (1.0 + z * z / n) * (value * (1.0 - value) / n + z * z / (4.0 * n * n)).sqrt();
    // Without successes or without failures, the interval's end is 0 or 1; computed, it would be off by rounding.
    let low = if successes == 0 { 0.0 } else { (middle - reach).clamp(0.0, value) };
    let high = if successes == trials { 1.0 } else { (middle + reach).clamp(value, 1.0) };
    Some(Interval { low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_where_a_score_test_does_not_reject() {
        // Wilson's interval contains exactly the p with |p̂ − p| ≤ z·√(p(1 − p)/n): its ends solve the equation.
        for (successes, trials) in [(0, 1), (1, 1), (3, 10), (25, 100), (100, 100), (7000, 14042)] {
            let found = Proportion::new(successes, trials).unwrap();
            for end in [found.low, found.high].into_iter().filter(|end| (1e-9..1.0 - 1e-9).contains(end)) {
                let z = (found.value - end).abs() / (end * (1.0 - end) / trials as f64).sqrt();
                assert!((z - 1.959_964).abs() < 1e-4, "{found:?}: {z}");
            }
            assert!(found.low <= found.value && found.value <= found.high && found.low < found.high);
            assert!(found.interval().contains(found.value));
        }
        // Ten of ten: the lower end is n / (n + z²).
        assert!((Proportion::new(10, 10).unwrap().low - 10.0 / (10.0 + 3.841_459)).abs() < 1e-6);
        assert_eq!((Proportion::new(0, 0), Proportion::new(2, 1)), (None, None));
        assert_eq!((wilson(1, 2, 0.0), wilson(1, 2, 1.0), wilson(1, 2, f64::NAN)), (None, None, None));
    }

    #[test]
    fn the_mean_of_proportions_is_more_certain_than_each() {
        let one = Proportion::new(30, 40).unwrap();
        let (mean, interval) = mean_proportion(&[one; 4]).unwrap();
        assert_eq!(mean, 0.75);
        assert!((interval.width() - one.interval().width() / 2.0).abs() < 1e-12, "{interval:?}");
        assert_eq!(mean_proportion(&[]), None);
    }

    /// Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    #[test]
    fn the_interval_is_the_published_one() {
        for (successes, trials, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let found = wilson(successes, trials, 0.95).unwrap();
            assert!((found.low - low).abs() < 5e-5 && (found.high - high).abs() < 5e-5, "{successes}: {found:?}");
        }
        assert_eq!(wilson(5, 5, 0.95).map(|found| found.high), Some(1.0));
        assert_eq!(wilson(0, 5, 0.95).map(|found| found.low), Some(0.0));
    }
}
