//! The agreement of two judges, and the translation of one judge's scores to the other's scale.

use pv_statistics::correlation::{Clusters, pearson, spearman};
use pv_statistics::{Correlation, Interval};
use serde::{Deserialize, Serialize};

pub use crate::error::MapError;
use crate::{Error, Result, Verdict};

/// The agreement of two judges on the same answers by one rubric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Agreement {
    /// The number of answers that both scored; the measures below are about these.
    pub pairs: usize,
    /// The number of answers that only the first judge did not score.
    pub first_abstained: usize,
    /// The number of answers that only the second judge did not score.
    pub second_abstained: usize,
    /// The number of answers that neither scored.
    pub both_abstained: usize,
    /// Pearson's correlation of the scores; `None` where [`pearson`] returns none.
    pub pearson: Option<Correlation>,
    /// The 95 % interval of Pearson's correlation, by resampling prompts with all of their answers; `None` if it is not known
    /// which answers belong to which prompt ([`between_prompts`](Self::between_prompts)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pearson_interval: Option<Interval>,
    /// Spearman's rank correlation; `None` where [`spearman`] returns none.
    pub spearman: Option<f64>,
    /// The 95 % interval of Spearman's correlation, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spearman_interval: Option<Interval>,
    /// The mean of |first − second|, in points of 0 to 100; `None` without pairs.
    pub mean_absolute_difference: Option<f64>,
}

impl Agreement {
    /// Compares two judges' verdicts: verdict `i` of both is about the same answer and rubric.
    ///
    /// # Errors
    /// [`Error::NotPaired`] if the numbers of verdicts differ.
    pub fn between<'a>(
        first: impl IntoIterator<Item = &'a Verdict>,
        second: impl IntoIterator<Item = &'a Verdict>,
    ) -> Result<Self> {
        let both = values(first, second)?;
        let count = |what: fn(&(Option<f64>, Option<f64>)) -> bool| both.iter().filter(|pair| what(pair)).count();
        let pairs = scored(&both);
        let apart = pairs.iter().map(|(a, b)| (a - b).abs()).sum::<f64>() / pairs.len() as f64;
        Ok(Self {
            pairs: pairs.len(),
            first_abstained: count(|(first, second)| first.is_none() && second.is_some()),
            second_abstained: count(|(first, second)| first.is_some() && second.is_none()),
            both_abstained: count(|(first, second)| first.is_none() && second.is_none()),
            pearson: pearson(&pairs),
            pearson_interval: None,
            spearman: spearman(&pairs),
            spearman_interval: None,
            mean_absolute_difference: (!pairs.is_empty()).then_some(apart),
        })
    }

    /// The same with intervals: answer `i` is to prompt `prompts[i]`, by any numbers. Answers to one prompt resemble each other, so
    /// that prompts are drawn.
    ///
    /// # Errors
    /// [`Error::NotPaired`] when there are not as many verdicts of either, and as many prompts.
    pub fn between_prompts<'a>(
        first: impl IntoIterator<Item = &'a Verdict>,
        second: impl IntoIterator<Item = &'a Verdict>,
        prompts: &[usize],
    ) -> Result<Self> {
        let (first, second): (Vec<_>, Vec<_>) = (first.into_iter().collect(), second.into_iter().collect());
        if first.len() != prompts.len() {
            return Err(Error::NotPaired { first: first.len(), second: prompts.len() });
        }
        let found = Self::between(first.iter().copied(), second.iter().copied())?;
        let both = values(first, second)?;
        let scored = both.iter().zip(prompts).filter_map(|(&(first, second), prompt)| Some((first?, second?, *prompt)));
        let (pairs, prompts): (Vec<(f64, f64)>, Vec<usize>) =
            scored.map(|(first, second, prompt)| ((first, second), prompt)).unzip();
        let clusters = Clusters::new(&prompts);
        let drawn = |rows: &[usize]| rows.iter().map(|row| pairs[*row]).collect::<Vec<_>>();
        Ok(Self {
            pearson_interval: clusters.interval(|rows| pearson(&drawn(rows)).map(|found| found.r)),
            spearman_interval: clusters.interval(|rows| spearman(&drawn(rows))),
            ..found
        })
    }
}

/// The two scores of each answer.
fn values<'a>(
    first: impl IntoIterator<Item = &'a Verdict>,
    second: impl IntoIterator<Item = &'a Verdict>,
) -> Result<Vec<(Option<f64>, Option<f64>)>> {
    let first: Vec<_> = first.into_iter().map(Verdict::value).collect();
    let second: Vec<_> = second.into_iter().map(Verdict::value).collect();
    match first.len() == second.len() {
        true => Ok(first.into_iter().zip(second).collect()),
        false => Err(Error::NotPaired { first: first.len(), second: second.len() }),
    }
}

