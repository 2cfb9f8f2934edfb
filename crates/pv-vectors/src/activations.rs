//! The activations that a vector is estimated from, and the units that may be drawn from them.

use std::collections::BTreeSet;

use pv_hooks::Layer;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::{Direction, Error, Result};

/// How often a draw that left one side empty is repeated before the data count as too few.
const DRAWS: usize = 1000;

/// The activations of rollouts of one side at one layer: one row per rollout, such as its mean over the response.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    layer: Layer,
    values: &'a [f32],
    d_model: usize,
    questions: Option<&'a [usize]>,
    pairs: Option<&'a [usize]>,
}

impl<'a> Activations<'a> {
    /// The table with these values, `[rollouts, d_model]`, row after row.
    ///
    /// # Errors
    /// [`Error::BadActivations`] when they do not fill rows, or are not all finite.
    pub fn new(layer: Layer, values: &'a [f32], d_model: usize) -> Result<Self> {
        let bad = |reason: String| Err(Error::BadActivations { reason });
        if d_model == 0 || values.is_empty() || !values.len().is_multiple_of(d_model) {
            return bad(format!("{} values do not fill rows of {d_model}", values.len()));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return bad(format!("row {} holds {} at {}", at / d_model, values[at], at % d_model));
        }
        Ok(Self { layer, values, d_model, questions: None, pairs: None })
    }

    /// The same rows with the question that each of them answers; any numbers will do, the same on both sides. Answers to
    /// one question are alike, so that questions, not rollouts, are what can be drawn independently.
    ///
    /// # Errors
    /// [`Error::BadActivations`] when there is not one question per row.
    pub fn by_question(self, questions: &'a [usize]) -> Result<Self> {
        if questions.len() != self.len() {
            let reason = format!("{} questions for {} rows", questions.len(), self.len());
            return Err(Error::BadActivations { reason });
        }
        Ok(Self { questions: Some(questions), ..self })
    }

    /// As [`by_question`](Self::by_question), with the pair of instructions too under which each row was generated. Every
    /// question is asked under every pair; what a vector would be with other ones is to be expected from draws of both.
    ///
    /// # Errors
    /// [`Error::BadActivations`] when there is not one question and one pair per row.
    pub fn by_question_and_pair(self, questions: &'a [usize], pairs: &'a [usize]) -> Result<Self> {
        if pairs.len() != self.len() {
            let reason = format!("{} pairs of instructions for {} rows", pairs.len(), self.len());
            return Err(Error::BadActivations { reason });
        }
        Ok(Self { pairs: Some(pairs), ..self.by_question(questions)? })
    }

    /// Where they were recorded.
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// The width of a row.
    pub fn d_model(&self) -> usize {
        self.d_model
    }

    /// The number of rows.
    #[allow(clippy::len_without_is_empty, reason = "there is always a row")]
    pub fn len(&self) -> usize {
        self.values.len() / self.d_model
    }

    /// The rows.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &'a [f32]> + Clone + use<'a> {
        self.values.chunks_exact(self.d_model)
    }

    /// The mean of the rows, in f64.
    pub(crate) fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.d_model];
        self.rows().for_each(|row| add(&mut mean, row));
        mean.iter_mut().for_each(|value| *value /= self.len() as f64);
        mean
    }
}

/// The persona vector at a layer: the mean of `pos` minus the mean of `neg` (paper, section 2.2).
///
/// # Errors
/// [`Error::Unlike`] for activations of different layers or widths, [`Error::NoDirection`] when the means are equal.
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
    if pos.d_model != neg.d_model {
        return unlike("width", pos.d_model.to_string(), neg.d_model.to_string());
    }
    if pos.questions.is_some() != neg.questions.is_some() {
        let say = |side: &Activations<'_>| if side.questions.is_some() { "known" } else { "unknown" }.to_owned();
        return unlike("whether their questions are known", say(pos), say(neg));
    }
    Ok(())
}

fn add(sum: &mut [f64], row: &[f32]) {
    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
}

