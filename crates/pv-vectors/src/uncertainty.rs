//! The uncertainty of a vector: whether halves of the data agree on it, and how well it separates the sides on new
//! questions.
//!
//! A persona vector is a difference of means. Its length is the gap between the two sides' mean projections on `v̂`:
//! measured on the rollouts that gave `v̂`, this gap *is* `‖v‖`. In thousands of dimensions noise alone has length, so
//! the gap is biased upwards. Resampling cannot show this, because within every resample the vector fits the noise
//! again. The numbers here are therefore of two kinds:
//! - with the direction **fixed** at the estimate from all data: how much the gap along this direction would vary with
//!   other questions. The interval is narrow, and optimistic about the position of the gap;
//! - **held out**: the direction is estimated from each resample, and the gap is measured on the questions that were
//!   not drawn into it (or fold by fold). This includes the uncertainty of the direction and fits no noise. A resample
//!   holds out only about a third of the questions, whose mean varies √(e − 1) ≈ 1.3 times as much as that of all
//!   questions: the interval is conservative.
//!
//! Questions are resampled if they are known: rollouts of one question are similar, and drawing them individually would
//! make the intervals too narrow. Rollouts under one instruction pair are similar too, and there are few pairs. If the
//! pairs are known as well, the intervals of the gap draw questions and pairs independently of each other (Owen 2007,
//! the pigeonhole bootstrap), and the held-out gap uses questions and pairs of which neither was drawn.

use ndarray::ArrayView1;
use pv_statistics::BootstrapOptions;
pub use pv_statistics::Interval;
use pv_statistics::bootstrap::{others, percentile_interval, random};
use pv_statistics::separation::{cohens_d, roc_auc};
use rayon::prelude::*;

use crate::activations::{Activations, ResampledUnit, Resampling, Units, alike, without};
use crate::error::SettingError;
use crate::{Error, Result};

/// Options for measuring stability.
#[derive(Clone, Debug, PartialEq)]
pub struct StabilityOptions {
    /// The number of resamples for the intervals.
    pub resamples: usize,
    /// The number of random halvings over which the split-half cosine is averaged.
    pub halvings: usize,
    /// The number of folds for the held-out projections.
    pub folds: usize,
    /// The fraction of the resamples that an interval covers.
    pub level: f64,
    /// The seed of all draws. The same seed draws the same questions at every layer.
    pub seed: u64,
}

impl Default for StabilityOptions {
    /// 1000 resamples, 100 halvings, 5 folds, 95 % intervals.
    fn default() -> Self {
        Self { resamples: 1000, halvings: 100, folds: 5, level: 0.95, seed: 0 }
    }
}

/// The cosines between vectors from two halves of the data.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SplitHalf {
    /// The mean cosine over the halvings. A vector from all data is better than one from half of them.
    pub mean: f64,
    /// The smallest cosine.
    pub least: f64,
}

/// The gap between the sides' mean projections, in activation units, and how it varies between resamples.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Gap {
    /// The gap on the data that gave the direction, which is the vector's length.
    pub gap: f64,
    /// The interval of the gap along that fixed direction.
    pub fixed: Interval,
    /// The mean gap along directions from resamples, measured on the data not drawn into them.
    pub held_out: f64,
    /// The interval of the held-out gap.
    pub held_out_interval: Interval,
    /// The units that were resampled.
    pub resampled: ResampledUnit,
}

/// How stable the vector at one layer is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
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

/// All stability statistics of one layer.
///
/// # Errors
/// Those of [`split_half_cosine`], [`bootstrap_gap`] and [`held_out_projections`].
pub fn stability(pos: &Activations<'_>, neg: &Activations<'_>, options: &StabilityOptions) -> Result<Stability> {
    let split_half = split_half_cosine(pos, neg, options.halvings, options.seed)?;
    let StabilityOptions { resamples, level, seed, .. } = *options;
    let gap = bootstrap_gap(pos, neg, &BootstrapOptions { resamples, level, seed })?;
    let (p, n) = held_out_projections(pos, neg, options.folds, options.seed)?;
    Ok(Stability {
        split_half,
        gap,
        // With one rollout per side there is no variance.
        held_out_cohens_d: cohens_d(&p, &n).unwrap_or(f64::NAN),
        held_out_auc: roc_auc(&p, &n).unwrap_or(f64::NAN),
    })
}

