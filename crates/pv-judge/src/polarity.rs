//! The polarity of an instruction.

use serde::{Deserialize, Serialize};

/// Whether a rollout's system prompt elicits the trait or suppresses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Polarity {
    /// Elicits it.
    Pos,
    /// Suppresses it.
    Neg,
}

impl Polarity {
    /// The key of the instruction in a trait's file.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Pos => "`pos`",
            Self::Neg => "`neg`",
        }
    }
}
