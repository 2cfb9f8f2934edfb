//! The activations that a vector is estimated from, and the units that resamples are drawn from.

use std::collections::BTreeSet;

use ndarray::{ArrayView1, ArrayView2};
use pv_hooks::Layer;
use pv_statistics::BootstrapOptions;
use pv_statistics::bootstrap::{Draws, Resample, others, random, resample};
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

use crate::error::{ActivationsError, SettingError};
use crate::{Direction, Error, Result};

/// How often a draw that left one side empty is repeated before the data are reported as too few.
const DRAWS: usize = 1000;

/// The activations of rollouts of one side at one layer: one row per rollout, such as its mean over the response.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    layer: Layer,
    /// `[rollouts, d_model]`.
    values: ArrayView2<'a, f32>,
    questions: Option<&'a [usize]>,
    pairs: Option<&'a [usize]>,
}

impl<'a> Activations<'a> {
    /// The table with these values, `[rollouts, d_model]`.
    ///
    /// # Errors
    /// [`Error::BadActivations`] if there are no values or some are not finite.
    pub fn new(layer: Layer, values: ArrayView2<'a, f32>) -> Result<Self> {
        if values.is_empty() {
            return Err(ActivationsError::Empty { rows: values.nrows(), d_model: values.ncols() }.into());
        }
        if let Some(((row, column), &value)) = values.indexed_iter().find(|(_, value)| !value.is_finite()) {
            return Err(ActivationsError::NotFinite { row, column, value }.into());
        }
        Ok(Self { layer, values, questions: None, pairs: None })
    }

    /// The table with these values, given row by row.
    pub(crate) fn of_rows(layer: Layer, values: &'a [f32], d_model: usize) -> Result<Self> {
        let rows = values.len().checked_div(d_model).unwrap_or_default();
        let shape = ActivationsError::Shape { values: values.len(), d_model };
        // A view may be of the beginning of a longer slice.
        if rows * d_model != values.len() {
            return Err(shape.into());
        }
        Self::new(layer, ArrayView2::from_shape((rows, d_model), values).map_err(|_| shape)?)
    }

    /// Adds the question that each row answers. Any numbers may stand for the questions, but both sides must use the
    /// same. Answers to one question are similar, so that questions, not rollouts, are drawn independently.
    ///
    /// # Errors
    /// [`Error::BadActivations`] if the number of questions is not the number of rows.
    pub fn by_question(self, questions: &'a [usize]) -> Result<Self> {
        if questions.len() != self.len() {
            let (what, found, rows) = ("questions", questions.len(), self.len());
            return Err(ActivationsError::Units { what, found, rows }.into());
        }
        Ok(Self { questions: Some(questions), ..self })
    }

    /// Like [`by_question`](Self::by_question), with the instruction pair under which each row was generated. Every
    /// question is asked under every pair. Draws of both show how the vector would vary with other questions and pairs.
    ///
    /// # Errors
    /// [`Error::BadActivations`] if the number of questions or pairs is not the number of rows.
    pub fn by_question_and_pair(self, questions: &'a [usize], pairs: &'a [usize]) -> Result<Self> {
        if pairs.len() != self.len() {
            let (what, found, rows) = ("pairs of instructions", pairs.len(), self.len());
            return Err(ActivationsError::Units { what, found, rows }.into());
        }
        Ok(Self { pairs: Some(pairs), ..self.by_question(questions)? })
    }

    /// The layer at which the activations were recorded.
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// The width of a row, `d_model`.
    pub fn d_model(&self) -> usize {
        self.values.ncols()
    }

    /// The number of rows, one per rollout.
    #[allow(clippy::len_without_is_empty, reason = "there is always a row")]
    pub fn len(&self) -> usize {
        self.values.nrows()
    }

    /// The rows, `[rollouts, d_model]`.
    pub fn values(&self) -> ArrayView2<'a, f32> {
        self.values
    }

    /// The rows, `[d_model]` each.
    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = ArrayView1<'_, f32>> {
        self.values.outer_iter()
    }

    /// The mean of the rows, `[d_model]`, accumulated in f64.
    pub(crate) fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.d_model()];
        self.rows().for_each(|row| add(&mut mean, row));
        mean.iter_mut().for_each(|value| *value /= self.len() as f64);
        mean
    }
}

/// The persona vector at a layer, `[d_model]`: the mean of `pos` minus the mean of `neg` (paper, section 2.2).
///
/// # Errors
/// [`Error::Unlike`] for activations of different layers or widths, [`Error::NoDirection`] if the means are equal.
pub fn mean_difference(pos: &Activations<'_>, neg: &Activations<'_>) -> Result<Direction> {
    alike(pos, neg)?;
    let values: Vec<f32> = pos.mean().iter().zip(neg.mean()).map(|(pos, neg)| (pos - neg) as f32).collect();
    let direction = Direction { layer: pos.layer, values, mean_residual_norm: None };
    direction.unit().map_err(|_| Error::NoDirection { operation: "the difference of means", layer: pos.layer })?;
    Ok(direction)
}

