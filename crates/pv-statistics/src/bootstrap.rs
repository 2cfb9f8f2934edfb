//! The bootstrap: how much a statistic varies when the measured units are resampled.
//!
//! Resampled units must be independent. Answers to one question resemble each other, so questions are resampled, each
//! with all of its answers. If every question was asked under each of a few instruction pairs, questions and pairs are
//! resampled independently of each other (Owen 2007, the pigeonhole bootstrap). [`Draws`] states which units are
//! resampled.

use std::collections::BTreeSet;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{check_level, check_values};
use crate::moments::mean;
use crate::{Error, Interval, Result};

/// How often a draw is repeated if the statistic cannot be computed from it, before the data counts as too small.
const TRIES: usize = 1000;
/// The maximum number of resamples; more do not improve an interval.
const MOST: usize = 10_000_000;

/// Options of the bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootstrapOptions {
    /// The number of resamples.
    pub resamples: usize,
    /// The confidence level of the interval.
    pub level: f64,
    /// The seed of all draws. With one seed, the same units are drawn for every series of the same length.
    pub seed: u64,
}

impl Default for BootstrapOptions {
    /// 1000 resamples, 95 %, seed 0.
    fn default() -> Self {
        Self { resamples: 1000, level: 0.95, seed: 0 }
    }
}

impl BootstrapOptions {
    /// Refuses invalid options.
    ///
    /// # Errors
    /// [`Error::Resamples`], [`Error::Level`].
    pub fn check(&self) -> Result<()> {
        let Self { resamples, level, .. } = *self;
        if resamples == 0 || resamples > MOST {
            return Err(Error::Resamples { resamples, most: MOST });
        }
        check_level(level)
    }
}

/// The units that are drawn with replacement, as many as there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draws(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Units that are drawn within their stratum.
    Units { strata: Vec<Vec<usize>>, count: usize },
    /// Cells of two factors: the values of both factors for each cell, and the number of distinct values of each
    /// factor.
    Crossed { factors: [Vec<usize>; 2], counts: [usize; 2] },
}

/// One resample.
#[derive(Clone, Debug, PartialEq)]
pub struct Resample {
    /// How often each unit was drawn.
    pub drawn: Vec<f64>,
    /// 1 for each unit that has nothing in common with the drawn ones, 0 for the others.
    pub held_out: Vec<f64>,
}

impl Draws {
    /// Units that are drawn from all units.
    pub fn units(count: usize) -> Self {
        Self::strata(vec![(0..count).collect()])
    }

    /// Units `0..n` that are drawn within their stratum, as many of each stratum as it has units. Every unit must be in
    /// one stratum.
    pub fn strata(strata: Vec<Vec<usize>>) -> Self {
        let count = strata.iter().map(Vec::len).sum();
        Self(Kind::Units { strata, count })
    }

    /// Cells of two factors, such as questions and instruction pairs. A cell's weight is the number of times that its
    /// value of the first factor was drawn, times that of the second. Values are any numbers. `None` for factors of
    /// different lengths.
    pub fn crossed(first: &[usize], second: &[usize]) -> Option<Self> {
        let numbered = |values: &[usize]| {
            let distinct: Vec<usize> = values.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
            let number = |value: &usize| distinct.binary_search(value).unwrap_or_default();
            (values.iter().map(number).collect::<Vec<usize>>(), distinct.len())
        };
        let ((first, n), (second, m)) = (numbered(first), numbered(second));
        (first.len() == second.len()).then_some(Self(Kind::Crossed { factors: [first, second], counts: [n, m] }))
    }

    /// The number of units or cells.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kind::Units { count, .. } => *count,
            Kind::Crossed { factors, .. } => factors[0].len(),
        }
    }

    /// Whether there are no units.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of distinct values of each factor, for two crossed factors.
    pub fn factors(&self) -> Option<[usize; 2]> {
        match &self.0 {
            Kind::Units { .. } => None,
            Kind::Crossed { counts, .. } => Some(*counts),
        }
    }

    /// Draws one resample.
    pub fn draw(&self, random: &mut ChaCha8Rng) -> Resample {
        match &self.0 {
            Kind::Units { strata, count } => {
                let mut drawn = vec![0.0; *count];
                for stratum in strata {
                    for _ in stratum {
                        drawn[stratum[random.random_range(0..stratum.len())]] += 1.0;
                    }
                }
                let held_out = others(&drawn);
                Resample { drawn, held_out }
            }
            Kind::Crossed { factors: [first, second], counts } => {
                let [of_first, of_second] = counts.map(|count| {
                    let mut times = vec![0.0; count];
                    (0..count).for_each(|_| times[random.random_range(0..count)] += 1.0);
                    times
                });
                let both = || first.iter().zip(second).map(|(&a, &b)| (of_first[a], of_second[b]));
                Resample {
                    drawn: both().map(|(a, b)| a * b).collect(),
                    held_out: both().map(|(a, b)| if a + b == 0.0 { 1.0 } else { 0.0 }).collect(),
                }
            }
        }
    }

    /// The statistic of the first draw from which it can be computed; `None` if many draws fail.
    pub fn first<T>(&self, random: &mut ChaCha8Rng, statistic: impl Fn(&Resample) -> Option<T>) -> Option<T> {
        (0..TRIES).find_map(|_| statistic(&self.draw(random)))
    }
}

