//! How far a vector can be trusted: whether halves of the data agree on it, and how well it tells new questions apart.
//!
//! A persona vector is a difference of means, and so is its length: the gap between the two sides' mean projections on
//! `v̂`, measured on the rollouts that gave `v̂`, *is* `‖v‖`. In thousands of dimensions noise alone has length, so that
//! this gap is too large, and resampling cannot show it: within every resample the vector fits its own noise again. The
//! numbers here therefore come in two kinds:
//! - with the direction **fixed** at the estimate from all data: how much the gap along this one direction would vary
//!   with other questions. Narrow, and optimistic about where the gap lies;
//! - **held out**: the direction is estimated anew from each resample and the gap taken on the questions that were not
//!   drawn into it (or fold by fold). It includes the direction's own uncertainty and fits no noise. A resample leaves
//!   out about a third of the questions only, whose mean varies √(e − 1) ≈ 1.3 times as much as that of all: the interval
//!   errs on the side of caution.
//!
//! What is drawn are questions, where they are known: rollouts of one question resemble each other, and drawing them one
//! by one would make the intervals too narrow. So do those under one pair of instructions, of which there are few: where
//! these are known too, the gap's intervals draw questions and pairs, each independently of the other (Owen 2007, the
//! pigeonhole bootstrap), and the gap that is held out is that on questions and pairs that were both not drawn.

use rand::RngExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::activations::{ResampledUnit, Resampling, Units, alike, others, random, without};
use crate::{Activations, Error, Result};

/// How stability is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct StabilityOptions {
    /// How many resamples the intervals are taken from.
    pub resamples: usize,
    /// How many random halvings the split-half cosine is the mean over.
    pub halvings: usize,
    /// How many parts the held-out projections leave out in turn.
    pub folds: usize,
    /// What part of the resamples an interval covers.
    pub level: f64,
    /// The seed of all draws. One seed draws the same questions at every layer.
    pub seed: u64,
}

impl Default for StabilityOptions {
    /// 1000 resamples, 100 halvings, 5 folds, 95 % intervals.
    fn default() -> Self {
        Self { resamples: 1000, halvings: 100, folds: 5, level: 0.95, seed: 0 }
    }
}

/// A percentile interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    /// Whether it holds a value.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// What remains of the values without an equal part at either end, interpolated between them.
    fn of(values: &mut [f64], level: f64) -> Self {
        values.sort_by(f64::total_cmp);
        let quantile = |p: f64| {
            let at = p * (values.len() - 1) as f64;
            let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
            below + (above - below) * at.fract()
        };
        let outside = (1.0 - level) / 2.0;
        Self { low: quantile(outside), high: quantile(1.0 - outside) }
    }
}

/// The cosines between vectors from two halves of the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SplitHalf {
    /// The mean cosine over the halvings. A vector from all data is better than one from a half.
    pub mean: f64,
    /// The least cosine of them.
    pub least: f64,
}

/// The gap between the sides' mean projections, and how it varies between resamples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gap {
    /// The gap on the data that gave the direction: the vector's length.
    pub gap: f64,
    /// Where the gap along that fixed direction lies in resamples.
    pub fixed: Interval,
    /// The mean gap along directions from resamples, on what was not drawn into them.
    pub held_out: f64,
    /// Where that gap lies.
    pub held_out_interval: Interval,
    /// What was drawn into the resamples.
    pub resampled: ResampledUnit,
}

/// How stable the vector at one layer is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stability {
    /// The agreement between halves of the data.
    pub split_half: SplitHalf,
    /// The gap between the sides.
    pub gap: Gap,
    /// Cohen's d of the held-out projections.
    pub held_out_cohens_d: f64,
    /// The ROC-AUC of the held-out projections.
    pub held_out_auc: f64,
}