/// The scores of the answers that both judges scored.
fn scored(both: &[(Option<f64>, Option<f64>)]) -> Vec<(f64, f64)> {
    both.iter().filter_map(|&(first, second)| first.zip(second)).collect()
}

/// A map from one judge's scores to another's: the nondecreasing step function with the least squared error (isotonic
/// regression by pooling adjacent violators), with straight lines between its points. Scores below the first point or
/// above the last one map to that point's value.
///
/// It translates scores if two judges agree on the order of answers but not on the scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(f64, f64)>", into = "Vec<(f64, f64)>")]
pub struct IsotonicMap {
    /// The points from left to right; the first values increase, the second ones do not decrease. At least two.
    points: Vec<(f64, f64)>,
}

impl IsotonicMap {
    /// Fits the map to pairs (score of one judge, score of the other).
    ///
    /// `None` with fewer than three pairs, with a value that is not finite, or if the first judge's scores are all
    /// equal.
    pub fn fit(pairs: &[(f64, f64)]) -> Option<Self> {
        if pairs.len() < 3 || pairs.iter().any(|(x, y)| !x.is_finite() || !y.is_finite()) {
            return None;
        }
        let mut sorted = pairs.to_vec();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut blocks: Vec<Block> = Vec::new();
        for equal in sorted.chunk_by(|a, b| a.0 == b.0) {
            let sum = equal.iter().map(|pair| pair.1).sum();
            let mut block = Block { from: equal[0].0, to: equal[0].0, sum, count: equal.len() as f64 };
            while let Some(before) = blocks.pop_if(|before| before.mean() >= block.mean()) {
                block = before.with(&block);
            }
            blocks.push(block);
        }
        let ends = blocks.iter().flat_map(|block| [(block.from, block.mean()), (block.to, block.mean())]);
        let mut points: Vec<(f64, f64)> = ends.collect();
        points.dedup_by_key(|point| point.0);
        Self::try_from(points).ok()
    }

    /// Like [`fit`](Self::fit), for two judges' verdicts on the same answers. Answers without a score of either are
    /// skipped.
    ///
    /// # Errors
    /// [`Error::NotPaired`] if the numbers of verdicts differ, [`Error::NoMap`] where [`fit`](Self::fit) returns
    /// `None`.
    pub fn between<'a>(
        from: impl IntoIterator<Item = &'a Verdict>,
        to: impl IntoIterator<Item = &'a Verdict>,
    ) -> Result<Self> {
        let pairs = scored(&values(from, to)?);
        Self::fit(&pairs).ok_or(Error::NoMap { pairs: pairs.len() })
    }

    /// The score on the other judge's scale. NaN stays NaN.
    pub fn map(&self, score: f64) -> f64 {
        let after = self.points.partition_point(|point| point.0 <= score);
        let (Some(right), Some(left)) = (self.points.get(after), after.checked_sub(1).map(|at| self.points[at])) else {
            let end = if after == 0 { self.points.first() } else { self.points.last() };
            return end.filter(|_| !score.is_nan()).map_or(f64::NAN, |point| point.1);
        };
        let share = (score - left.0) / (right.0 - left.0);
        // Clamped to the two values, against rounding.
        (left.1 + share * (right.1 - left.1)).clamp(left.1, right.1)
    }

    /// The points between which the map is linear, from left to right.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }
}

/// Neighbouring points with one value.
struct Block {
    from: f64,
    to: f64,
    sum: f64,
    count: f64,
}

impl Block {
    fn mean(&self) -> f64 {
        self.sum / self.count
    }

    fn with(&self, right: &Self) -> Self {
        Self { from: self.from, to: right.to, sum: self.sum + right.sum, count: self.count + right.count }
    }
}

impl TryFrom<Vec<(f64, f64)>> for IsotonicMap {
    type Error = Error;

    fn try_from(points: Vec<(f64, f64)>) -> Result<Self> {
        if points.len() < 2 {
            return Err(MapError::TooFewPoints { found: points.len() }.into());
        }
        if let Some(index) = points.iter().position(|(x, y)| !x.is_finite() || !y.is_finite()) {
            return Err(MapError::NotFinite { index, point: points[index] }.into());
        }
        if let Some(at) = points.windows(2).position(|pair| pair[0].0 >= pair[1].0 || pair[0].1 > pair[1].1) {
            return Err(MapError::NotIncreasing { index: at + 1, before: points[at], point: points[at + 1] }.into());
        }
        Ok(Self { points })
    }
}

impl From<IsotonicMap> for Vec<(f64, f64)> {
    fn from(map: IsotonicMap) -> Self {
        map.points
    }
}

#[cfg(test)]
mod tests;
