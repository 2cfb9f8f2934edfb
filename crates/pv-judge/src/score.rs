//! What a judge says of an answer.

use serde::{Deserialize, Serialize};

/// A score, or the statement that there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// A score.
    Scored(Score),
    /// The judge gave no score. That is not the score 0, and enters no mean.
    Abstained(Abstention),
}

impl Verdict {
    /// The score's value, 0 to 100.
    pub fn value(&self) -> Option<f64> {
        match self {
            Self::Scored(score) => Some(score.value),
            Self::Abstained(_) => None,
        }
    }
}

/// How much an answer has of what the rubric asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// 0 to 100.
    pub value: f64,
    /// What it rests on.
    #[serde(flatten)]
    pub evidence: Evidence,
}

/// What a score rests on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "evidence")]
pub enum Evidence {
    /// The expectation over the judge's distribution, `Σ k·p(k) / Σ p(k)` over the numbers `k` in `0..=100`.
    Distribution {
        /// `Σ p(k)`: the probability that the judge gives a number.
        mass: f64,
    },
    /// One number that the judge wrote; its server gives no probabilities.
    Sampled,
    /// A rule that knows the truth.
    Exact,
}

/// Why there is no score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Abstention {
    /// The numbers in `0..=100` had less than a quarter of the probability.
    NoMass {
        /// Their probability.
        mass: f64,
        /// That of `REFUSAL`, where it is known.
        refusal: Option<f64>,
    },
    /// The judge wrote something that is not a number in `0..=100`.
    NotANumber {
        /// What it wrote, shortened.
        text: String,
    },
}
