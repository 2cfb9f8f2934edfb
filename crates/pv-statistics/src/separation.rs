//! Comparison of two sets of values.

use serde::{Deserialize, Serialize};

use crate::error::{check_level, check_values};
use crate::intervals::normal_reach;
use crate::{Error, Interval, Result};

/// The difference of two means in units of the pooled standard deviation; `None` with fewer than two values on a side,
/// values that are not finite, or no variance.
///
/// ```
/// assert_eq!(pv_statistics::separation::cohens_d(&[3.0, 5.0], &[2.0, 2.0]), Some(2.0));
/// ```
pub fn cohens_d(pos: &[f64], neg: &[f64]) -> Option<f64> {
    if pos.len() < 2 || neg.len() < 2 {
        return None;
    }
    let moments = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>())
    };
    let ((p, p_squares), (n, n_squares)) = (moments(pos), moments(neg));
    let deviation = ((p_squares + n_squares) / (pos.len() + neg.len() - 2) as f64).sqrt();
    let d = (p - n) / deviation;
    d.is_finite().then_some(d)
}

/// The area under the ROC curve: the probability that a value of `pos` exceeds one of `neg`, with ties counted as half.
/// Exact, in the time that sorting takes. `None` if a side is empty or contains a NaN.
///
/// ```
/// use pv_statistics::separation::roc_auc;
/// assert_eq!(roc_auc(&[2.0, 3.0], &[1.0, 2.0]), Some(0.875));
/// assert_eq!(roc_auc(&[2.0], &[]), None);
/// ```
pub fn roc_auc(pos: &[f64], neg: &[f64]) -> Option<f64> {
    if pos.is_empty() || neg.is_empty() || pos.iter().chain(neg).any(|value| value.is_nan()) {
        return None;
    }
    let mut all: Vec<(f64, bool)> =
        pos.iter().map(|value| (*value, true)).chain(neg.iter().map(|value| (*value, false))).collect();
    all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    // Twice the number of ordered pairs, so that a tie, which counts half, gives a whole number.
    let (mut below, mut doubled) = (0u128, 0u128);
    // −0 and 0 are neighbours in this order, and equal.
    for tied in all.chunk_by(|a, b| a.0 == b.0) {
        let positive = tied.iter().filter(|(_, positive)| *positive).count() as u128;
        let negative = tied.len() as u128 - positive;
        doubled += positive * (2 * below + negative);
        below += negative;
    }
    Some(doubled as f64 / (2.0 * pos.len() as f64 * neg.len() as f64))
}

/// The area under the ROC curve of two sets, with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Auc {
    /// The area under the ROC curve.
    pub value: f64,
    /// Its interval.
    pub interval: Interval,
}

/// The area under the ROC curve with the interval of Newcombe (2006, method 5): the areas that the Hanley–McNeil
/// variance at that area does not exclude. It stays within 0 and 1, and does not shrink to nothing if the sets are
/// perfectly separated.
///
/// # Errors
/// [`Error::TooFew`] for an empty set, [`Error::NotFinite`] for a NaN, [`Error::Level`].
pub fn auc(pos: &[f64], neg: &[f64], level: f64) -> Result<Auc> {
    check_level(level)?;
    let what = "the area under a ROC curve";
    check_sets(what, pos, neg, |value| !value.is_nan())?;
    let value = roc_auc(pos, neg).ok_or(Error::TooFew { what, needed: 1, found: 0 })?;
    let (m, n) = (pos.len() as f64, neg.len() as f64);
    let z = normal_reach(level);
    let more = (m + n) / 2.0 - 1.0;
    let variance = |a: f64| a * (1.0 - a) * (1.0 + more * ((1.0 - a) / (2.0 - a) + a / (1.0 + a))) / (m * n);
    let excluded = |a: f64| (a - value).abs() > z * variance(a).sqrt();
    // The excluded areas lie beyond one point on each side, which bisection finds.
    let edge = |far: f64| {
        let (mut out, mut inside) = (far, value);
        for _ in 0..60 {
            let middle = f64::midpoint(out, inside);
            if excluded(middle) { out = middle } else { inside = middle }
        }
        inside
    };
    Ok(Auc { value, interval: Interval { low: edge(0.0), high: edge(1.0) } })
}