/// The units whose weight in `weights` is 0, with weight 1 each.
pub fn others(weights: &[f64]) -> Vec<f64> {
    weights.iter().map(|weight| if *weight > 0.0 { 0.0 } else { 1.0 }).collect()
}

/// A random number generator for each of many draws, so that they can be made in any order.
pub fn random(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    random
}

/// The statistic of each resample, in order. If the statistic cannot be computed from a resample (`None`), the resample
/// is drawn again.
///
/// # Errors
/// Invalid options; [`Error::TooFew`] if the statistic cannot be computed from many draws in a row.
pub fn resample<T: Send>(
    draws: &Draws,
    options: &BootstrapOptions,
    statistic: impl Fn(&Resample) -> Option<T> + Sync,
) -> Result<Vec<T>> {
    options.check()?;
    let found = draws.len();
    let one = |stream: usize| {
        let value = draws.first(&mut random(options.seed, stream as u64), &statistic);
        value.ok_or(Error::TooFew { what: "the bootstrap", needed: found + 1, found })
    };
    (0..options.resamples).into_par_iter().map(one).collect()
}

/// The percentile interval of a statistic's values over resamples: equal shares are cut off at both ends. Sorts the
/// values.
///
/// # Errors
/// [`Error::Level`], and [`Error::TooFew`] without values.
pub fn percentile_interval(values: &mut [f64], level: f64) -> Result<Interval> {
    check_level(level)?;
    if values.is_empty() {
        return Err(Error::TooFew { what: "a percentile interval", needed: 1, found: 0 });
    }
    Ok(Interval::of_percentiles(values, level))
}

/// The percentile interval of the mean of independent values. For the mean change between two measurements of the same
/// units, pass the differences ([`Change`](crate::Change)), so that pairs stay together.
///
/// # Errors
/// Invalid options, fewer than two values, and values that are not finite.
///
/// ```
/// use pv_statistics::bootstrap::{BootstrapOptions, bootstrap_mean};
/// let interval = bootstrap_mean(&[1.0, 2.0, 3.0, 4.0], &BootstrapOptions::default())?;
/// assert!(interval.contains(2.5) && interval.low >= 1.0 && interval.high <= 4.0);
/// # Ok::<(), pv_statistics::Error>(())
/// ```
pub fn bootstrap_mean(values: &[f64], options: &BootstrapOptions) -> Result<Interval> {
    options.check()?;
    let (what, n) = ("the bootstrap of a mean", values.len());
    if n < 2 {
        return Err(Error::TooFew { what, needed: 2, found: n });
    }
    check_values(what, values, f64::is_finite)?;
    let mean = |stream: usize| {
        let mut random = random(options.seed, stream as u64);
        (0..n).map(|_| values[random.random_range(0..n)]).sum::<f64>() / n as f64
    };
    let mut means: Vec<f64> = (0..options.resamples).into_par_iter().map(mean).collect();
    Ok(Interval::of_percentiles(&mut means, options.level))
}

/// How many standard errors the true mean lies below and above the mean of the values, by the studentized bootstrap:
/// percentiles of the resamples' (mean − resample's mean) / resample's standard error. It accounts for skewed values.
///
/// # Errors
/// Invalid options, fewer than two values.
pub fn studentized_reach(values: &[f64], options: &BootstrapOptions) -> Result<Interval> {
    options.check()?;
    let BootstrapOptions { resamples, level, seed } = *options;
    let n = values.len();
    let Some(middle) = mean(values).filter(|_| n > 1) else {
        return Err(Error::TooFew { what: "the studentized bootstrap", needed: 2, found: n });
    };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut ends: Vec<f64> = (0..resamples)
        .map(|_| {
            let (mut sum, mut squares) = (0.0, 0.0);
            for _ in 0..n {
                let value = values[random.random_range(0..n)] - middle;
                sum += value;
                squares += value * value;
            }
            let drawn = sum / n as f64;
            let variance = (squares - sum * drawn) / (n as f64 - 1.0);
            // A resample that repeats one value says nothing.
            if variance > 0.0 { -drawn / (variance / n as f64).sqrt() } else { 0.0 }
        })
        .collect();
    ends.sort_by(f64::total_cmp);
    let at = |part: f64| ends[((part * resamples as f64) as usize).min(resamples - 1)];
    Ok(Interval { low: at((1.0 - level) / 2.0), high: at(0.5 + level / 2.0) })
}

#[cfg(test)]
mod tests;
