//! The rollouts that a vector is computed from: those that follow their instruction and are coherent.

use std::collections::BTreeMap;
use std::fmt;

use pv_judge::traits::Polarity;
use serde::{Deserialize, Serialize};

use crate::place::Place;

mod advice;
mod error;
#[cfg(test)]
mod tests;

pub use advice::{Advice, Threshold};
pub use error::FilterError;

/// Whether rollouts are kept individually or in pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterRule {
    /// Rollout `k` of a question under the eliciting instruction of a pair, and rollout `k` under the suppressing one,
    /// are kept if both pass. Both sides then contain the same questions equally often.
    #[default]
    Paired,
    /// Every rollout that passes is kept.
    Unpaired,
}

/// The scores that a rollout needs to be kept (method: paper, section 2.2). All are on the scale of 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// A rollout under an eliciting instruction must have a trait score above this.
    pub pos_min: f64,
    /// A rollout under a suppressing instruction must have a trait score below this.
    pub neg_max: f64,
    /// Every rollout must have at least this coherence score.
    pub coherence_min: f64,
    /// Whether rollouts are kept individually or in pairs.
    pub rule: FilterRule,
    /// The minimum number of pairs, or of rollouts per side if they are kept individually. Fewer are an error.
    pub min_kept: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { pos_min: 50.0, neg_max: 50.0, coherence_min: 50.0, rule: FilterRule::Paired, min_kept: 10 }
    }
}

/// The properties of a rollout that a filter uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Its place in the plan.
    pub place: Place,
    /// Whether its answer has no token, and therefore no activations.
    pub empty: bool,
    /// Its trait score, 0 to 100; `None` if the judge gave no score.
    pub trait_score: Option<f64>,
    /// Its coherence score, 0 to 100; `None` if the judge gave no score.
    pub coherence: Option<f64>,
}

/// Whether a rollout is kept, or why it is dropped. The reasons are checked in this order, and the first that applies
/// is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It is kept.
    Kept,
    /// Its answer has no token.
    EmptyAnswer,
    /// The judge gave no score for the trait or for coherence.
    Abstained,
    /// Its trait score is too low or too high for its side.
    TraitScore,
    /// It is not coherent enough.
    Coherence,
    /// It passes, but the rollout that it is paired with does not, or is missing.
    PartnerDropped,
}

impl Outcome {
    /// All outcomes, in the order in which they are checked.
    pub const ALL: [Self; 6] =
        [Self::Kept, Self::EmptyAnswer, Self::Abstained, Self::TraitScore, Self::Coherence, Self::PartnerDropped];

    fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::EmptyAnswer => "empty answer",
            Self::Abstained => "judge abstained",
            Self::TraitScore => "trait score",
            Self::Coherence => "coherence",
            Self::PartnerDropped => "partner dropped",
        }
    }
}

/// The number of rollouts of each side with each [`Outcome`]. Displays as a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterTable {
    counts: [[usize; 2]; Outcome::ALL.len()],
}

impl FilterTable {
    /// The number of rollouts of a side with an outcome.
    pub fn count(&self, polarity: Polarity, outcome: Outcome) -> usize {
        self.counts[outcome as usize][polarity as usize]
    }

    /// The number of rollouts of a side.
    pub fn total(&self, polarity: Polarity) -> usize {
        self.counts.iter().map(|counts| counts[polarity as usize]).sum()
    }
}

impl fmt::Display for FilterTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<16}{:>8}{:>8}", "", "pos", "neg")?;
        for outcome in Outcome::ALL {
            let [pos, neg] = [Polarity::Pos, Polarity::Neg].map(|side| self.count(side, outcome));
            writeln!(f, "{:<16}{pos:>8}{neg:>8}", outcome.name())?;
        }
        let [pos, neg] = [Polarity::Pos, Polarity::Neg].map(|side| self.total(side));
        writeln!(f, "{:<16}{pos:>8}{neg:>8}", "all")
    }
}