/// The Kolmogorov–Smirnov distance of two sets, and its significance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KolmogorovSmirnov {
    /// The largest difference between the two distribution functions.
    pub distance: f64,
    /// The probability of such a distance or a larger one between samples of one distribution, asymptotically (with
    /// Stephens' correction for small sets).
    pub p: f64,
}

/// The Kolmogorov–Smirnov distance.
///
/// # Errors
/// [`Error::TooFew`] for an empty set, [`Error::NotFinite`] for a NaN.
pub fn kolmogorov_smirnov(left: &[f64], right: &[f64]) -> Result<KolmogorovSmirnov> {
    check_sets("the distance of two sets", left, right, |value| !value.is_nan())?;
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let (a, b) = (sorted(left), sorted(right));
    let (m, n) = (a.len() as f64, b.len() as f64);
    let (mut i, mut j, mut distance) = (0, 0, 0.0f64);
    while i < a.len() && j < b.len() {
        let at = a[i].min(b[j]);
        i += a[i..].iter().take_while(|value| **value <= at).count();
        j += b[j..].iter().take_while(|value| **value <= at).count();
        distance = distance.max((i as f64 / m - j as f64 / n).abs());
    }
    let size = (m * n / (m + n)).sqrt();
    let lambda = (size + 0.12 + 0.11 / size) * distance;
    let term = |k: i32| f64::from(1 - 2 * ((k + 1) % 2)) * (-2.0 * f64::from(k * k) * lambda * lambda).exp();
    // The series converges slowly near 0, where its value is 1.
    let p = if lambda < 0.2 { 1.0 } else { (2.0 * (1..=100).map(term).sum::<f64>()).clamp(0.0, 1.0) };
    Ok(KolmogorovSmirnov { distance, p })
}

/// Two sets counted in the same bins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Histograms {
    /// The bins' edges, one more than there are bins. A bin includes its lower edge; the last one also its upper edge.
    pub edges: Vec<f64>,
    /// The number of values of the first set in each bin.
    pub left: Vec<usize>,
    /// The number of values of the second set in each bin.
    pub right: Vec<usize>,
}

/// Counts two sets in bins of equal width over the range of both.
///
/// # Errors
/// [`Error::NoBins`], [`Error::TooFew`] without values, [`Error::NotFinite`].
pub fn histograms(left: &[f64], right: &[f64], bins: usize) -> Result<Histograms> {
    let what = "a histogram";
    if bins == 0 {
        return Err(Error::NoBins);
    }
    if left.is_empty() && right.is_empty() {
        return Err(Error::TooFew { what, needed: 1, found: 0 });
    }
    check_values(what, left, f64::is_finite)?;
    check_values(what, right, f64::is_finite)?;
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in left.iter().chain(right) {
        (low, high) = (low.min(*value), high.max(*value));
    }
    if low == high {
        (low, high) = (low - 0.5, high + 0.5);
    }
    let width = (high - low) / bins as f64;
    let count = |values: &[f64]| {
        let mut counts = vec![0; bins];
        values.iter().for_each(|value| counts[(((value - low) / width) as usize).min(bins - 1)] += 1);
        counts
    };
    let edges = (0..=bins).map(|bin| low + width * bin as f64).collect();
    Ok(Histograms { edges, left: count(left), right: count(right) })
}

/// Refuses an empty set, and values that do not satisfy `holds`.
fn check_sets(what: &'static str, left: &[f64], right: &[f64], holds: impl Fn(f64) -> bool) -> Result<()> {
    for set in [left, right] {
        if set.is_empty() {
            return Err(Error::TooFew { what, needed: 1, found: 0 });
        }
        check_values(what, set, &holds)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