pub(crate) fn alike(pos: &Activations<'_>, neg: &Activations<'_>) -> Result<()> {
    let unlike = |what, left: String, right: String| Err(Error::Unlike { what, left, right });
    if pos.layer != neg.layer {
        return unlike("layer", pos.layer.to_string(), neg.layer.to_string());
    }
    if pos.d_model() != neg.d_model() {
        return unlike("width", pos.d_model().to_string(), neg.d_model().to_string());
    }
    if pos.questions.is_some() != neg.questions.is_some() {
        let say = |side: &Activations<'_>| if side.questions.is_some() { "known" } else { "unknown" }.to_owned();
        return unlike("whether their questions are known", say(pos), say(neg));
    }
    Ok(())
}

fn add(sum: &mut [f64], row: ArrayView1<'_, f32>) {
    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
}

/// The sums of both sides' rows over each unit that can be drawn independently: a question, or a rollout if the
/// questions are unknown.
///
/// All rows are taken relative to the mean of all rows. This does not change differences of means, and avoids the
/// cancellation of a large common part.
pub(crate) struct Units {
    pub(crate) d_model: usize,
    /// The unit of each row of `pos` and of each row of `neg`.
    pub(crate) of: [Vec<usize>; 2],
    /// `[units, d_model]` for `pos` and `neg`.
    sums: [Vec<f64>; 2],
    counts: [Vec<f64>; 2],
    /// The groups of units that are drawn from separately: all questions; or the rollouts of each side, which are
    /// independent of the other side's.
    strata: Vec<Vec<usize>>,
}

impl Units {
    pub(crate) fn new(pos: &Activations<'_>, neg: &Activations<'_>) -> Result<Self> {
        alike(pos, neg)?;
        let (n, m) = (pos.len(), neg.len());
        let (of, strata) = match (pos.questions, neg.questions) {
            (Some(a), Some(b)) => {
                let known: Vec<usize> = a.iter().chain(b).copied().collect::<BTreeSet<_>>().into_iter().collect();
                let number = |question: &usize| known.binary_search(question).unwrap_or_default();
                let of = [a.iter().map(number).collect(), b.iter().map(number).collect()];
                (of, vec![(0..known.len()).collect()])
            }
            _ => ([(0..n).collect(), (n..n + m).collect()], vec![(0..n).collect(), (n..n + m).collect()]),
        };
        Ok(Self::of(pos, neg, of, strata))
    }

    /// The units of the rows, as given by `of`.
    fn of(pos: &Activations<'_>, neg: &Activations<'_>, of: [Vec<usize>; 2], strata: Vec<Vec<usize>>) -> Self {
        let (n, m) = (pos.len(), neg.len());
        let units: usize = strata.iter().map(Vec::len).sum();
        let d_model = pos.d_model();
        let (pos_mean, neg_mean) = (pos.mean(), neg.mean());
        let (n, m) = (n as f64, m as f64);
        let origin: Vec<f64> = pos_mean.iter().zip(&neg_mean).map(|(p, q)| (p * n + q * m) / (n + m)).collect();
        let mut sums = [vec![0.0; units * d_model], vec![0.0; units * d_model]];
        let mut counts = [vec![0.0; units], vec![0.0; units]];
        let mut take = |side: usize, rows: ArrayView2<'_, f32>| {
            for (row, &unit) in rows.outer_iter().zip(&of[side]) {
                let sum = &mut sums[side][unit * d_model..][..d_model];
                sum.iter_mut().zip(row).zip(&origin).for_each(|((sum, v), o)| *sum += f64::from(*v) - o);
                counts[side][unit] += 1.0;
            }
        };
        take(0, pos.values);
        take(1, neg.values);
        Self { d_model, of, sums, counts, strata }
    }

    pub(crate) fn len(&self) -> usize {
        self.counts[0].len()
    }

    /// The difference between the sides' means, `[d_model]`, with each unit counted `weights` times; `None` if a side
    /// has no row.
    pub(crate) fn difference(&self, weights: &[f64]) -> Option<Vec<f64>> {
        let total = |side: usize| -> f64 { weights.iter().zip(&self.counts[side]).map(|(w, n)| w * n).sum() };
        let mut difference = vec![0.0; self.d_model];
        for (side, sign) in [(0, 1.0), (1, -1.0)] {
            let total = total(side);
            if total <= 0.0 {
                return None;
            }
            let sums = self.sums[side].chunks_exact(self.d_model);
            for ((weight, count), sum) in weights.iter().zip(&self.counts[side]).zip(sums) {
                if *weight > 0.0 && *count > 0.0 {
                    let factor = sign * weight / total;
                    difference.iter_mut().zip(sum).for_each(|(value, sum)| *value += factor * sum);
                }
            }
        }
        Some(difference)
    }

    /// A random half of the units, such that each side has rows in both halves: 1 for units in it, 0 for the others.
    pub(crate) fn half(&self, random: &mut ChaCha8Rng) -> Option<Vec<f64>> {
        (0..DRAWS).find_map(|_| {
            let part = self.parts(2, random);
            let weights: Vec<f64> = part.iter().map(|part| if *part == 0 { 1.0 } else { 0.0 }).collect();
            (self.both_sides(&weights) && self.both_sides(&others(&weights))).then_some(weights)
        })
    }

    /// The part, of `folds`, that each unit belongs to, such that each side has rows outside of every part.
    pub(crate) fn folds(&self, folds: usize, seed: u64, what: &'static str) -> Result<Vec<usize>> {
        if folds < 2 {
            return Err(SettingError::TooFewFolds { what, folds }.into());
        }
        let mut random = random(seed, 0);
        (0..DRAWS)
            .map(|_| self.parts(folds, &mut random))
            .find(|parts| (0..folds).all(|fold| parts.contains(&fold) && self.both_sides(&without(parts, fold))))
            .ok_or(Error::TooFewUnits { what, found: self.len() })
    }

    fn parts(&self, parts: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
        let mut part = vec![0; self.len()];
        let mut next = 0;
        for stratum in &self.strata {
            let mut order = stratum.clone();
            order.shuffle(random);
            for unit in order {
                part[unit] = next % parts;
                next += 1;
            }
        }
        part
    }

    fn both_sides(&self, weights: &[f64]) -> bool {
        self.counts.iter().all(|counts| weights.iter().zip(counts).any(|(weight, count)| weight * count > 0.0))
    }
}

