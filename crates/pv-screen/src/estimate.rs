//! Estimates of a data set's projection difference if base answers are known only for a random subset.

mod linear;
mod sequential;

use pv_statistics::bootstrap::{random, studentized_reach};
use pv_statistics::intervals::{normal_reach, student_reach};
use pv_statistics::moments::{mean, squared_deviations};
use pv_statistics::{BootstrapOptions, Interval};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::error::SettingError;
use crate::{Error, Result};
use linear::Fit;
pub(crate) use sequential::after_looks;
pub use sequential::{Decision, FIRST_LOOK, Look, Sequential, Stop};

/// The projections of one sample on one direction, in activation units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// The projection of the data set's answer.
    pub answer: f64,
    /// The projection of the prompt's last token.
    pub prompt_last: f64,
    /// The projection of the base model's answer, for a random part of the samples.
    pub base: Option<f64>,
    /// The number of times that the sample occurs in the data set.
    pub count: f64,
}

impl Known {
    /// The sample's own ΔP, if the base answer is known.
    pub fn delta(&self) -> Option<f64> {
        Some(self.answer - self.base?)
    }
}

/// Methods for estimating ΔP. `x` are the prompts, `A` and `B` the projections of the data set's and of the base
/// model's answers, `p` that of the prompt's last token (method.md §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The mean of `A − B` over the samples whose base answer is known.
    Subset,
    /// The mean of `A − (a + b·p)` over all samples, with `B ≈ a + b·p` fitted to the samples whose base answer is
    /// known. Biased if the relation is not linear; the interval accounts for the fit's uncertainty, but not for this
    /// bias.
    Proxy,
    /// The mean of `A − B ≈ a + b·A + c·p` over all samples, corrected by the mean residual over the samples whose base
    /// answer is known. Each residual is computed with a fit to other samples, so the estimate is unbiased whatever the
    /// relation.
    ControlVariate,
}

/// The method for computing an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalKind {
    /// Student's t.
    T,
    /// Student's t or the studentized bootstrap of the differences (or residuals); at either end, the one that reaches
    /// further. The bootstrap accounts for skewness, which occurs in a data set with a few bad samples, and Student's t
    /// for what a small subset may not contain. With more than 10 000 base answers, only Student's t is used, because
    /// both agree there.
    Bootstrap {
        /// The number of resamples; more are drawn if the level requires them.
        resamples: usize,
    },
}

/// Options of estimates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EstimateOptions {
    /// The confidence level: the fraction of repetitions, with other random subsets, whose interval covers the true
    /// value.
    pub level: f64,
    /// The method for computing intervals.
    pub interval: IntervalKind,
    /// The number of folds of the control variate's subset; each fit leaves one fold out.
    pub folds: usize,
    /// Whether the true value is the data set's own ΔP. The error is then zero if all base answers are known. Otherwise
    /// it is that of a population of which the data set is a sample.
    pub finite: bool,
    /// The seed of folds and resamples.
    pub seed: u64,
}

impl Default for EstimateOptions {
    fn default() -> Self {
        Self { level: 0.95, interval: IntervalKind::Bootstrap { resamples: 1000 }, folds: 10, finite: true, seed: 0 }
    }
}

/// An estimate of ΔP and its error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Estimate {
    /// The method.
    pub method: Method,
    /// The estimate, in activation units.
    pub value: f64,
    /// The standard error, in activation units.
    pub standard_error: f64,
    /// The interval, in activation units.
    pub interval: Interval,
    /// The confidence level of the interval.
    pub level: f64,
    /// The number of looks at growing subsets after which the estimate was made, if a look could have stopped the
    /// growth; 0 for a fixed size. With looks, the interval is the wider one of a single look at the level `1 − (1 −
    /// level) / (looks·(looks + 1))`, so that it covers the true value at `level` whichever look was the last
    /// ([`Sequential`]).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub looks: usize,
    /// The number of known base answers.
    pub known: usize,
    /// The number of samples.
    pub total: usize,
    /// The variance of the differences or residuals from which the error is computed, in activation units².
    pub variance: f64,
    /// The ratio of that variance to the variance of the plain differences. For the same width, the control variate
    /// needs about this fraction of the plain subset's generations; it does not help if the ratio is 1 or more.
    pub variance_ratio: f64,
}