/// The sums of both sides' rows over each unit that can be drawn independently: a question, or a rollout where questions
/// are not known.
///
/// All rows are taken relative to the mean of all: differences of means do not change, and what they are made of does not
/// cancel a large common part any more.
pub(crate) struct Units {
    pub(crate) d_model: usize,
    /// Which unit each row of `pos`, and each of `neg`, belongs to.
    pub(crate) of: [Vec<usize>; 2],
    /// `[units, d_model]` for `pos` and `neg`.
    sums: [Vec<f64>; 2],
    counts: [Vec<f64>; 2],
    /// What is drawn among itself: all questions; or the rollouts of each side, which have nothing to do with the other's.
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

    /// The units that the rows belong to as `of` says.
    fn of(pos: &Activations<'_>, neg: &Activations<'_>, of: [Vec<usize>; 2], strata: Vec<Vec<usize>>) -> Self {
        let (n, m) = (pos.len(), neg.len());
        let units: usize = strata.iter().map(Vec::len).sum();
        let d_model = pos.d_model;
        let (pos_mean, neg_mean) = (pos.mean(), neg.mean());
        let (n, m) = (n as f64, m as f64);
        let origin: Vec<f64> = pos_mean.iter().zip(&neg_mean).map(|(p, q)| (p * n + q * m) / (n + m)).collect();
        let mut sums = [vec![0.0; units * d_model], vec![0.0; units * d_model]];
        let mut counts = [vec![0.0; units], vec![0.0; units]];
        for (side, rows) in [pos, neg].into_iter().enumerate() {
            for (row, &unit) in rows.rows().zip(&of[side]) {
                let sum = &mut sums[side][unit * d_model..][..d_model];
                sum.iter_mut().zip(row).zip(&origin).for_each(|((sum, v), o)| *sum += f64::from(*v) - o);
                counts[side][unit] += 1.0;
            }
        }
        Self { d_model, of, sums, counts, strata }
    }

    pub(crate) fn len(&self) -> usize {
        self.counts[0].len()
    }

    /// The difference between the sides' means when each unit counts as often as `weights` say; `None` when a side has no
    /// row.
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

    /// As many units as there are, drawn with replacement, so that each side has rows both among those that were drawn and
    /// among those that were not: how often each was drawn.
    pub(crate) fn resample(&self, random: &mut ChaCha8Rng) -> Option<Vec<f64>> {
        (0..DRAWS).find_map(|_| {
            let mut weights = vec![0.0; self.len()];
            for stratum in &self.strata {
                for _ in stratum {
                    weights[stratum[random.random_range(0..stratum.len())]] += 1.0;
                }
            }
            (self.both_sides(&weights) && self.both_sides(&others(&weights))).then_some(weights)
        })
    }

    /// A half of the units, so that each side has rows in both halves: 1 for those in it, 0 for the others.
    pub(crate) fn half(&self, random: &mut ChaCha8Rng) -> Option<Vec<f64>> {
        (0..DRAWS).find_map(|_| {
            let part = self.parts(2, random);
            let weights: Vec<f64> = part.iter().map(|part| if *part == 0 { 1.0 } else { 0.0 }).collect();
            (self.both_sides(&weights) && self.both_sides(&others(&weights))).then_some(weights)
        })
    }

