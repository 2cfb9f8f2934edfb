//! Which samples to take a closer look at, to train on, or to leave out.

use std::collections::BTreeMap;

use pv_judge::{Answered, Judge, Rubric, Verdict};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which end of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// Those with the greatest values.
    Top,
    /// Those with the least.
    Bottom,
    /// Some, whatever their values.
    Random {
        /// Seeds the choice.
        seed: u64,
    },
}

/// The numbers of `n` samples (all, where there are fewer), in ascending order. Samples without a value are never chosen. Of equal
/// values, those that come first are taken.
///
/// With `strata` (one per sample: a length class, a source, …), each stratum gives the part of `n` that it is of the samples
/// with a value, rounded by the greatest remainders.
///
/// # Errors
/// [`Error::BadSetting`] for strata that are not one per sample, or for a NaN.
pub fn select(values: &[Option<f64>], which: Which, n: usize, strata: Option<&[usize]>) -> Result<Vec<usize>> {
    if strata.is_some_and(|strata| strata.len() != values.len()) {
        return Err(Error::bad("strata are not given for every sample"));
    }
    if values.iter().flatten().any(|value| value.is_nan()) {
        return Err(Error::bad("a value to choose by is a NaN"));
    }
    let mut groups: BTreeMap<usize, Vec<(usize, f64)>> = BTreeMap::new();
    for (sample, value) in values.iter().enumerate() {
        if let Some(value) = value {
            groups.entry(strata.map_or(0, |strata| strata[sample])).or_default().push((sample, *value));
        }
    }
    let total: usize = groups.values().map(Vec::len).sum();
    let n = n.min(total);
    // In whole numbers: a stratum's part is n·size/total.
    let mut parts: Vec<(usize, usize, usize)> =
        groups.iter().map(|(key, group)| (*key, n * group.len() / total, n * group.len() % total)).collect();
    let mut left = n - parts.iter().map(|(_, part, _)| part).sum::<usize>();
    parts.sort_by_key(|(key, _, remainder)| (std::cmp::Reverse(*remainder), *key));
    let mut chosen = Vec::with_capacity(n);
    for (key, part, _) in parts {
        let more = usize::from(left > 0);
        left -= more;
        let Some(mut group) = groups.remove(&key) else { continue };
        match which {
            Which::Top => group.sort_by(|a, b| b.1.total_cmp(&a.1)),
            Which::Bottom => group.sort_by(|a, b| a.1.total_cmp(&b.1)),
            Which::Random { seed } => group.shuffle(&mut ChaCha8Rng::seed_from_u64(seed.wrapping_add(key as u64))),
        }
        chosen.extend(group.into_iter().take(part + more).map(|(sample, _)| sample));
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// The value below which a part of a reference set lies (0.95: the 95th percentile), interpolated between neighbours.
///
/// # Errors
/// [`Error::BadSetting`] for an empty set, a NaN or a part outside 0 to 1.
pub fn threshold(reference: &[f64], part: f64) -> Result<f64> {
    if reference.is_empty() || reference.iter().any(|value| value.is_nan()) || !(0.0..=1.0).contains(&part) {
        return Err(Error::bad(format!("the quantile {part} of {} reference values", reference.len())));
    }
    let mut sorted = reference.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = part * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Ok(below + (above - below) * at.fract())
}

/// What a judge says of samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JudgedSamples {
    /// Those that show the trait by more than was allowed.
    pub shows: Vec<usize>,
    /// Those that do not.
    pub clean: Vec<usize>,
    /// Those on which the judge gave no score: that is not the score 0, and it is the caller's to decide about them.
    pub unknown: Vec<usize>,
}

impl JudgedSamples {
    /// Which samples the verdicts on them score above `allowed` (0 to 100).
    pub fn of(verdicts: &[Verdict], allowed: f64) -> Self {
        Self::of_scores(verdicts.iter().map(Verdict::value), allowed)
    }

    fn of_scores(scores: impl IntoIterator<Item = Option<f64>>, allowed: f64) -> Self {
        let mut found = Self::default();
        for (sample, score) in scores.into_iter().enumerate() {
            match score {
                None => found.unknown.push(sample),
                Some(score) if score > allowed => found.shows.push(sample),
                Some(_) => found.clean.push(sample),
            }
        }
        found
    }
}

/// Asks a judge which samples show a trait, scored above `allowed` (0 to 100). To select after judging, blank the values of those
/// that show it and call [`select`] again. Verdicts that are worth keeping are asked for by [`Judging`](crate::Judging).
///
/// # Errors
/// Those of the judge.
pub fn judged(judge: &dyn Judge, rubric: &Rubric, answers: &[Answered<'_>], allowed: f64) -> Result<JudgedSamples> {
    let verdicts = judge.judge(std::slice::from_ref(rubric), answers, &mut |_| std::ops::ControlFlow::Continue(()))?;
    let score = |sample: usize| verdicts.get(sample).and_then(|verdicts| verdicts.first()).and_then(Verdict::value);
    Ok(JudgedSamples::of_scores((0..answers.len()).map(score), allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_strata() {
        let values = [Some(3.0), None, Some(1.0), Some(2.0), Some(3.0), Some(-1.0)];
        assert_eq!(select(&values, Which::Top, 2, None).expect("a choice"), [0, 4]);
        assert_eq!(select(&values, Which::Bottom, 2, None).expect("a choice"), [2, 5]);
        assert_eq!(select(&values, Which::Top, 9, None).expect("a choice"), [0, 2, 3, 4, 5]);
        let random = |seed| select(&values, Which::Random { seed }, 3, None).expect("a choice");
        assert_eq!(random(1), random(1));
        assert!((0..50).all(|seed| random(seed).len() == 3 && !random(seed).contains(&1)));
        assert!((0..50).any(|seed| random(seed) != random(0)));
        // Three in stratum 0, two in stratum 1: of three, 1.8 and 1.2.
        let strata = [0, 0, 0, 1, 1, 0];
        assert_eq!(select(&values, Which::Top, 3, Some(&strata)).expect("a choice"), [0, 2, 4]);
        assert!(select(&values, Which::Top, 3, Some(&strata[1..])).is_err());
        assert!(select(&[Some(f64::NAN)], Which::Top, 1, None).is_err());
        assert_eq!(select(&[None], Which::Top, 1, None).expect("a choice"), Vec::<usize>::new());
    }

    #[test]
    fn quantiles() {
        let reference: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert!((threshold(&reference, 0.95).expect("a threshold") - 95.0).abs() < 1e-12);
        assert!((threshold(&[1.0, 2.0], 0.25).expect("a threshold") - 1.25).abs() < 1e-12);
        assert!(threshold(&[], 0.5).is_err() && threshold(&[1.0], 1.5).is_err());
    }
}
