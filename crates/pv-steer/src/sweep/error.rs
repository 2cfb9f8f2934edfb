//! What can go wrong with a sweep.

use std::path::PathBuf;

use pv_hooks::Layer;

/// The result of a sweep's fallible functions.
pub(crate) type Result<T, E = SweepError> = std::result::Result<T, E>;

/// Every error of sweeps and of what is made of them.
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
    /// A setting that makes no sense.
    #[error("bad setting: {reason}")]
    BadSetting {
        /// What is wrong.
        reason: String,
    },
    /// The judge gave no score at all, so that nothing can be compared.
    #[error("{judge} gave no score for {rubric:?} to any of {answers} answers")]
    NothingScored {
        /// The judge.
        judge: String,
        /// The rubric.
        rubric: String,
        /// How many answers it was asked about.
        answers: usize,
    },
    /// The judge returned fewer verdicts than it was asked for.
    #[error("{judge} gave {done} of {total} verdicts")]
    MissingVerdicts {
        /// The judge.
        judge: String,
        /// How many there are.
        done: usize,
        /// How many there must be.
        total: usize,
    },
    /// A layer that a sweep did not steer at.
    #[error("the sweep did not steer at {layer}")]
    NotInSweep {
        /// What was asked for.
        layer: Layer,
    },
    /// Nothing to compare log-probabilities of.
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
    /// A file could not be written. Whatever stood there before is unchanged.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The callback broke the run off. What was done is kept.
    #[error("the sweep was cancelled")]
    Cancelled,
    /// An intervention.
    #[error(transparent)]
    Steer(#[from] crate::Error),
    /// A vector, or a run's folder.
    #[error(transparent)]
    Vectors(#[from] pv_vectors::Error),
    /// The model, or its prompts.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// A rubric or a judge.
    #[error(transparent)]
    Judge(#[from] pv_judge::Error),
    /// A hook that does not fit.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
}