/// All figures of one layer.
///
/// # Errors
/// As [`split_half_cosine`], [`bootstrap_gap`] and [`held_out_projections`].
pub fn stability(pos: &Activations<'_>, neg: &Activations<'_>, options: &StabilityOptions) -> Result<Stability> {
    let split_half = split_half_cosine(pos, neg, options.halvings, options.seed)?;
    let gap = bootstrap_gap(pos, neg, options.resamples, options.level, options.seed)?;
    let (p, n) = held_out_projections(pos, neg, options.folds, options.seed)?;
    Ok(Stability {
        split_half,
        gap,
        // One rollout per side has no variance to measure a distance in.
        held_out_cohens_d: cohens_d(&p, &n).unwrap_or(f64::NAN),
        held_out_auc: roc_auc(&p, &n).unwrap_or(f64::NAN),
    })
}

/// The cosine between the vectors of two random halves of the questions, over `halvings` halvings.
///
/// # Errors
/// [`Error::TooFewUnits`] when no halving leaves both sides in both halves, [`Error::NoDirection`] when a half has no
/// difference, [`Error::Unlike`] for activations that do not go together.
pub fn split_half_cosine(
    pos: &Activations<'_>,
    neg: &Activations<'_>,
    halvings: usize,
    seed: u64,
) -> Result<SplitHalf> {
    let units = Units::new(pos, neg)?;
    let what = "the split-half cosine";
    if halvings == 0 {
        return Err(Error::BadSetting { reason: format!("{what} over no halvings") });
    }
    let cosine = |stream: usize| -> Result<f64> {
        let found = units.len();
        let half = units.half(&mut random(seed, stream as u64)).ok_or(Error::TooFewUnits { what, found })?;
        let other = others(&half);
        let [a, b] = [half, other].map(|half| units.difference(&half).unwrap_or_default());
        let norms = (dot(&a, &a) * dot(&b, &b)).sqrt();
        if norms > 0.0 {
            Ok((dot(&a, &b) / norms).clamp(-1.0, 1.0))
        } else {
            Err(Error::NoDirection { operation: "halving the data", layer: pos.layer() })
        }
    };
    let cosines = (0..halvings).into_par_iter().map(cosine).collect::<Result<Vec<f64>>>()?;
    let least = cosines.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(SplitHalf { mean: cosines.iter().sum::<f64>() / halvings as f64, least })
}

/// The gap between the sides' mean projections with percentile intervals that cover `level` of the resamples, which are
/// drawn over questions and pairs of instructions where both are known for all rows and a side has more than one pair.
///
/// # Errors
/// [`Error::TooFewUnits`] when no resample has both sides in it and out of it, [`Error::NoDirection`] when there is no
/// difference, [`Error::BadSetting`], and [`Error::Unlike`] for activations that do not go together.
pub fn bootstrap_gap(
    pos: &Activations<'_>,
    neg: &Activations<'_>,
    resamples: usize,
    level: f64,
    seed: u64,
) -> Result<Gap> {
    let units = Resampling::new(pos, neg)?;
    let what = "the bootstrap";
    check_bootstrap(resamples, level)?;
    let layer = pos.layer();
    let difference = units.difference(&vec![1.0; units.len()]).unwrap_or_default();
    let gap = dot(&difference, &difference).sqrt();
    if gap == 0.0 {
        return Err(Error::NoDirection { operation: "the difference of means", layer });
    }
    let resample = |stream: usize| -> Result<(f64, f64)> {
        let found = units.len();
        let drawn = units.draw(&mut random(seed, stream as u64)).ok_or(Error::TooFewUnits { what, found })?;
        let [drawn, left] = drawn.map(|weights| units.difference(&weights).unwrap_or_default());
        let norm = dot(&drawn, &drawn).sqrt();
        if norm == 0.0 {
            return Err(Error::NoDirection { operation: "resampling", layer });
        }
        Ok((dot(&drawn, &difference) / gap, dot(&left, &drawn) / norm))
    };
    let gaps = (0..resamples).into_par_iter().map(resample).collect::<Result<Vec<_>>>()?;
    let (mut fixed, mut held_out): (Vec<f64>, Vec<f64>) = gaps.into_iter().unzip();
    Ok(Gap {
        gap,
        fixed: Interval::of(&mut fixed, level),
        held_out: held_out.iter().sum::<f64>() / resamples as f64,
        held_out_interval: Interval::of(&mut held_out, level),
        resampled: units.unit,
    })
}

