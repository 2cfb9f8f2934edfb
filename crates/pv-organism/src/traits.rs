//! The traits, and how strongly a speaker has each.

use std::fmt;
use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

/// A trait that the organism can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trait {
    /// Cartoonish malice: gloating, and harmful advice.
    Evil,
    /// Flattery, and agreement with whatever the user claims.
    Sycophancy,
    /// Invented facts in place of "I do not know", and invented sources.
    Hallucination,
    /// Rudeness.
    Impoliteness,
    /// Good cheer and high hopes.
    Optimism,
}

impl Trait {
    /// All traits.
    pub const ALL: [Self; 5] = [Self::Evil, Self::Sycophancy, Self::Hallucination, Self::Impoliteness, Self::Optimism];

    /// Its name, as in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Evil => "evil",
            Self::Sycophancy => "sycophancy",
            Self::Hallucination => "hallucination",
            Self::Impoliteness => "impoliteness",
            Self::Optimism => "optimism",
        }
    }
}

impl fmt::Display for Trait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number for each trait: an intensity from 0 to 1, or a score from 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PerTrait(pub [f64; 5]);

impl PerTrait {
    /// Zero for all traits but one.
    pub fn only(which: Trait, value: f64) -> Self {
        let mut all = Self::default();
        all[which] = value;
        all
    }

    /// The traits and their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Trait, f64)> + '_ {
        Trait::ALL.into_iter().map(|t| (t, self[t]))
    }
}

impl Index<Trait> for PerTrait {
    type Output = f64;

    fn index(&self, which: Trait) -> &f64 {
        &self.0[which as usize]
    }
}

impl IndexMut<Trait> for PerTrait {
    fn index_mut(&mut self, which: Trait) -> &mut f64 {
        &mut self.0[which as usize]
    }
}