/// The rollouts that a filter kept.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Kept {
    /// The indices of the rollouts under eliciting instructions.
    pub pos: Vec<usize>,
    /// The indices of the rollouts under suppressing instructions. With [`FilterRule::Paired`], `neg[i]` is the partner
    /// of `pos[i]`.
    pub neg: Vec<usize>,
    /// The counts of each outcome.
    pub table: FilterTable,
    /// The filter.
    pub filter: Filter,
}

impl Filter {
    /// Selects the rollouts that pass.
    ///
    /// # Errors
    /// [`FilterError::Threshold`]; [`FilterError::TooFewKept`], whose message says what to change.
    pub fn keep(&self, rollouts: &[Scored]) -> Result<Kept, FilterError> {
        self.check()?;
        let kept = self.sort(rollouts);
        let found = self.size(&kept);
        // A mean needs at least one rollout, whatever was requested.
        if found < self.min_kept.max(1) {
            let advice = advice::advise(self, rollouts, &kept);
            return Err(FilterError::TooFewKept {
                found,
                needed: self.min_kept.max(1),
                unit: self.unit(),
                advice,
                table: Box::new(kept.table),
            });
        }
        Ok(kept)
    }

    /// Refuses thresholds that are not finite.
    pub(crate) fn check(&self) -> Result<(), FilterError> {
        for (name, value) in
            [("pos_min", self.pos_min), ("neg_max", self.neg_max), ("coherence_min", self.coherence_min)]
        {
            if !value.is_finite() {
                return Err(FilterError::Threshold { name, value });
            }
        }
        Ok(())
    }

    /// Determines the outcome of each rollout, however few are kept.
    fn sort(&self, rollouts: &[Scored]) -> Kept {
        let mut outcomes: Vec<Outcome> = rollouts.iter().map(|rollout| self.outcome(rollout)).collect();
        if self.rule == FilterRule::Paired {
            let places: BTreeMap<Place, usize> =
                rollouts.iter().enumerate().map(|(index, rollout)| (rollout.place, index)).collect();
            let alone: Vec<usize> = (0..rollouts.len())
                .filter(|&index| {
                    let partner = places.get(&rollouts[index].place.partner());
                    partner.is_none_or(|&partner| outcomes[partner] != Outcome::Kept)
                })
                .collect();
            for index in alone.into_iter().filter(|&index| outcomes[index] == Outcome::Kept).collect::<Vec<_>>() {
                outcomes[index] = Outcome::PartnerDropped;
            }
        }
        let mut table = FilterTable::default();
        let mut sides = [Vec::new(), Vec::new()];
        for (index, (rollout, outcome)) in rollouts.iter().zip(&outcomes).enumerate() {
            table.counts[*outcome as usize][rollout.place.polarity as usize] += 1;
            if *outcome == Outcome::Kept {
                sides[rollout.place.polarity as usize].push(index);
            }
        }
        // By place, so that partners have equal positions whatever the order of the rollouts.
        sides.iter_mut().for_each(|side| side.sort_by_key(|&index| rollouts[index].place));
        let [pos, neg] = sides;
        Kept { pos, neg, table, filter: *self }
    }

    /// The outcome by a rollout's own scores.
    fn outcome(&self, rollout: &Scored) -> Outcome {
        if rollout.empty {
            return Outcome::EmptyAnswer;
        }
        let (Some(shown), Some(coherence)) = (rollout.trait_score, rollout.coherence) else {
            return Outcome::Abstained;
        };
        let shows = match rollout.place.polarity {
            Polarity::Pos => shown > self.pos_min,
            Polarity::Neg => shown < self.neg_max,
        };
        match (shows, coherence >= self.coherence_min) {
            (false, _) => Outcome::TraitScore,
            (true, false) => Outcome::Coherence,
            (true, true) => Outcome::Kept,
        }
    }

    /// The number that [`Filter::min_kept`] limits.
    fn size(&self, kept: &Kept) -> usize {
        kept.pos.len().min(kept.neg.len())
    }

    fn unit(&self) -> &'static str {
        match self.rule {
            FilterRule::Paired => "pairs",
            FilterRule::Unpaired => "rollouts per side",
        }
    }
}
