//! Which rollouts a vector is made of: those that show what they were asked to show, and hold together.

use std::collections::BTreeMap;
use std::fmt;

use pv_judge::Polarity;
use serde::{Deserialize, Serialize};

use crate::{Error, Place, Result};

mod advice;
#[cfg(test)]
mod tests;

/// Whether rollouts are kept one by one or in pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterRule {
    /// Rollout `k` of a question under the eliciting instruction of a pair, and rollout `k` under the suppressing one, are
    /// kept when both pass. Both sides then hold the same questions equally often.
    #[default]
    Paired,
    /// Every rollout that passes is kept.
    Unpaired,
}

/// What a rollout must score to be kept (method: paper, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// A rollout under an eliciting instruction must show the trait more than this.
    pub pos_min: f64,
    /// A rollout under a suppressing instruction must show it less than this.
    pub neg_max: f64,
    /// All must be at least this coherent.
    pub coherence_min: f64,
    /// One by one or in pairs.
    pub rule: FilterRule,
    /// Fewer pairs (or rollouts of a side, when kept one by one) are an error.
    pub min_kept: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { pos_min: 50.0, neg_max: 50.0, coherence_min: 50.0, rule: FilterRule::Paired, min_kept: 10 }
    }
}

/// What a filter sees of a rollout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Its place in the plan.
    pub place: Place,
    /// Whether its answer has no token, and therefore no activations.
    pub empty: bool,
    /// How much it shows the trait, 0 to 100; `None` when the judge gave no score.
    pub trait_score: Option<f64>,
    /// How coherent it is, 0 to 100; `None` when the judge gave no score.
    pub coherence: Option<f64>,
}

/// Whether a rollout is kept, or why not. The reasons are asked in this order, and the first that holds is the one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It is kept.
    Kept,
    /// Its answer has no token.
    EmptyAnswer,
    /// The judge gave no score for the trait or for coherence.
    Abstained,
    /// It shows the trait too little, or too much.
    TraitScore,
    /// It is not coherent enough.
    Coherence,
    /// It would have passed, but the rollout that it is paired with did not, or is missing.
    PartnerDropped,
}

impl Outcome {
    /// All of them, in the order in which they are asked.
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

/// How many rollouts of each side met which [`Outcome`]. Prints as a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterTable {
    counts: [[usize; 2]; Outcome::ALL.len()],
}

impl FilterTable {
    /// How many rollouts of a side met an outcome.
    pub fn count(&self, polarity: Polarity, outcome: Outcome) -> usize {
        self.counts[outcome as usize][polarity as usize]
    }

    /// How many rollouts a side had.
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
pub struct Kept {
    /// The indices of those under eliciting instructions.
    pub pos: Vec<usize>,
    /// The indices of those under suppressing instructions; with [`FilterRule::Paired`], `neg[i]` is the partner of `pos[i]`.
    pub neg: Vec<usize>,
    /// The counts of each outcome.
    pub table: FilterTable,
    /// The filter.
    pub filter: Filter,
}

impl Filter {
    /// Says which of the rollouts are kept.
    ///
    /// # Errors
    /// [`Error::BadSetting`] for thresholds that are not numbers; [`Error::TooFewKept`], which says what to change.
    pub fn keep(&self, rollouts: &[Scored]) -> Result<Kept> {
        self.check()?;
        let kept = self.sort(rollouts);
        let found = self.size(&kept);
        // A mean over nothing is no mean, whatever was asked for.
        if found < self.min_kept.max(1) {
            let advice = advice::advise(self, rollouts, &kept);
            return Err(Error::TooFewKept {
                found,
                needed: self.min_kept.max(1),
                what: self.unit(),
                advice,
                table: Box::new(kept.table),
            });
        }
        Ok(kept)
    }

    /// Objects to thresholds that are not numbers.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, value) in
            [("pos_min", self.pos_min), ("neg_max", self.neg_max), ("coherence_min", self.coherence_min)]
        {
            if !value.is_finite() {
                return Err(Error::BadSetting { reason: format!("the filter's {name} is {value}") });
            }
        }
        Ok(())
    }

    /// Sorts rollouts into outcomes, however few are kept.
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
        // By place, so that partners stand side by side in whatever order the rollouts came.
        sides.iter_mut().for_each(|side| side.sort_by_key(|&index| rollouts[index].place));
        let [pos, neg] = sides;
        Kept { pos, neg, table, filter: *self }
    }

    /// What a rollout's own scores say.
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

    /// What [`Filter::min_kept`] counts.
    fn size(&self, kept: &Kept) -> usize {
        kept.pos.len().min(kept.neg.len())
    }

    fn unit(&self) -> &'static str {
        match self.rule {
            FilterRule::Paired => "pairs",
            FilterRule::Unpaired => "rollouts of a side",
        }
    }
}
