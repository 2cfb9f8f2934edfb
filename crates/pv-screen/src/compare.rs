//! Two sets of samples beside one another, and which words of an answer push its projection.

use std::ops::{ControlFlow, Range};

use pv_model::{CausalLm, Sequence};
use pv_vectors::{Interval, ScanOptions, UnitDirection, roc_auc, scan};
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

use crate::{Error, Likelihood, Result};

/// The probability that a sample of one set has more than one of the other, with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Auc {
    /// The area under the ROC curve.
    pub value: f64,
    /// Its interval.
    pub interval: Interval,
}

/// The area under the ROC curve with the interval of Newcombe (2006, method 5): the areas that the Hanley–McNeil variance at that
/// area does not exclude. It stays within 0 and 1, and does not shrink to nothing where the sets are apart entirely.
///
/// # Errors
/// [`Error::BadSetting`] for an empty set, a NaN, or a level that is none.
pub fn auc(pos: &[f64], neg: &[f64], level: f64) -> Result<Auc> {
    if !(level > 0.0 && level < 1.0) {
        return Err(Error::bad(format!("an interval at level {level}")));
    }
    let value = roc_auc(pos, neg).ok_or_else(|| Error::bad("the area under a ROC curve of nothing, or of a NaN"))?;
    let (m, n) = (pos.len() as f64, neg.len() as f64);
    let z = Normal::standard().inverse_cdf(0.5 + level / 2.0);
    let more = (m + n) / 2.0 - 1.0;
    let variance = |a: f64| a * (1.0 - a) * (1.0 + more * ((1.0 - a) / (2.0 - a) + a / (1.0 + a))) / (m * n);
    let excluded = |a: f64| (a - value).abs() > z * variance(a).sqrt();
    // The excluded areas are those beyond a point on either side: halve what is between.
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
pub struct KolmogorovSmirnov {
    /// The greatest difference between the two distribution functions.
    pub distance: f64,
    /// The probability of such a distance or more between samples of one distribution, asymptotically (with Stephens'
    /// correction for small sets).
    pub p: f64,
}

/// The Kolmogorov–Smirnov distance.
///
/// # Errors
/// [`Error::BadSetting`] for an empty set or a NaN.
pub fn kolmogorov_smirnov(left: &[f64], right: &[f64]) -> Result<KolmogorovSmirnov> {
    if left.is_empty() || right.is_empty() || left.iter().chain(right).any(|value| value.is_nan()) {
        return Err(Error::bad("the distance of an empty set, or of a NaN"));
    }
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
    // The series converges slowly near 0, where it is 1.
    let p = if lambda < 0.2 { 1.0 } else { (2.0 * (1..=100).map(term).sum::<f64>()).clamp(0.0, 1.0) };
    Ok(KolmogorovSmirnov { distance, p })
}

/// Two sets counted in the same bins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histograms {
    /// The bins' edges, one more than there are bins. A bin holds its lower edge; the last one its upper edge too.
    pub edges: Vec<f64>,
    /// How many of the first set are in each.
    pub left: Vec<usize>,
    /// How many of the second.
    pub right: Vec<usize>,
}

/// Counts two sets in bins of equal width over the range of both.
///
/// # Errors
/// [`Error::BadSetting`] without values or bins, or for values that are not finite.
pub fn histograms(left: &[f64], right: &[f64], bins: usize) -> Result<Histograms> {
    let mut all = left.iter().chain(right).copied();
    if bins == 0 || all.clone().next().is_none() || all.any(|value| !value.is_finite()) {
        return Err(Error::bad("a histogram without bins or values, or of values that are not finite"));
    }
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

/// What one token of an answer adds to its projection, or to its gain in likelihood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenShare {
    /// Where the token's text stands in the answer's, in bytes.
    pub text: Range<usize>,
    /// The token's own projection, less the reference, over the number of tokens; all shares add up to the answer's
    /// projection less the reference, that is to ΔP where the reference is the base answer's projection. Or the token's gain.
    pub share: f64,
}

/// An answer's text, and what each token adds to its projection on one direction, or to its gain in likelihood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contributions {
    /// The answer's text.
    pub text: String,
    /// Its tokens, in order.
    pub tokens: Vec<TokenShare>,
}

impl Contributions {
    /// Of an answer to a prompt; `reference` is what a token's projection is compared with, such as the projection of the base
    /// answer.
    ///
    /// # Errors
    /// An empty answer, or tokens, a direction or a length that the model does not allow.
    pub fn of(
        model: &CausalLm,
        prompt: &[u32],
        answer: &[u32],
        direction: &UnitDirection,
        reference: f64,
    ) -> Result<Self> {
        let options = ScanOptions { poolings: Vec::new(), response_tokens: true, ..ScanOptions::default() };
        let sequence = Sequence { prompt, response: answer, rest: &[] };
        let found =
            scan(model, &[sequence], std::slice::from_ref(direction), &options, |_, _| ControlFlow::Continue(()))?;
        let shares = found.items.first().and_then(|item| item.tokens(0)).unwrap_or_default();
        if shares.is_empty() {
            return Err(Error::bad("contributions to the projection of an answer without tokens"));
        }
        let share = |projection: &f32| (f64::from(*projection) - reference) / shares.len() as f64;
        Self::with(model, answer, shares.iter().map(share))
    }

