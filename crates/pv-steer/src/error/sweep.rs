//! The errors of sweeps.

use pv_hooks::Layer;

/// An error of a sweep, its results or the ranking of layers without a judge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// A sweep without strengths.
    #[error("there is no strength to steer with")]
    NoStrengths,
    /// A sweep without layers.
    #[error("there is no layer to steer at")]
    NoLayers,
    /// A trait without questions to measure on.
    #[error("the trait {trait_name:?} has no evaluation question")]
    NoQuestions {
        /// The trait.
        trait_name: String,
    },
    /// The judge gave no score at all, so nothing can be compared.
    #[error("{judge} gave no score for {rubric:?} to any of {answers} answers")]
    NothingScored {
        /// The judge.
        judge: String,
        /// The rubric.
        rubric: String,
        /// The number of answers to be scored.
        answers: usize,
    },
    /// A layer that a sweep did not steer at.
    #[error("the sweep did not steer at {layer}")]
    NotInSweep {
        /// The requested layer.
        layer: Layer,
    },
    /// A vector other than the swept one.
    #[error("the vector {trait_name:?} is not the vector of the sweep")]
    OtherVector {
        /// The vector's trait.
        trait_name: String,
    },
    /// Strengths in a unit in which one number is not the same relative strength at every layer.
    #[error("layers were not compared at the same relative strength: the unit is {unit}, not residual_norms")]
    NotRelative {
        /// The strengths' unit.
        unit: &'static str,
    },
    /// No layer and strength with coherent answers.
    #[error("no layer and strength reaches a mean coherence of {coherence_min}")]
    NothingCoherent {
        /// The minimum mean coherence, 0 to 100.
        coherence_min: f64,
    },
    /// No answer pairs to compare log-probabilities of.
    #[error("there is no pair of answers")]
    NoPairs,
    /// An answer without tokens has no log-probability.
    #[error("the {side} answer of pair {pair} has no tokens")]
    EmptyAnswer {
        /// The pair's index.
        pair: usize,
        /// `pro` or `contra`.
        side: &'static str,
    },
}