/// What is resampled, so that similar rollouts stay together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResampledUnit {
    /// Individual rollouts, if their questions are unknown.
    Rollout,
    /// Questions.
    Question,
    /// Questions, and instruction pairs independently of them: the count of a rollout is the count of its question
    /// times the count of its pair.
    QuestionAndPair,
}

/// How resamples are drawn from the rows of two sides.
pub(crate) struct Resampling {
    units: Units,
    draws: Draws,
    pub(crate) unit: ResampledUnit,
}

impl Resampling {
    /// Over questions and instruction pairs if both are known and both can be held out; else over questions; else over
    /// rollouts.
    pub(crate) fn new(pos: &Activations<'_>, neg: &Activations<'_>) -> Result<Self> {
        let units = Units::new(pos, neg)?;
        if let (Some(a), Some(b), Some(p), Some(n)) = (pos.questions, neg.questions, pos.pairs, neg.pairs) {
            let cells = [(a, p), (b, n)].map(|(questions, pairs)| -> Vec<(usize, usize)> {
                questions.iter().copied().zip(pairs.iter().copied()).collect()
            });
            let known: Vec<(usize, usize)> =
                cells.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
            let (questions, pairs): (Vec<usize>, Vec<usize>) = known.iter().copied().unzip();
            let of = cells.map(|cells| {
                cells.iter().map(|cell| known.binary_search(cell).unwrap_or_default()).collect::<Vec<usize>>()
            });
            if let Some(draws) =
                Draws::crossed(&questions, &pairs).filter(|draws| draws.factors().is_some_and(|n| n[1] > 1))
            {
                let units = Units::of(pos, neg, of, vec![(0..known.len()).collect()]);
                let crossed = Self { units, draws, unit: ResampledUnit::QuestionAndPair };
                // If a side has rows under one pair only, no draw holds that pair out and keeps both sides.
                if crossed.draws.first(&mut random(0, 0), |resample| crossed.is_usable(resample)).is_some() {
                    return Ok(crossed);
                }
            }
        }
        let unit = if pos.questions.is_some() { ResampledUnit::Question } else { ResampledUnit::Rollout };
        let draws = Draws::strata(units.strata.clone());
        Ok(Self { units, draws, unit })
    }

    pub(crate) fn len(&self) -> usize {
        self.units.len()
    }

    pub(crate) fn difference(&self, weights: &[f64]) -> Option<Vec<f64>> {
        self.units.difference(weights)
    }

    /// Each side must have rows among the drawn units, and rows that share no unit with the drawn ones.
    fn is_usable(&self, resample: &Resample) -> Option<()> {
        (self.units.both_sides(&resample.drawn) && self.units.both_sides(&resample.held_out)).then_some(())
    }

    /// Computes a statistic of each resample of the rows.
    pub(crate) fn resample<T: Send>(
        &self,
        options: &BootstrapOptions,
        statistic: impl Fn(&Resample) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let found = self.len();
        let values = resample(&self.draws, options, |drawn| self.is_usable(drawn).map(|()| statistic(drawn)));
        let values = values.map_err(|error| match error {
            pv_statistics::Error::TooFew { what, .. } => Error::TooFewUnits { what, found },
            other => other.into(),
        });
        values?.into_iter().collect()
    }
}

/// Weights of one for the units outside of a part, and zero for those in it.
pub(crate) fn without(parts: &[usize], part: usize) -> Vec<f64> {
    parts.iter().map(|of| if *of == part { 0.0 } else { 1.0 }).collect()
}