    /// What each token adds to an answer's [`Likelihood::gain`]: how much likelier it is under the persona.
    ///
    /// # Errors
    /// [`Error::BadSetting`] for a likelihood of another answer; a model without a tokenizer.
    pub fn of_gains(model: &CausalLm, answer: &[u32], likelihood: &Likelihood) -> Result<Self> {
        if likelihood.base.len() != answer.len() || likelihood.hooked.len() != answer.len() {
            return Err(Error::bad("the likelihood of an answer of another length"));
        }
        Self::with(model, answer, likelihood.gains())
    }

    fn with(model: &CausalLm, answer: &[u32], shares: impl Iterator<Item = f64>) -> Result<Self> {
        let mut stream = model.tokenizer()?.stream(false);
        let (mut text, mut tokens) = (String::new(), Vec::with_capacity(answer.len()));
        for (id, share) in answer.iter().zip(shares) {
            let from = text.len();
            text.extend(stream.push(*id)?);
            tokens.push(TokenShare { text: from..text.len(), share });
        }
        text.extend(stream.flush()?);
        if let Some(last) = tokens.last_mut() {
            last.text.end = text.len();
        }
        Ok(Self { text, tokens })
    }

    /// Up to `most` spans of neighbouring tokens that push upwards, and by more than the answer's tokens do on average; those that
    /// add most first, with what they add.
    pub fn spans(&self, most: usize) -> Vec<(Range<usize>, f64)> {
        let mean = self.tokens.iter().map(|token| token.share).sum::<f64>() / self.tokens.len().max(1) as f64;
        let pushes = |token: &TokenShare| token.share > mean.max(0.0);
        let mut spans: Vec<(Range<usize>, f64)> = self
            .tokens
            .chunk_by(|a, b| pushes(a) == pushes(b))
            .filter(|run| pushes(&run[0]))
            .map(|run| (run[0].text.start..run[run.len() - 1].text.end, run.iter().map(|token| token.share).sum()))
            .collect();
        spans.sort_by(|a, b| b.1.total_cmp(&a.1));
        spans.truncate(most);
        spans
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn the_interval_of_an_area_holds_it_and_narrows() {
        let pos: Vec<f64> = (0..40).map(|i| f64::from(i) + 8.0).collect();
        let neg: Vec<f64> = (0..60).map(|i| f64::from(i) * 0.7).collect();
        let pairs = pos
            .iter()
            .flat_map(|p| neg.iter().map(move |n| f64::from(u8::from(p > n)) + 0.5 * f64::from(u8::from(p == n))));
        let expected = pairs.sum::<f64>() / 2400.0;
        let found = auc(&pos, &neg, 0.95).expect("an area");
        assert!((found.value - expected).abs() < 1e-12);
        assert!(found.interval.contains(expected) && found.interval.low > 0.5 && found.interval.high < 1.0);
        let apart = auc(&[5.0; 20], &[1.0; 20], 0.95).expect("an area");
        assert!(apart.value == 1.0 && apart.interval.high == 1.0);
        assert!((0.75..0.95).contains(&apart.interval.low), "{apart:?}");
        let more = auc(&[5.0; 2000], &[1.0; 2000], 0.95).expect("an area");
        assert!(more.interval.low > 0.99);
        assert!(auc(&[], &[1.0], 0.95).is_err() && auc(&[1.0], &[f64::NAN], 0.95).is_err());
    }

    #[test]
    fn the_distance_is_the_greatest_gap() {
        let found = kolmogorov_smirnov(&[1.0, 2.0, 2.0, 3.0], &[2.0, 4.0]).expect("a distance");
        // At 3: all of the first, half of the second.
        assert!((found.distance - 0.5).abs() < 1e-12);
        assert!(found.p > 0.5);
        let same: Vec<f64> = (0..500).map(f64::from).collect();
        let moved: Vec<f64> = (0..500).map(|i| f64::from(i) + 250.0).collect();
        assert_eq!(kolmogorov_smirnov(&same, &same).expect("a distance"), KolmogorovSmirnov { distance: 0.0, p: 1.0 });
        let found = kolmogorov_smirnov(&same, &moved).expect("a distance");
        assert!((found.distance - 0.5).abs() < 1e-12 && found.p < 1e-12);
        // Of sets from one distribution, one in twenty has p below 0.05.
        let set = |seed: u64| -> Vec<f64> {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            (0..60).map(|_| random.random()).collect()
        };
        let p = |seed: u64| kolmogorov_smirnov(&set(2 * seed), &set(2 * seed + 1)).expect("a distance").p;
        let significant = (0..400).filter(|seed| p(*seed) < 0.05).count();
        assert!((6..=34).contains(&significant), "{significant} of 400");
    }

    #[test]
    fn every_value_is_in_one_bin() {
        let found = histograms(&[0.0, 1.0, 4.0], &[2.0, 2.5], 4).expect("histograms");
        assert_eq!(found.edges, [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!((found.left, found.right), (vec![1, 1, 0, 1], vec![0, 0, 2, 0]));
        assert_eq!(histograms(&[3.0], &[3.0], 2).expect("histograms").left.iter().sum::<usize>(), 1);
        assert!(histograms(&[], &[], 3).is_err() && histograms(&[f64::INFINITY], &[], 3).is_err());
    }
}