fn is_zero(looks: &usize) -> bool {
    *looks == 0
}

impl Estimate {
    /// The approximate number of base answers for an interval of this width (in activation units), by the estimated
    /// variance; at most the number of samples.
    pub fn generations_for(&self, width: f64) -> usize {
        let z = normal_reach(self.level);
        let total = self.total as f64;
        let needed = 1.0 / (1.0 / total + (width / (2.0 * z)).powi(2) / self.variance.max(f64::MIN_POSITIVE));
        needed.ceil().min(total) as usize
    }

    /// Whether the method has a smaller variance than the plain subset.
    pub fn helps(&self) -> bool {
        self.variance_ratio < 1.0
    }
}

/// The smallest number of base answers for an estimate.
pub const LEAST: usize = 16;

/// With more values than this, resampling gives the same interval as Student's t.
const MANY: usize = 10_000;

/// The ΔP of a data set in activation units. The samples with a base answer must be a random subset of it.
///
/// Samples are weighted by the number of times that they occur.
///
/// # Errors
/// [`Error::TooFew`] for fewer than [`LEAST`] base answers, [`Error::BadSample`] for values that are not finite,
/// [`Error::Statistics`] for an invalid level, [`SettingError::TooFewFolds`].
pub fn estimate(samples: &[Known], method: Method, options: &EstimateOptions) -> Result<Estimate> {
    let (level, folds) = (options.level, options.folds);
    BootstrapOptions { level, ..BootstrapOptions::default() }.check()?;
    if folds < 2 {
        return Err(SettingError::TooFewFolds { folds }.into());
    }
    let finite = |s: &Known| {
        [s.answer, s.prompt_last, s.base.unwrap_or(0.0), s.count].iter().all(|value| value.is_finite()) && s.count > 0.0
    };
    if let Some(index) = samples.iter().position(|sample| !finite(sample)) {
        return Err(Error::BadSample { index });
    }
    let total = samples.len();
    let rows: f64 = samples.iter().map(|sample| sample.count).sum();
    // The mean over rows is the mean over distinct samples of their values times this weight.
    let weight = |sample: &Known| sample.count * total as f64 / rows;
    let subset: Vec<(&Known, f64)> = samples.iter().filter_map(|sample| Some((sample, sample.delta()?))).collect();
    let known = subset.len();
    // If all base answers are known, there is nothing to estimate.
    let needed = if options.finite && known == total { 1 } else { LEAST };
    if known < needed {
        return Err(Error::TooFew { what: "an estimate of ΔP", needed, found: known });
    }
    let plain: Vec<f64> = subset.iter().map(|(sample, delta)| weight(sample) * delta).collect();
    let n = known as f64;
    let left = if options.finite { 1.0 - n / total as f64 } else { 1.0 };
    let found = match method {
        Method::Subset => {
            Found { value: mean(&plain).unwrap_or(f64::NAN), errors: plain.clone(), freedom: n - 1.0, lever: 1.0 / n }
        }
        Method::Proxy => {
            let points = subset.iter().map(|(s, _)| ([s.prompt_last, 0.0], s.base.unwrap_or_default(), weight(s)));
            let fit = Fit::new(&points.collect::<Vec<_>>());
            let value = |s: &Known| weight(s) * (s.answer - fit.at([s.prompt_last, 0.0]));
            let all: Vec<f64> = samples.iter().map(value).collect();
            let errors = subset.iter().map(|(s, delta)| weight(s) * (delta - s.answer + fit.at([s.prompt_last, 0.0])));
            let middle = samples.iter().map(|s| weight(s) * s.prompt_last).sum::<f64>() / total as f64;
            let lever = 1.0 / n + fit.lever(middle);
            Found { value: mean(&all).unwrap_or(f64::NAN), errors: errors.collect(), freedom: n - 2.0, lever }
        }
        Method::ControlVariate => control_variate(samples, &subset, &weight, options),
    };
    // The proxy's error is that of its fit; the answers' projections are known for all samples and add no error.
    let variance = spread(&found.errors, found.freedom);
    let standard_error = (left * variance * found.lever).max(0.0).sqrt();
    let t = student_reach(level, found.freedom);
    let (mut low, mut high) = (-t, t);
    if let IntervalKind::Bootstrap { resamples } = options.interval
        && known <= MANY
        && standard_error > 0.0
    {
        let resamples = resamples.max(((40.0 / (1.0 - level)).ceil() as usize).min(100_000));
        let ends = studentized_reach(&found.errors, &BootstrapOptions { resamples, level, seed: options.seed })?;
        (low, high) = (low.min(ends.low), high.max(ends.high));
    }
    // Without an error the interval has a width of 0, however far its ends are in standard errors.
    let reach = |end: f64| if standard_error > 0.0 { end * standard_error } else { 0.0 };
    let of_plain = spread(&plain, n - 1.0);
    let value = found.value;
    Ok(Estimate {
        method,
        value,
        standard_error,
        interval: Interval { low: value + reach(low), high: value + reach(high) },
        level,
        looks: 0,
        known,
        total,
        variance,
        variance_ratio: if of_plain > 0.0 { variance / of_plain } else { 1.0 },
    })
}

