//! The projection difference of a data set when base answers are known for a random part of it only.

mod linear;
mod sequential;

use pv_vectors::Interval;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use crate::{Error, Result};
use linear::Fit;
pub(crate) use sequential::after_looks;
pub use sequential::{Decision, FIRST_LOOK, Look, Sequential, Stop};

/// What is known of one sample on one direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// The projection of the data set's answer.
    pub answer: f64,
    /// The projection of the prompt's last token.
    pub prompt_last: f64,
    /// The projection of the base model's answer, for a random part of the samples.
    pub base: Option<f64>,
    /// How often the sample stands in the data set.
    pub count: f64,
}

impl Known {
    /// The sample's own difference, where the base answer is known.
    pub fn delta(&self) -> Option<f64> {
        Some(self.answer - self.base?)
    }
}

/// How ΔP is estimated. `x` are the prompts, `A` and `B` the projections of the data set's and of the base model's answers, `p`
/// that of the prompt's last token (method.md §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The mean of `A − B` over the samples whose base answer is known.
    Subset,
    /// `A − (a + b·p)` over all samples, with `B ≈ a + b·p` fitted where it is known. Biased where the relation is not a
    /// line: the interval knows of the fit's uncertainty, not of that.
    Proxy,
    /// `A − B ≈ a + b·A + c·p` over all samples, corrected by the mean residual where it is known; each residual is of a fit
    /// that did not see it, which makes the estimate unbiased whatever the relation.
    ControlVariate,
}

/// Where an interval comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalKind {
    /// Student's t.
    T,
    /// Student's t or the studentized bootstrap of the differences (or residuals), whichever reaches further at either end: the
    /// bootstrap sees that they are skewed, as those of a set with a few bad samples are, and t allows for what a small
    /// subset did not see. With more than 10 000 base answers it is t, which is the same there.
    Bootstrap {
        /// How many resamples; more are drawn where the level takes them.
        resamples: usize,
    },
}

/// How estimates are made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EstimateOptions {
    /// The part of repetitions, with other random subsets, whose interval covers the truth.
    pub level: f64,
    /// Where intervals come from.
    pub interval: IntervalKind,
    /// Into how many parts the control variate's subset is divided; fits leave one out.
    pub folds: usize,
    /// Whether the truth is the data set's own ΔP. The error then vanishes when all base answers are known; otherwise it is that
    /// of a population of which the data set is a sample.
    pub finite: bool,
    /// Seeds folds and resamples.
    pub seed: u64,
}

impl Default for EstimateOptions {
    fn default() -> Self {
        Self { level: 0.95, interval: IntervalKind::Bootstrap { resamples: 1000 }, folds: 10, finite: true, seed: 0 }
    }
}

/// An estimate of ΔP and its error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// How it was made.
    pub method: Method,
    /// The estimate, in activation units.
    pub value: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Its interval.
    pub interval: Interval,
    /// How much of repetitions the interval covers.
    pub level: f64,
    /// After how many looks at growing subsets the estimate was made, where looking could have ended the growing; 0 for a size that
    /// was fixed before. With looks, the interval is the wider one of a single look at the level
    /// `1 − (1 − level) / (looks·(looks + 1))`, so that it covers at `level` whichever look was the last ([`Sequential`]).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub looks: usize,
    /// How many base answers it took.
    pub known: usize,
    /// How many samples there are.
    pub total: usize,
    /// The variance of what the error comes from: of the differences, or the residuals.
    pub variance: f64,
    /// That variance over the one of the plain differences. The control variate needs about this part of the plain subset's
    /// generations for the same width; it does not help where this is 1 or more.
    pub variance_ratio: f64,
}

fn is_zero(looks: &usize) -> bool {
    *looks == 0
}

impl Estimate {
    /// About how many base answers an interval of this width takes, by the variance found; no more than there are samples.
    pub fn generations_for(&self, width: f64) -> usize {
        let z = Normal::standard().inverse_cdf(0.5 + self.level / 2.0);
        let total = self.total as f64;
        let needed = 1.0 / (1.0 / total + (width / (2.0 * z)).powi(2) / self.variance.max(f64::MIN_POSITIVE));
        needed.ceil().min(total) as usize
    }

    /// Whether the method did better than the plain subset.
    pub fn helps(&self) -> bool {
        self.variance_ratio < 1.0
    }
}

/// The fewest base answers that estimates are made of.
pub const LEAST: usize = 16;

/// With more values than this, resampling tells nothing that Student's t does not.
const MANY: usize = 10_000;

