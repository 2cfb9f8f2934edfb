//! The mean change between two measurements of the same units.

use serde::{Deserialize, Serialize};

use crate::bootstrap::{BootstrapOptions, bootstrap_mean};
use crate::error::check_values;
use crate::{Interval, Result};

/// The mean difference over pairs, with a percentile interval of the bootstrap. Pairs are resampled, so variation that
/// both measurements share does not widen the interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// The mean of the second minus the first.
    pub mean: f64,
    /// Its interval; `None` with fewer than two pairs.
    pub interval: Option<Interval>,
    /// The number of pairs.
    pub pairs: usize,
}

impl Change {
    /// The change over pairs of a value before and one after; `None` without pairs.
    ///
    /// # Errors
    /// Invalid options, differences that are not finite.
    pub fn of(pairs: &[(f64, f64)], options: &BootstrapOptions) -> Result<Option<Self>> {
        let differences: Vec<f64> = pairs.iter().map(|(before, after)| after - before).collect();
        let n = differences.len();
        if n == 0 {
            return Ok(None);
        }
        check_values("the mean change", &differences, f64::is_finite)?;
        let mean = differences.iter().sum::<f64>() / n as f64;
        let interval = (n > 1).then(|| bootstrap_mean(&differences, options)).transpose()?;
        Ok(Some(Self { mean, interval, pairs: n }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_share_does_not_widen_the_interval() {
        // Values that vary widely, with differences near 1.
        let rise = |i: u32| 1.0 + (f64::from(i * i) * 0.37).sin();
        let pairs: Vec<(f64, f64)> = (0..40).map(|i| (f64::from(i * i), f64::from(i * i) + rise(i))).collect();
        let change = Change::of(&pairs, &BootstrapOptions::default()).unwrap().unwrap();
        let mean = (0..40).map(rise).sum::<f64>() / 40.0;
        let error = ((0..40).map(|i| (rise(i) - mean).powi(2)).sum::<f64>() / 40.0).sqrt() / 40f64.sqrt();
        assert!((change.mean - mean).abs() < 1e-9 && change.pairs == 40);
        let interval = change.interval.unwrap();
        // About 1.96 standard errors on both sides.
        let width = interval.width() / error;
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