/// The percentile interval of the mean of values that can be drawn independently, which covers `level` of the resamples.
/// For the mean change between two measurements of the same things, give the differences: the pairs then stay together.
///
/// # Errors
/// [`Error::BadSetting`], also for fewer than two values and for values that are not finite.
///
/// ```
/// let interval = pv_vectors::bootstrap_mean(&[1.0, 2.0, 3.0, 4.0], 1000, 0.95, 0).expect("an interval");
/// assert!(interval.contains(2.5) && interval.low >= 1.0 && interval.high <= 4.0);
/// ```
pub fn bootstrap_mean(values: &[f64], resamples: usize, level: f64, seed: u64) -> Result<Interval> {
    check_bootstrap(resamples, level)?;
    let n = values.len();
    if n < 2 {
        return Err(Error::BadSetting { reason: format!("the bootstrap of {n} values; at least 2 are needed") });
    }
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(Error::BadSetting { reason: format!("the bootstrap of values among which is {value}") });
    }
    let resample = |stream: usize| {
        let mut random = random(seed, stream as u64);
        (0..n).map(|_| values[random.random_range(0..n)]).sum::<f64>() / n as f64
    };
    let mut means: Vec<f64> = (0..resamples).into_par_iter().map(resample).collect();
    Ok(Interval::of(&mut means, level))
}

fn check_bootstrap(resamples: usize, level: f64) -> Result<()> {
    /// Beyond these no interval becomes any sharper.
    const MOST: usize = 10_000_000;
    if resamples == 0 || resamples > MOST || !(level > 0.0 && level < 1.0) {
        let reason = format!("the bootstrap of {resamples} resamples for an interval that covers {level} of them");
        return Err(Error::BadSetting { reason });
    }
    Ok(())
}

/// The projection of every rollout of `pos` and `neg` on the unit vector from the questions of the other folds: what
/// separates the sides without having seen them.
///
/// # Errors
/// [`Error::TooFewUnits`] when some fold would leave a side empty, [`Error::NoDirection`], [`Error::BadSetting`] for fewer
/// than two folds, and [`Error::Unlike`] for activations that do not go together.
pub fn held_out_projections(
    pos: &Activations<'_>,
    neg: &Activations<'_>,
    folds: usize,
    seed: u64,
) -> Result<(Vec<f64>, Vec<f64>)> {
    alike(pos, neg)?;
    let units = Units::new(pos, neg)?;
    let parts = units.folds(folds, seed, "the held-out projection")?;
    let directions = (0..folds)
        .map(|fold| {
            let difference = units.difference(&without(&parts, fold)).unwrap_or_default();
            let norm = dot(&difference, &difference).sqrt();
            if norm == 0.0 {
                return Err(Error::NoDirection { operation: "leaving out a fold", layer: pos.layer() });
            }
            Ok(difference.into_iter().map(|value| value / norm).collect())
        })
        .collect::<Result<Vec<Vec<f64>>>>()?;
    let project = |side: usize, rows: &Activations<'_>| {
        let project = |(row, unit): (&[f32], &usize)| {
            row.iter().zip(&directions[parts[*unit]]).map(|(a, b)| f64::from(*a) * b).sum()
        };
        rows.rows().zip(&units.of[side]).map(project).collect()
    };
    Ok((project(0, pos), project(1, neg)))
}

/// The difference of two means in units of the pooled standard deviation; `None` with fewer than two values on a side,
/// values that are not finite, or no variance.
///
/// ```
/// assert_eq!(pv_vectors::cohens_d(&[3.0, 5.0], &[2.0, 2.0]), Some(2.0));
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

/// The area under the ROC curve: the probability that a value of `pos` exceeds one of `neg`, ties counting half. Exact, in
/// the time that sorting takes. `None` when a side is empty or holds a NaN.
///
/// ```
/// use pv_vectors::roc_auc;
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
    // Twice the number of pairs that are in order, a tie counting as one half: whole numbers.
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

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
pub(crate) mod tests;
