//! The part of calibrations that concerns whole answers.

use ndarray::ArrayView2;
use pv_statistics::Distribution;
use pv_statistics::distribution::Tally;
use serde::{Deserialize, Serialize};

use super::rate::FalseAlarms;
use super::reading::{Answer, Kind};
use super::side::Side;
use super::spread::Spread;

/// The default false-alarm rates at which a calibration measures its alarms on held-out answers.
pub(super) const RATES: [f64; 3] = [0.1, 0.05, 0.01];

/// The smallest and the largest reading of an answer on one direction, by kind. They are equal for kinds with one
/// reading per answer.
pub(super) type Extremes = [Option<(f64, f64)>; Kind::ALL.len()];

/// The extremes of an answer on a direction, given by its index.
pub(super) fn extremes(answer: &Answer, watch: usize) -> Extremes {
    let all = |tokens: ArrayView2<'_, f32>| {
        let values = tokens.outer_iter().filter_map(|row| row.get(watch).map(|value| f64::from(*value)));
        values.fold(None, |found: Option<(f64, f64)>, value| {
            let (least, greatest) = found.unwrap_or((value, value));
            Some((least.min(value), greatest.max(value)))
        })
    };
    let one =
        |values: Option<&[f32]>| values.and_then(|values| values.get(watch)).map(|v| (f64::from(*v), f64::from(*v)));
    Kind::ALL.map(|kind| match kind {
        Kind::PromptToken => all(answer.prompt_tokens()),
        Kind::PromptLast => one(answer.prompt_last()),
        Kind::Token => all(answer.tokens()),
        Kind::ResponseMean => one(answer.mean().as_deref()),
    })
}

/// Distributions of the extremes of single answers. An answer meets a rule if its largest (or smallest) reading does.
#[derive(Clone, Debug)]
pub(super) struct ExtremesTally([[Tally; 2]; Kind::ALL.len()]);

impl ExtremesTally {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| std::array::from_fn(|_| Tally::new())))
    }

    pub(super) fn add(&mut self, extremes: &Extremes) {
        for (tallies, extremes) in self.0.iter_mut().zip(extremes) {
            if let Some((least, greatest)) = extremes {
                tallies[0].add(*least);
                tallies[1].add(*greatest);
            }
        }
    }

    pub(super) fn finish(self) -> [AnswerExtremes; Kind::ALL.len()] {
        self.0.map(|tallies| {
            let [least, greatest] = tallies.map(Tally::finish);
            AnswerExtremes { least, greatest }
        })
    }
}

/// The distributions of the smallest and of the largest reading of an answer, over answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct AnswerExtremes {
    least: Distribution,
    greatest: Distribution,
}

impl AnswerExtremes {
    /// For a kind with one reading per answer.
    pub(super) fn of_one(readings: &Distribution) -> Self {
        Self { least: readings.clone(), greatest: readings.clone() }
    }

    pub(super) fn merged(self, other: &Self) -> Self {
        Self { least: self.least.merged(&other.least), greatest: self.greatest.merged(&other.greatest) }
    }

    /// The number of answers.
    pub(super) fn answers(&self) -> u64 {
        self.greatest.n()
    }

    /// The threshold that at most this fraction of ordinary answers passes. A new answer is equally likely to have any
    /// rank among the `n` known ones, so the threshold is the `(n + 1)·(1 − rate)`-th of them; `None` if that is beyond
    /// the last.
    pub(super) fn threshold(&self, side: Side, rate: f64) -> Option<f64> {
        let n = self.answers() as f64;
        // Slightly less, since 1/100 of 99 + 1 is not exactly 1.
        if (n + 1.0) * rate < 1.0 - 1e-9 {
            return None;
        }
        let share = ((n + 1.0) * (1.0 - rate) / n).min(1.0);
        match side {
            Side::Above => self.greatest.quantile(share),
            Side::Below => self.least.quantile(1.0 - share),
        }
    }
}

