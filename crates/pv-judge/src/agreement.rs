//! How far two judges agree, and what one's score would be in the other's eyes.

use serde::{Deserialize, Serialize};

use crate::statistics::{Correlation, pearson, spearman};
use crate::{Error, Result, Verdict};

/// How far two judges agree on the same answers by one rubric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// How many answers both scored; the measures below are about these.
    pub pairs: usize,
    /// How many answers only the first gave no score.
    pub first_abstained: usize,
    /// How many answers only the second gave no score.
    pub second_abstained: usize,
    /// How many answers neither scored.
    pub both_abstained: usize,
    /// Pearson's correlation of the scores; `None` where [`pearson`] has none.
    pub pearson: Option<Correlation>,
    /// Spearman's rank correlation; `None` where [`spearman`] has none.
    pub spearman: Option<f64>,
    /// The mean of |first − second|, in points of 0 to 100; `None` without pairs.
    pub mean_absolute_difference: Option<f64>,
}

impl Agreement {
    /// Compares two judges' verdicts: verdict `i` of both is about the same answer, by the same rubric.
    ///
    /// # Errors
    /// [`Error::NotPaired`] when there are not as many verdicts of one as of the other.
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
            spearman: spearman(&pairs),
            mean_absolute_difference: (!pairs.is_empty()).then_some(apart),
        })
    }
}

/// Each answer's two scores.
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

/// The scores of the answers that both scored.
fn scored(both: &[(Option<f64>, Option<f64>)]) -> Vec<(f64, f64)> {
    both.iter().filter_map(|&(first, second)| first.zip(second)).collect()
}

/// A map from one judge's scores to another's: the rising step function that fits the pairs best in squares (isotonic
/// regression by pooling adjacent violators), with straight lines between its points. Scores below the first point or
/// above the last one get that point's value.
///
/// It translates scores where two judges agree on the order of answers but not on the scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(f64, f64)>", into = "Vec<(f64, f64)>")]
pub struct IsotonicMap {
    /// Points from left to right; the first values rise, the second ones do not fall. At least two.
    points: Vec<(f64, f64)>,
}

impl IsotonicMap {
    /// The map that fits the pairs (score of one judge, score of the other) best.
    ///
    /// `None` with fewer than three pairs, with a value that is not finite, or when the first judge's scores are all the
    /// same.
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

    /// As [`fit`](Self::fit), from two judges' verdicts on the same answers; answers that one of them did not score are
    /// left out.
    ///
    /// # Errors
    /// [`Error::NotPaired`] when there are not as many verdicts of one as of the other, [`Error::NoMap`] where
    /// [`fit`](Self::fit) gives none.
    pub fn between<'a>(
        from: impl IntoIterator<Item = &'a Verdict>,
        to: impl IntoIterator<Item = &'a Verdict>,
    ) -> Result<Self> {
        let pairs = scored(&values(from, to)?);
        Self::fit(&pairs).ok_or(Error::NoMap { pairs: pairs.len() })
    }

    /// What the other judge would have said. NaN stays NaN.
    pub fn map(&self, score: f64) -> f64 {
        let after = self.points.partition_point(|point| point.0 <= score);
        let (Some(right), Some(left)) = (self.points.get(after), after.checked_sub(1).map(|at| self.points[at])) else {
            let end = if after == 0 { self.points.first() } else { self.points.last() };
            return end.filter(|_| !score.is_nan()).map_or(f64::NAN, |point| point.1);
        };
        let share = (score - left.0) / (right.0 - left.0);
        // Within the two values also where rounding would leave them.
        (left.1 + share * (right.1 - left.1)).clamp(left.1, right.1)
    }

    /// The points between which the map is straight, from left to right.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }
}

/// Neighbours with one value.
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
        let bad = |reason| Err(Error::BadMap { reason });
        if points.len() < 2 {
            return bad("there are fewer than two points");
        }
        if points.iter().any(|(x, y)| !x.is_finite() || !y.is_finite()) {
            return bad("a point is not finite");
        }
        if points.windows(2).any(|pair| pair[0].0 >= pair[1].0 || pair[0].1 > pair[1].1) {
            return bad("the points do not rise from left to right");
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
