//! What can go wrong while data is screened.

use std::path::PathBuf;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] pv_data::FileError),
    /// A run's folder: in use, of another run, or damaged.
    #[error(transparent)]
    Run(#[from] pv_data::RunError),
    /// A setting that makes no sense.
    #[error("bad setting: {reason}")]
    BadSetting {
        /// What is wrong.
        reason: String,
    },
    /// Too few values for what was to be estimated.
    #[error("{what} needs at least {needed} values, there are {found}")]
    TooFew {
        /// What was to be calculated.
        what: &'static str,
        /// How many it takes.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// A model whose activations are not numbers.
    #[error("the activations of the base answer to prompt {prompt} are not finite")]
    NotFinite {
        /// The prompt's id.
        prompt: String,
    },
    /// A row of a table with other directions than the first.
    #[error("line {line} of {} has scores on {found:?}, the first on {first:?}", path.display())]
    OtherLabels {
        /// The table.
        path: PathBuf,
        /// The row's line, from 1.
        line: u64,
        /// The labels of the first row's directions.
        first: Vec<String>,
        /// This row's.
        found: Vec<String>,
    },
    /// A sample's id under which another question or answer is judged.
    #[error("the id {id:?} is that of two samples: the question or the answer is another")]
    OtherTexts {
        /// The id.
        id: String,
    },
    /// The callback broke a screening or a judging off. What was done is kept.
    #[error("the screening or judging was cancelled")]
    Cancelled,
    /// Conversations.
    #[error(transparent)]
    Conversations(#[from] pv_data::ConversationError),
    /// A vector, a projection, or a folder that belongs to another run.
    #[error(transparent)]
    Vectors(#[from] pv_vectors::Error),
    /// The model.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// A judge.
    #[error(transparent)]
    Judge(#[from] pv_judge::Error),
    /// A recording.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
}

impl Error {
    pub(crate) fn bad(reason: impl Into<String>) -> Self {
        Self::BadSetting { reason: reason.into() }
    }
}