    /// Which of `folds` parts each unit belongs to, so that each side has rows outside of every part.
    pub(crate) fn folds(&self, folds: usize, seed: u64, what: &'static str) -> Result<Vec<usize>> {
        if folds < 2 {
            return Err(Error::BadSetting { reason: format!("{what} with {folds} folds; at least 2 are needed") });
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

/// What is drawn into a resample, so that rollouts that resemble each other stay together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResampledUnit {
    /// Rollouts, each by itself, where it is not known what they answer.
    Rollout,
    /// Questions.
    Question,
    /// Questions, and pairs of instructions independently of them: a rollout counts as often as its question was drawn, times as
    /// often as its pair was.
    QuestionAndPair,
}

/// How resamples are drawn from the rows of two sides.
pub(crate) struct Resampling {
    units: Units,
    /// Of each unit its question and its pair of instructions, and how many there are of either, where both are drawn.
    crossed: Option<([Vec<usize>; 2], [usize; 2])>,
    pub(crate) unit: ResampledUnit,
}

impl Resampling {
    /// Over questions and pairs of instructions where both are known and either can be left out, else over questions, else over
    /// rollouts.
    pub(crate) fn new(pos: &Activations<'_>, neg: &Activations<'_>) -> Result<Self> {
        let units = Units::new(pos, neg)?;
        if let (Some(a), Some(b), Some(p), Some(n)) = (pos.questions, neg.questions, pos.pairs, neg.pairs) {
            let cells = [(a, p), (b, n)].map(|(questions, pairs)| -> Vec<(usize, usize)> {
                questions.iter().copied().zip(pairs.iter().copied()).collect()
            });
            let known: Vec<(usize, usize)> =
                cells.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
            let numbered = |values: Vec<usize>| {
                let distinct: Vec<usize> = values.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
                let numbers = values.iter().map(|value| distinct.binary_search(value).unwrap_or_default()).collect();
                (numbers, distinct.len())
            };
            let (questions, question_count) = numbered(known.iter().map(|(question, _)| *question).collect());
            let (pairs, pair_count) = numbered(known.iter().map(|(_, pair)| *pair).collect());
            let of = cells.map(|cells| {
                cells.iter().map(|cell| known.binary_search(cell).unwrap_or_default()).collect::<Vec<usize>>()
            });
            let crossed = Self {
                units: Units::of(pos, neg, of, vec![(0..known.len()).collect()]),
                crossed: Some(([questions, pairs], [question_count, pair_count])),
                unit: ResampledUnit::QuestionAndPair,
            };
            // Where a side has rows under one pair only, no draw leaves that pair out and both sides in.
            if pair_count > 1 && crossed.draw(&mut random(0, 0)).is_some() {
                return Ok(crossed);
            }
        }
        let unit = if pos.questions.is_some() { ResampledUnit::Question } else { ResampledUnit::Rollout };
        Ok(Self { units, crossed: None, unit })
    }

    pub(crate) fn len(&self) -> usize {
        self.units.len()
    }

    pub(crate) fn difference(&self, weights: &[f64]) -> Option<Vec<f64>> {
        self.units.difference(weights)
    }

    /// How often each unit was drawn, and once each the units that share nothing with those that were: no question and no pair. Each
    /// side has rows in both; `None` where no draw does that.
    pub(crate) fn draw(&self, random: &mut ChaCha8Rng) -> Option<[Vec<f64>; 2]> {
        let Some(([questions, pairs], counts)) = &self.crossed else {
            let drawn = self.units.resample(random)?;
            let left = others(&drawn);
            return Some([drawn, left]);
        };
        (0..DRAWS).find_map(|_| {
            let [of_question, of_pair] = counts.map(|count| {
                let mut times = vec![0.0; count];
                (0..count).for_each(|_| times[random.random_range(0..count)] += 1.0);
                times
            });
            let both = || questions.iter().zip(pairs).map(|(&question, &pair)| (of_question[question], of_pair[pair]));
            let drawn: Vec<f64> = both().map(|(question, pair)| question * pair).collect();
            let left: Vec<f64> =
                both().map(|(question, pair)| if question + pair == 0.0 { 1.0 } else { 0.0 }).collect();
            (self.units.both_sides(&drawn) && self.units.both_sides(&left)).then_some([drawn, left])
        })
    }
}

/// The units that `weights` leave out, once each.
pub(crate) fn others(weights: &[f64]) -> Vec<f64> {
    weights.iter().map(|weight| if *weight > 0.0 { 0.0 } else { 1.0 }).collect()
}

/// The units outside of a part, once each.
pub(crate) fn without(parts: &[usize], part: usize) -> Vec<f64> {
    parts.iter().map(|of| if *of == part { 0.0 } else { 1.0 }).collect()
}

/// Random numbers of their own for each of many draws, so that these may be made in any order.
pub(crate) fn random(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    random
}