/// The ΔP of a data set, whose samples with a base answer must be a random part of it.
///
/// Samples that stand there several times count so many times.
///
/// # Errors
/// [`Error::TooFew`] for fewer than [`LEAST`] base answers, [`Error::BadSetting`] also for values that are not finite.
pub fn estimate(samples: &[Known], method: Method, options: &EstimateOptions) -> Result<Estimate> {
    let (level, folds) = (options.level, options.folds);
    if !(level > 0.0 && level < 1.0) || folds < 2 {
        return Err(Error::bad(format!("an interval at level {level} from {folds} parts")));
    }
    let finite = |s: &Known| {
        [s.answer, s.prompt_last, s.base.unwrap_or(0.0), s.count].iter().all(|value| value.is_finite()) && s.count > 0.0
    };
    if let Some(sample) = samples.iter().find(|sample| !finite(sample)) {
        return Err(Error::bad(format!("{sample:?} cannot be estimated from")));
    }
    let total = samples.len();
    let rows: f64 = samples.iter().map(|sample| sample.count).sum();
    // The mean over rows is the mean over distinct samples of what they hold times this weight.
    let weight = |sample: &Known| sample.count * total as f64 / rows;
    let subset: Vec<(&Known, f64)> = samples.iter().filter_map(|sample| Some((sample, sample.delta()?))).collect();
    let known = subset.len();
    // Where all is known, there is nothing to estimate.
    let needed = if options.finite && known == total { 1 } else { LEAST };
    if known < needed {
        return Err(Error::TooFew { what: "an estimate of ΔP", needed, found: known });
    }
    let plain: Vec<f64> = subset.iter().map(|(sample, delta)| weight(sample) * delta).collect();
    let n = known as f64;
    let left = if options.finite { 1.0 - n / total as f64 } else { 1.0 };
    let found = match method {
        Method::Subset => Found { value: mean(&plain), errors: plain.clone(), freedom: n - 1.0, lever: 1.0 / n },
        Method::Proxy => {
            let points = subset.iter().map(|(s, _)| ([s.prompt_last, 0.0], s.base.unwrap_or_default(), weight(s)));
            let fit = Fit::new(&points.collect::<Vec<_>>());
            let value = |s: &Known| weight(s) * (s.answer - fit.at([s.prompt_last, 0.0]));
            let all: Vec<f64> = samples.iter().map(value).collect();
            let errors = subset.iter().map(|(s, delta)| weight(s) * (delta - s.answer + fit.at([s.prompt_last, 0.0])));
            let middle = samples.iter().map(|s| weight(s) * s.prompt_last).sum::<f64>() / total as f64;
            let lever = 1.0 / n + fit.lever(middle);
            Found { value: mean(&all), errors: errors.collect(), freedom: n - 2.0, lever }
        }
        Method::ControlVariate => control_variate(samples, &subset, &weight, options),
    };
    // The proxy's interval is as wide as its line is uncertain; a difference that is known for all is not.
    let variance = spread(&found.errors, found.freedom);
    let standard_error = (left * variance * found.lever).max(0.0).sqrt();
    let t = StudentsT::new(0.0, 1.0, found.freedom.max(1.0)).map_err(|error| Error::bad(error.to_string()))?;
    let t = t.inverse_cdf(0.5 + level / 2.0);
    let (mut low, mut high) = (-t, t);
    if let IntervalKind::Bootstrap { resamples } = options.interval
        && known <= MANY
        && standard_error > 0.0
    {
        let resamples = resamples.max(((40.0 / (1.0 - level)).ceil() as usize).min(100_000));
        let ends = studentized(&found.errors, resamples, level, options.seed);
        (low, high) = (low.min(ends[0]), high.max(ends[1]));
    }
    // Without an error there is no interval, however far the ends are in standard errors.
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

/// What a method found.
struct Found {
    value: f64,
    /// What the error comes from, per known sample.
    errors: Vec<f64>,
    /// Degrees of freedom of their variance.
    freedom: f64,
    /// The variance of the estimate over theirs.
    lever: f64,
}

/// For each part of the subset: the known sum of the others, the fit of the others on what is not among them, and the mean
/// residual of the part for as many. Given the others, the part is a random draw from the rest, so that each is
/// unbiased; so then is their mean.
fn control_variate(
    samples: &[Known],
    subset: &[(&Known, f64)],
    weight: &impl Fn(&Known) -> f64,
    options: &EstimateOptions,
) -> Found {
    let (n, total) = (subset.len(), samples.len() as f64);
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed));
    let folds = options.folds.min(n / 2);
    let features = |s: &Known| [s.answer, s.prompt_last];
    // A line's sum over samples is the line at the sums.
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

/// How many standard errors the truth lies below and above the mean, by the studentized bootstrap: the ends of the
/// resamples' (mean − resample's mean) / resample's standard error.
fn studentized(values: &[f64], resamples: usize, level: f64, seed: u64) -> [f64; 2] {
    let (n, middle) = (values.len(), mean(values));
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
            // Of a resample of one value over and over, nothing can be said.
            if variance > 0.0 { -drawn / (variance / n as f64).sqrt() } else { 0.0 }
        })
        .collect();
    ends.sort_by(f64::total_cmp);
    let at = |part: f64| ends[((part * resamples as f64) as usize).min(resamples - 1)];
    [at((1.0 - level) / 2.0), at(0.5 + level / 2.0)]
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The sum of squares around the mean over the degrees of freedom.
fn spread(values: &[f64], freedom: f64) -> f64 {
    let middle = mean(values);
    values.iter().map(|value| (value - middle).powi(2)).sum::<f64>() / freedom.max(1.0)
}

#[cfg(test)]
mod tests;