/// The result of a method.
struct Found {
    value: f64,
    /// The differences or residuals from which the error is computed, one per known sample.
    errors: Vec<f64>,
    /// The degrees of freedom of their variance.
    freedom: f64,
    /// The ratio of the estimate's variance to theirs.
    lever: f64,
}

/// For each fold of the subset: the known sum over the other folds, their fit on the samples that are not among them,
/// and the fold's mean residual scaled to the number of those samples. Given the other folds, the fold is a random draw
/// from the remaining samples, so each of these estimates is unbiased, and so is their mean.
fn control_variate(
    samples: &[Known],
    subset: &[(&Known, f64)],
    weight: &impl Fn(&Known) -> f64,
    options: &EstimateOptions,
) -> Found {
    let (n, total) = (subset.len(), samples.len() as f64);
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut random(options.seed, 0));
    let folds = options.folds.min(n / 2);
    let features = |s: &Known| [s.answer, s.prompt_last];
    // The sum of a linear function over samples is the function of the sums.
    let sums = |chosen: &mut dyn Iterator<Item = &Known>| {
        chosen.fold((0.0, [0.0; 2]), |(count, sum): (f64, [f64; 2]), s| {
            let (w, [a, p]) = (weight(s), features(s));
            (count + w, [sum[0] + w * a, sum[1] + w * p])
        })
    };
    let all = sums(&mut samples.iter());
    let (mut value, mut errors) = (0.0, vec![0.0; n]);
    for fold in 0..folds {
        let (part, others): (Vec<_>, Vec<_>) = order.iter().enumerate().partition(|(at, _)| at % folds == fold);
        let others: Vec<&(&Known, f64)> = others.into_iter().map(|(_, &i)| &subset[i]).collect();
        let points = others.iter().map(|(s, delta)| (features(s), *delta, weight(s)));
        let fit = Fit::new(&points.collect::<Vec<_>>());
        let seen = sums(&mut others.iter().map(|(s, _)| *s));
        let known: f64 = others.iter().map(|(s, delta)| weight(s) * delta).sum();
        let rest = fit.sum(all.0 - seen.0, [all.1[0] - seen.1[0], all.1[1] - seen.1[1]]);
        let mut residuals = 0.0;
        for &(_, &i) in &part {
            let (sample, delta) = subset[i];
            errors[i] = weight(sample) * (delta - fit.at(features(sample)));
            residuals += errors[i];
        }
        let correction = (total - others.len() as f64) * residuals / part.len() as f64;
        value += (known + rest + correction) / total * part.len() as f64 / n as f64;
    }
    Found { value, errors, freedom: n as f64 - 3.0, lever: 1.0 / n as f64 }
}

/// The sum of squares around the mean, divided by the degrees of freedom.
fn spread(values: &[f64], freedom: f64) -> f64 {
    squared_deviations(values) / freedom.max(1.0)
}

#[cfg(test)]
mod tests;
