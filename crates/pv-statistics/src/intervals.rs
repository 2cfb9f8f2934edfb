//! Intervals and quantiles.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use crate::error::check_values;
use crate::moments::{mean, standard_error};
use crate::{Error, Result};

/// A confidence interval, including both ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    /// Whether it contains a value.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// The distance between its ends.
    pub fn width(&self) -> f64 {
        self.high - self.low
    }

    /// The percentile interval of the values: equal shares are cut off at both ends, with interpolation. Sorts the
    /// values.
    pub(crate) fn of_percentiles(values: &mut [f64], level: f64) -> Self {
        values.sort_by(f64::total_cmp);
        let outside = (1.0 - level) / 2.0;
        Self { low: of_sorted(values, outside), high: of_sorted(values, 1.0 - outside) }
    }
}

/// The value below which a share of the values lies (0.95: the 95th percentile), interpolated between neighbours (R's
/// type 7, numpy's default).
///
/// # Errors
/// [`Error::TooFew`] without values, [`Error::NotFinite`] for a NaN, [`Error::Share`].
///
/// ```
/// use pv_statistics::intervals::quantile;
/// assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), Ok(2.5));
/// ```
pub fn quantile(values: &[f64], share: f64) -> Result<f64> {
    let what = "a quantile";
    check_values(what, values, |value| !value.is_nan())?;
    if !(0.0..=1.0).contains(&share) {
        return Err(Error::Share { share });
    }
    if values.is_empty() {
        return Err(Error::TooFew { what, needed: 1, found: 0 });
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Ok(of_sorted(&sorted, share))
}

/// For at least one value, sorted.
fn of_sorted(values: &[f64], share: f64) -> f64 {
    let at = share * (values.len() - 1) as f64;
    let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// The number of standard deviations within which a normal variable lies with probability `level`: 1.96 for 0.95.
pub fn normal_reach(level: f64) -> f64 {
    Normal::standard().inverse_cdf(0.5 + level / 2.0)
}

/// The same for Student's t. Fewer than one degree of freedom count as one.
pub fn student_reach(level: f64, freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom.max(1.0)).map_or(f64::NAN, |t| t.inverse_cdf(0.5 + level / 2.0))
}

/// Student's interval of a mean, `m ± t·s/√n` with `n − 1` degrees of freedom; `None` with fewer than two values.
pub fn mean_interval(values: &[f64], level: f64) -> Option<Interval> {
    let (middle, error) = (mean(values)?, standard_error(values)?);
    let reach = student_reach(level, values.len() as f64 - 1.0) * error;
    Some(Interval { low: middle - reach, high: middle + reach })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a printed table of Student's distribution: 97.5 % points.
    const TABLE: [(usize, f64); 5] = [(1, 12.706), (3, 3.182), (9, 2.262), (19, 2.093), (30, 2.042)];

    #[test]
    fn the_interval_of_a_mean_is_students() {
        for (freedom, t) in TABLE {
            // n values with mean 50 and standard deviation 1 by construction: ±a, and 50 for odd n.
            let n = freedom + 1;
            let a = ((n - 1) as f64 / (n - n % 2) as f64).sqrt();
            let values: Vec<f64> = (0..n)
                .map(|i| match i {
                    _ if n % 2 == 1 && i == n - 1 => 50.0,
                    _ if i % 2 == 0 => 50.0 + a,
                    _ => 50.0 - a,
                })
                .collect();
            let Interval { low, high } = mean_interval(&values, 0.95).unwrap();
            let reach = t / (n as f64).sqrt();
            assert!((low - (50.0 - reach)).abs() < 1e-3 && (high - (50.0 + reach)).abs() < 1e-3, "{freedom}: {low}");
            assert!((student_reach(0.95, freedom as f64) - t).abs() < 1e-3);
        }
        assert_eq!(mean_interval(&[5.0], 0.95), None);
        assert_eq!(mean_interval(&[5.0, 5.0], 0.95), Some(Interval { low: 5.0, high: 5.0 }));
        assert!((normal_reach(0.95) - 1.959_963_984_540_054).abs() < 1e-9);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [3.0, 1.0, 2.0, 5.0, 4.0];
        for (share, expected) in [(0.0, 1.0), (0.25, 2.0), (0.5, 3.0), (0.6, 3.4), (1.0, 5.0)] {
            assert!((quantile(&values, share).unwrap() - expected).abs() < 1e-12, "{share}");
        }
        assert!(matches!(quantile(&[], 0.5), Err(Error::TooFew { .. })));
        assert!(matches!(quantile(&[1.0, f64::NAN], 0.5), Err(Error::NotFinite { index: 1, .. })));
        assert!(matches!(quantile(&[1.0], 1.5), Err(Error::Share { .. })));
        assert_eq!(Interval { low: 1.0, high: 3.5 }.width(), 2.5);
    }
}