/// The rate of false alarms on held-out ordinary answers: the answers were divided into two halves, and each half was
/// measured by the thresholds of the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HeldOut {
    /// The kind of reading.
    pub kind: Kind,
    /// The side of the threshold.
    pub side: Side,
    /// The maximum fraction of ordinary answers that should raise an alarm
    /// ([`Threshold::FalseAlarms`](super::Threshold::FalseAlarms)).
    pub rate: f64,
    /// The measured fraction.
    pub found: FalseAlarms,
}

/// The answers of two halves on one direction, for [`HeldOut`].
#[derive(Clone, Debug)]
pub(super) struct Halves {
    halves: [ExtremesTally; 2],
    /// The extremes of every answer, in the order of arrival; even ones belong to the first half.
    answers: Vec<[Option<(f32, f32)>; Kind::ALL.len()]>,
}

impl Halves {
    pub(super) fn new() -> Self {
        Self { halves: [ExtremesTally::new(), ExtremesTally::new()], answers: Vec::new() }
    }

    pub(super) fn add(&mut self, extremes: &Extremes) {
        self.halves[self.answers.len() % 2].add(extremes);
        // Readings are f32, so nothing is rounded.
        self.answers.push(extremes.map(|found| found.map(|(least, greatest)| (least as f32, greatest as f32))));
    }

    /// The extremes of all answers, and the false alarms of each half by the thresholds of the other.
    pub(super) fn finish(self, rates: &[f64]) -> ([AnswerExtremes; Kind::ALL.len()], Vec<HeldOut>) {
        let halves = self.halves.map(ExtremesTally::finish);
        let mut held_out = Vec::new();
        for kind in Kind::ALL {
            for side in [Side::Above, Side::Below] {
                for &rate in rates {
                    let thresholds = [0, 1].map(|half: usize| halves[half][kind as usize].threshold(side, rate));
                    let [Some(first), Some(second)] = thresholds else { continue };
                    let mut found = FalseAlarms::default();
                    for (at, answer) in self.answers.iter().enumerate() {
                        // Each answer by the thresholds of the other half.
                        let threshold = if at % 2 == 0 { second } else { first };
                        let Some((least, greatest)) = answer[kind as usize] else { continue };
                        found.count(match side {
                            Side::Above => f64::from(greatest) > threshold,
                            Side::Below => f64::from(least) < threshold,
                        });
                    }
                    held_out.push(HeldOut { kind, side, rate, found });
                }
            }
        }
        let [first, second] = halves;
        let mut second = second.into_iter();
        let all = first.map(|mine| match second.next() {
            Some(other) => mine.merged(&other),
            None => mine,
        });
        (all, held_out)
    }
}

/// The sums of both counts.
fn merged(mine: Vec<HeldOut>, other: &[HeldOut]) -> Vec<HeldOut> {
    let same = |a: &HeldOut, b: &HeldOut| (a.kind, a.side, a.rate.to_bits()) == (b.kind, b.side, b.rate.to_bits());
    let both = |mine: HeldOut| {
        let other = other.iter().find(|other| same(&mine, other));
        HeldOut { found: other.map_or(mine.found, |other| mine.found.merged(other.found)), ..mine }
    };
    let more = other.iter().filter(|other| !mine.iter().any(|mine| same(mine, other))).copied().collect::<Vec<_>>();
    mine.into_iter().map(both).chain(more).collect()
}

/// The part of a calibration about answers on one direction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OfAnswers {
    pub(super) prompt_token: AnswerExtremes,
    pub(super) token: AnswerExtremes,
    pub(super) spread: Spread,
    pub(super) held_out: Vec<HeldOut>,
}

impl OfAnswers {
    /// `None` if no whole answer was added.
    pub(super) fn new(halves: Halves, spread: Spread, rates: &[f64]) -> Option<Self> {
        if halves.answers.is_empty() {
            return None;
        }
        let ([prompt_token, _, token, _], held_out) = halves.finish(rates);
        Some(Self { prompt_token, token, spread, held_out })
    }

    pub(super) fn merged(self, other: &Self) -> Self {
        Self {
            prompt_token: self.prompt_token.merged(&other.prompt_token),
            token: self.token.merged(&other.token),
            spread: self.spread.merged(&other.spread),
            held_out: merged(self.held_out, &other.held_out),
        }
    }
}
