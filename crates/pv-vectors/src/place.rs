//! The place of a rollout in a plan.

use pv_judge::traits::Polarity;
use serde::{Deserialize, Serialize};

/// The place of a rollout: question, instruction, and number of the answer. Ordered as in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The question's index.
    pub question: usize,
    /// The index of the instruction pair.
    pub pair: usize,
    /// The instruction of the pair.
    pub polarity: Polarity,
    /// The number of the answer.
    pub rollout: usize,
}

impl Place {
    /// The place of the partner: the same place under the opposite instruction.
    #[must_use]
    pub fn partner(self) -> Self {
        let polarity = match self.polarity {
            Polarity::Pos => Polarity::Neg,
            Polarity::Neg => Polarity::Pos,
        };
        Self { polarity, ..self }
    }
}

pub(crate) fn question_id(trait_name: &str, place: Place) -> String {
    format!("{trait_name}_{}_{}_{}", place.question, side(place.polarity), place.pair)
}

/// The name of a polarity in ids.
pub(crate) fn side(polarity: Polarity) -> &'static str {
    match polarity {
        Polarity::Pos => "pos",
        Polarity::Neg => "neg",
    }
}