/// The cosine between the vectors of two random halves of the questions, over `halvings` halvings.
///
/// # Errors
/// [`Error::TooFewUnits`] if no halving leaves both sides in both halves, [`Error::NoDirection`] if the sides of a half
/// do not differ, [`Error::Unlike`] for activations of different layers or widths.
pub fn split_half_cosine(
    pos: &Activations<'_>,
    neg: &Activations<'_>,
    halvings: usize,
    seed: u64,
) -> Result<SplitHalf> {
    let units = Units::new(pos, neg)?;
    let what = "the split-half cosine";
    if halvings == 0 {
        return Err(SettingError::Zero { name: "the number of halvings" }.into());
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

/// The gap between the sides' mean projections, in activation units, with percentile intervals. Questions and
/// instruction pairs are resampled if both are known for all rows and each side has more than one pair; else questions;
/// else rollouts.
///
/// # Errors
/// [`Error::TooFewUnits`] if no resample has both sides in it and out of it, [`Error::NoDirection`] if the sides do not
/// differ, [`Error::Statistics`] for invalid options, [`Error::Unlike`] for activations of different layers or widths.
pub fn bootstrap_gap(pos: &Activations<'_>, neg: &Activations<'_>, options: &BootstrapOptions) -> Result<Gap> {
    let units = Resampling::new(pos, neg)?;
    options.check()?;
    let layer = pos.layer();
    let difference = units.difference(&vec![1.0; units.len()]).unwrap_or_default();
    let gap = dot(&difference, &difference).sqrt();
    if gap == 0.0 {
        return Err(Error::NoDirection { operation: "the difference of means", layer });
    }
    let gaps = units.resample(options, |resample| {
        let [drawn, left] =
            [&resample.drawn, &resample.held_out].map(|weights| units.difference(weights).unwrap_or_default());
        let norm = dot(&drawn, &drawn).sqrt();
        if norm == 0.0 {
            return Err(Error::NoDirection { operation: "resampling", layer });
        }
        Ok((dot(&drawn, &difference) / gap, dot(&left, &drawn) / norm))
    })?;
    let (mut fixed, mut held_out): (Vec<f64>, Vec<f64>) = gaps.into_iter().unzip();
    Ok(Gap {
        gap,
        fixed: percentile_interval(&mut fixed, options.level)?,
        held_out: held_out.iter().sum::<f64>() / options.resamples as f64,
        held_out_interval: percentile_interval(&mut held_out, options.level)?,
        resampled: units.unit,
    })
}

/// The projections of the rollouts of `pos` and `neg` on the unit vector from the questions of the other folds, in
/// activation units: how well the vector separates rollouts that it was not estimated from.
///
/// # Errors
/// [`Error::TooFewUnits`] if a fold would leave a side empty, [`Error::NoDirection`], [`Error::Setting`] for fewer than
/// two folds, [`Error::Unlike`] for activations of different layers or widths.
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
                return Err(Error::NoDirection { operation: "estimating without a fold", layer: pos.layer() });
            }
            Ok(difference.into_iter().map(|value| value / norm).collect())
        })
        .collect::<Result<Vec<Vec<f64>>>>()?;
    let project = |side: usize, rows: &Activations<'_>| {
        let project = |(row, unit): (ArrayView1<'_, f32>, &usize)| {
            row.iter().zip(&directions[parts[*unit]]).map(|(a, b)| f64::from(*a) * b).sum()
        };
        rows.rows().zip(&units.of[side]).map(project).collect()
    };
    Ok((project(0, pos), project(1, neg)))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
pub(crate) mod tests;
