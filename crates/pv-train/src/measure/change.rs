//! A mean change between two measurements of the same things.

use pv_vectors::{Interval, bootstrap_mean, number_field};
use serde::{Deserialize, Serialize};

use super::error::{MeasureError, Result};

/// How intervals are resampled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootstrapOptions {
    /// How many resamples the interval is taken from.
    pub resamples: usize,
    /// What part of them it covers.
    pub level: f64,
    /// The seed of all draws; one seed draws the same pairs for every series of the same length.
    pub seed: u64,
}

impl Default for BootstrapOptions {
    /// 1000 resamples, 95 %, seed 0.
    fn default() -> Self {
        Self { resamples: 1000, level: 0.95, seed: 0 }
    }
}

/// The mean difference over pairs, and how it varies with other pairs: a percentile interval of the bootstrap, in which
/// pairs are drawn, so that what both measurements share does not widen it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The mean of the second minus the first.
    pub mean: f64,
    /// Where it lies in resamples; `None` with fewer than two pairs.
    pub interval: Option<Interval>,
    /// How many pairs there are.
    pub pairs: usize,
}

impl Change {
    /// Of pairs of a value before and one after; `None` without pairs.
    ///
    /// # Errors
    /// Options that make no sense, values that are not finite.
    pub fn of(pairs: &[(f64, f64)], options: &BootstrapOptions) -> Result<Option<Self>> {
        let differences: Vec<f64> = pairs.iter().map(|(before, after)| after - before).collect();
        let n = differences.len();
        if n == 0 {
            return Ok(None);
        }
        let BootstrapOptions { resamples, level, seed } = *options;
        let mean = differences.iter().sum::<f64>() / n as f64;
        if !mean.is_finite() {
            return Err(MeasureError::bad("a measured value is not a finite number"));
        }
        let interval = (n > 1).then(|| bootstrap_mean(&differences, resamples, level, seed)).transpose()?;
        Ok(Some(Self { mean, interval, pairs: n }))
    }

    /// The headers of a change's columns in a table.
    pub(crate) fn columns(name: &str) -> [String; 4] {
        ["", "_low", "_high", "_pairs"].map(|part| format!("{name}{part}"))
    }

    /// A change's fields in a table.
    pub(crate) fn fields(change: Option<&Self>) -> [String; 4] {
        let interval = change.and_then(|change| change.interval);
        let [mean, low, high] =
            [change.map(|c| c.mean), interval.map(|i| i.low), interval.map(|i| i.high)].map(number_field);
        [mean, low, high, change.map_or(0, |change| change.pairs).to_string()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_share_does_not_widen_the_interval() {
        // Values that differ widely, with differences near 1.
        let rise = |i: u32| 1.0 + (f64::from(i * i) * 0.37).sin();
        let pairs: Vec<(f64, f64)> = (0..40).map(|i| (f64::from(i * i), f64::from(i * i) + rise(i))).collect();
        let change = Change::of(&pairs, &BootstrapOptions::default()).unwrap().unwrap();
        let mean = (0..40).map(rise).sum::<f64>() / 40.0;
        let error = ((0..40).map(|i| (rise(i) - mean).powi(2)).sum::<f64>() / 40.0).sqrt() / 40f64.sqrt();
        assert!((change.mean - mean).abs() < 1e-9 && change.pairs == 40);
        let interval = change.interval.unwrap();
        // About 1.96 standard errors to either side.
        let width = (interval.high - interval.low) / error;
        assert!(interval.contains(mean) && (width - 2.0 * 1.96).abs() < 0.4, "{width} standard errors");
        assert_eq!(Change::of(&pairs, &BootstrapOptions::default()).unwrap(), Some(change));
        let other = Change::of(&pairs, &BootstrapOptions { seed: 1, ..BootstrapOptions::default() }).unwrap().unwrap();
        assert_ne!(other.interval, change.interval);
    }

    #[test]
    fn few_pairs_and_bad_values() {
        let options = BootstrapOptions::default();
        assert_eq!(Change::of(&[], &options).unwrap(), None);
        let one = Change::of(&[(1.0, 3.0)], &options).unwrap();
        assert_eq!(one, Some(Change { mean: 2.0, interval: None, pairs: 1 }));
        assert!(Change::of(&[(1.0, f64::NAN), (1.0, 1.0)], &options).is_err());
        for bad in [BootstrapOptions { resamples: 0, ..options }, BootstrapOptions { level: 1.0, ..options }] {
            assert!(Change::of(&[(1.0, 2.0), (1.0, 1.0)], &bad).is_err());
        }
    }
}
