//! Advice on what to change if a filter keeps too few rollouts.

use std::fmt;

use pv_judge::traits::Polarity;

use super::{Filter, Kept, Outcome, Scored};

/// What to change if a filter keeps too few rollouts.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Advice {
    /// Change the threshold that drops the most rollouts.
    Threshold {
        /// The threshold.
        threshold: Threshold,
        /// Its value.
        value: f64,
        /// The number that would be kept without it.
        kept_without: usize,
        /// The minimum number.
        needed: usize,
        /// The value beyond which enough would be kept, rounded to a tenth; `None` if there is none.
        sufficient: Option<f64>,
    },
    /// Generate more rollouts or change their instructions, judge or model: no single threshold is the cause.
    Rollouts {
        /// The reason for which the most rollouts are dropped.
        reason: Outcome,
        /// Their number.
        dropped: usize,
    },
}

/// A threshold of a [`Filter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// [`Filter::pos_min`].
    PosMin,
    /// [`Filter::neg_max`].
    NegMax,
    /// [`Filter::coherence_min`].
    CoherenceMin,
}

impl Threshold {
    const ALL: [Self; 3] = [Self::PosMin, Self::NegMax, Self::CoherenceMin];

    /// The name of the filter's field.
    pub fn name(self) -> &'static str {
        match self {
            Self::PosMin => "pos_min",
            Self::NegMax => "neg_max",
            Self::CoherenceMin => "coherence_min",
        }
    }

    fn value(self, filter: &mut Filter) -> &mut f64 {
        match self {
            Self::PosMin => &mut filter.pos_min,
            Self::NegMax => &mut filter.neg_max,
            Self::CoherenceMin => &mut filter.coherence_min,
        }
    }

    /// The filter with another value of this threshold.
    fn set(self, filter: &Filter, value: f64) -> Filter {
        let mut changed = *filter;
        *self.value(&mut changed) = value;
        changed
    }

    /// The value that every score passes.
    fn open(self) -> f64 {
        if self == Self::NegMax { f64::INFINITY } else { f64::NEG_INFINITY }
    }

    /// The score of a rollout that this threshold limits.
    fn score(self, rollout: &Scored) -> Option<f64> {
        match (self, rollout.place.polarity) {
            (Self::PosMin, Polarity::Pos) | (Self::NegMax, Polarity::Neg) => rollout.trait_score,
            (Self::CoherenceMin, _) => rollout.coherence,
            _ => None,
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Threshold { threshold, value, kept_without, needed, sufficient } => {
                let name = threshold.name();
                write!(f, "{name} {value} drops the most: without it {kept_without} would be kept")?;
                let place = match threshold {
                    Threshold::PosMin => "below",
                    Threshold::NegMax => "above",
                    Threshold::CoherenceMin => "at",
                };
                match sufficient {
                    Some(value) => write!(f, "; {place} {value} at least {needed} would be kept"),
                    None => {
                        write!(f, ", which is too few as well: generate more rollouts, or change instructions or model")
                    }
                }
            }
            Self::Rollouts { reason, dropped } => write!(
                f,
                "no single threshold is the cause, and most rollouts are dropped by {:?} ({dropped}): generate more \
                 rollouts, or change instructions, judge or model",
                reason.name()
            ),
        }
    }
}

/// The threshold that drops the most rollouts, and the value at which enough would be kept.
pub(super) fn advise(filter: &Filter, rollouts: &[Scored], kept: &Kept) -> Advice {
    let found = filter.size(kept);
    let needed = filter.min_kept.max(1);
    let without = |threshold: Threshold| filter.size(&threshold.set(filter, threshold.open()).sort(rollouts));
    let [first, others @ ..] = Threshold::ALL.map(|threshold| (threshold, without(threshold)));
    // Of equal counts, the first.
    let best = others.into_iter().fold(first, |best, next| if next.1 > best.1 { next } else { best });
    let (threshold, kept_without) = best;
    if kept_without <= found {
        let dropped = |outcome: Outcome| -> usize {
            [Polarity::Pos, Polarity::Neg].iter().map(|side| kept.table.count(*side, outcome)).sum()
        };
        let reasons = [Outcome::EmptyAnswer, Outcome::Abstained, Outcome::TraitScore, Outcome::Coherence];
        let reason = reasons.into_iter().max_by_key(|reason| dropped(*reason)).unwrap_or(Outcome::Abstained);
        return Advice::Rollouts { reason, dropped: dropped(reason) };
    }
    let value = *threshold.value(&mut filter.clone());
    Advice::Threshold {
        threshold,
        value,
        kept_without,
        needed,
        sufficient: mildest(filter, rollouts, threshold, needed),
    }
}

/// The smallest change of a threshold after which `needed` are kept. Only the scores of rollouts matter.
fn mildest(filter: &Filter, rollouts: &[Scored], threshold: Threshold, needed: usize) -> Option<f64> {
    let scores = rollouts.iter().filter_map(|rollout| threshold.score(rollout));
    let mut scores: Vec<f64> = scores.filter(|score| score.is_finite()).collect();
    scores.sort_by(f64::total_cmp);
    scores.dedup();
    if threshold != Threshold::NegMax {
        scores.reverse();
    }
    // The trait thresholds exclude the value itself, so a value just beyond it is meant.
    let beyond = |score: f64| match threshold {
        Threshold::PosMin => score.next_down(),
        Threshold::NegMax => score.next_up(),
        Threshold::CoherenceMin => score,
    };
    let score = scores.into_iter().find(|&score| {
        let changed = threshold.set(filter, beyond(score));
        filter.size(&changed.sort(rollouts)) >= needed
    })?;
    // Rounded to the side on which enough are kept.
    let tenths = score * 10.0;
    Some(if threshold == Threshold::NegMax { tenths.ceil() / 10.0 } else { tenths.floor() / 10.0 })
}
