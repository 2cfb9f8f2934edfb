//! Selection of samples to inspect, to train on, or to exclude.

use std::collections::BTreeMap;

use pv_judge::judge::Answered;
use pv_judge::{Judge, Rubric, Verdict};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::error::SettingError;
use crate::{Error, Result};

/// The samples that are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// Those with the largest values.
    Top,
    /// Those with the smallest values.
    Bottom,
    /// A random selection, independent of the values.
    Random {
        /// The seed of the selection.
        seed: u64,
    },
}

/// Selects `n` samples (all, if there are fewer), and returns their indices in ascending order. Samples without a value
/// are never selected. Of equal values, the first ones are selected.
///
/// With `strata` (the index of each sample's stratum: a length class, a source, …), each stratum contributes in
/// proportion to its number of samples with a value, rounded by the largest-remainder method.
///
/// # Errors
/// [`SettingError::Strata`] if the number of strata is not that of the samples; [`Error::NotAValue`] for a NaN.
pub fn select(values: &[Option<f64>], which: Which, n: usize, strata: Option<&[usize]>) -> Result<Vec<usize>> {
    if let Some(strata) = strata.filter(|strata| strata.len() != values.len()) {
        return Err(SettingError::Strata { samples: values.len(), strata: strata.len() }.into());
    }
    if let Some(sample) = values.iter().position(|value| value.is_some_and(f64::is_nan)) {
        return Err(Error::NotAValue { sample });
    }
    let mut groups: BTreeMap<usize, Vec<(usize, f64)>> = BTreeMap::new();
    for (sample, value) in values.iter().enumerate() {
        if let Some(value) = value {
            groups.entry(strata.map_or(0, |strata| strata[sample])).or_default().push((sample, *value));
        }
    }
    let total: usize = groups.values().map(Vec::len).sum();
    let n = n.min(total);
    // Computed in integers: a stratum's share is n·size/total.
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

/// The indices of samples, by a judge's verdicts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JudgedSamples {
    /// The samples that show the trait: their scores are above the allowed score.
    pub shows: Vec<usize>,
    /// The samples that do not.
    pub clean: Vec<usize>,
    /// The samples on which the judge abstained. An abstention is not the score 0; the caller decides what to do with
    /// them.
    pub unknown: Vec<usize>,
}

impl JudgedSamples {
    /// Sorts the samples by their verdicts; `allowed` is the highest score (0 to 100) that does not count as showing
    /// the trait.
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

/// Asks a judge which samples show a trait, that is, score above `allowed` (0 to 100). To select after judging, set the
/// values of the samples that show the trait to `None` and call [`select`] again. To keep the verdicts in a folder, use
/// [`Judging`](crate::judging::Judging).
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
        // Three in stratum 0, two in stratum 1: the shares of three samples are 1.8 and 1.2.
        let strata = [0, 0, 0, 1, 1, 0];
        assert_eq!(select(&values, Which::Top, 3, Some(&strata)).expect("a choice"), [0, 2, 4]);
        assert!(select(&values, Which::Top, 3, Some(&strata[1..])).is_err());
        assert!(select(&[Some(f64::NAN)], Which::Top, 1, None).is_err());
        assert_eq!(select(&[None], Which::Top, 1, None).expect("a choice"), Vec::<usize>::new());
    }
}
