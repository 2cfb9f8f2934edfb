//! Correlation of two series of numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

use crate::bootstrap::{BootstrapOptions, Draws, percentile_interval, resample};
use crate::intervals::{normal_reach, student_reach};
use crate::{Interval, Result};

/// Pearson's correlation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Correlation {
    /// r, from −1 to 1.
    pub r: f64,
    /// The number of pairs.
    pub pairs: usize,
}

impl Correlation {
    /// The confidence interval of the true correlation at `level`, such as 0.95, by Fisher's transformation:
    /// `tanh(artanh r ± z / √(n − 3))`. It is valid for independent pairs from a bivariate normal distribution and
    /// approximate otherwise. For clustered pairs see [`clustered_interval`].
    ///
    /// With three pairs the interval is −1 to 1. `None` for a level that is not between 0 and 1.
    pub fn interval(&self, level: f64) -> Option<Interval> {
        if !(level > 0.0 && level < 1.0) {
            return None;
        }
        if self.pairs <= FEWEST {
            return Some(ANYTHING);
        }
        let z = normal_reach(level);
        let (middle, reach) = (self.r.atanh(), z / ((self.pairs - FEWEST) as f64).sqrt());
        Some(Interval { low: (middle - reach).tanh(), high: (middle + reach).tanh() })
    }
}

/// With this many pairs or fewer, nothing is known of the true correlation.
const FEWEST: usize = 3;
const ANYTHING: Interval = Interval { low: -1.0, high: 1.0 };

/// Pearson's r: how well a straight line describes the pairs.
///
/// `None` with fewer than three pairs, with a value that is not finite, or if one side does not vary.
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

/// Spearman's ρ: Pearson's r of the ranks, where equal values share their mean rank. It measures whether both sides
/// rise together, linearly or not.
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

/// Pearson's r after both sides are centred on their means in the pair's group. Groups of one pair are excluded; `None`
/// as for [`pearson`].
pub fn pearson_within<G: Ord>(rows: impl IntoIterator<Item = (G, (f64, f64))>) -> Option<Correlation> {
    let mut groups: BTreeMap<G, Vec<(f64, f64)>> = BTreeMap::new();
    rows.into_iter().for_each(|(group, pair)| groups.entry(group).or_default().push(pair));
    let mut left = Vec::new();
    for pairs in groups.values().filter(|pairs| pairs.len() > 1) {
        let n = pairs.len() as f64;
        let (x, y) = pairs.iter().fold((0.0, 0.0), |(x, y), pair| (x + pair.0 / n, y + pair.1 / n));
        // Values that are constant except for rounding must not count as variation.
        let steady = |value: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().all(|pair| value(pair) == value(&pairs[0]));
        let (x_steady, y_steady) = (steady(&|pair| pair.0), steady(&|pair| pair.1));
        let deviation = |value: f64, mean: f64, steady: bool| if steady { 0.0 } else { value - mean };
        left.extend(pairs.iter().map(|pair| (deviation(pair.0, x, x_steady), deviation(pair.1, y, y_steady))));
    }
    pearson(&left)
}

/// Clustered rows, such as the answers to one prompt: they resemble each other and are resampled together.
#[derive(Clone, Debug)]
pub struct Clusters {
    /// The rows of each cluster.
    rows: Vec<Vec<usize>>,
    /// The clusters of each stratum, within which they are drawn.
    strata: Vec<Vec<usize>>,
}

impl Clusters {
    /// Rows with equal labels form a cluster.
    pub fn new<L: Ord>(labels: &[L]) -> Self {
        Self::within(labels, &vec![(); labels.len()])
    }

    /// The same, with clusters drawn within their group, as many of each group as it has. A cluster's group is that of
    /// its first row; rows without one count as a group of their own.
    pub fn within<L: Ord, G: Ord>(labels: &[L], groups: &[G]) -> Self {
        let mut by_label: BTreeMap<&L, Vec<usize>> = BTreeMap::new();
        labels.iter().enumerate().for_each(|(row, label)| by_label.entry(label).or_default().push(row));
        let rows: Vec<Vec<usize>> = by_label.into_values().collect();
        let mut strata: BTreeMap<Option<&G>, Vec<usize>> = BTreeMap::new();
        for (cluster, rows) in rows.iter().enumerate() {
            strata.entry(groups.get(rows[0])).or_default().push(cluster);
        }
        let strata = strata.into_values().collect();
        Self { rows, strata }
    }

    /// The 95 % interval of a correlation over resampled clusters, by [`clustered_interval`] with default options;
    /// `None` if the correlation cannot be computed from the rows.
    pub fn interval(&self, statistic: impl Fn(&[usize]) -> Option<f64> + Sync) -> Option<Interval> {
        // The default options are valid, so no error is lost.
        clustered_interval(self, &BootstrapOptions::default(), statistic).ok().flatten()
    }

    /// The number of clusters.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no clusters.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// The interval of a correlation when clusters of rows are drawn with replacement. `statistic` receives the rows of a
/// resample, each row as often as its cluster was drawn. If it returns `None` (because a side does not vary), the
/// resample is drawn again.
///
/// It is a percentile interval whose level corrects for the narrowness of percentile intervals with few clusters
/// (Hesterberg 2015, the expanded percentile interval): each tail has the probability `Φ(−t·√(n/(n − 1)))`, with
/// Student's `t` at `n − 1` degrees of freedom, one fewer for each group beyond the first. With three clusters or fewer
/// it is −1 to 1. `None` if the correlation cannot be computed from the rows.
///
/// # Errors
/// Invalid options.
pub fn clustered_interval(
    clusters: &Clusters,
    options: &BootstrapOptions,
    statistic: impl Fn(&[usize]) -> Option<f64> + Sync,
) -> Result<Option<Interval>> {
    options.check()?;
    let all: Vec<usize> = clusters.rows.iter().flatten().copied().collect();
    if statistic(&all).is_none() {
        return Ok(None);
    }
    let n = (clusters.len() + 1).saturating_sub(clusters.strata.len());
    if n <= FEWEST {
        return Ok(Some(ANYTHING));
    }
    let draws = Draws::strata(clusters.strata.clone());
    let found = resample(&draws, options, |resample| {
        let drawn = clusters.rows.iter().zip(&resample.drawn);
        let rows: Vec<usize> =
            drawn.flat_map(|(rows, times)| std::iter::repeat_n(rows, *times as usize)).flatten().copied().collect();
        statistic(&rows)
    });
    // If hardly any draw varies on both sides, as little is known as with three clusters.
    let Ok(mut found) = found else { return Ok(Some(ANYTHING)) };
    let n = n as f64;
    let tail = Normal::standard().cdf(-student_reach(options.level, n - 1.0) * (n / (n - 1.0)).sqrt());
    percentile_interval(&mut found, 1.0 - 2.0 * tail).map(Some)
}

/// Differences from the mean, divided by the largest of them so that their squares do not overflow or underflow. `None`
/// if the values are not finite or all the same.
fn deviations(values: impl ExactSizeIterator<Item = f64> + Clone) -> Option<Vec<f64>> {
    let first = values.clone().next()?;
    // A sum of equal numbers may differ from their multiple, so equality is tested directly.
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

/// The rank of each value, from 1; equal values share the mean of their ranks.
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
