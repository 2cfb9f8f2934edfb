//! What can go wrong while a model is measured.

use std::path::PathBuf;

/// The result of measurements.
pub(crate) type Result<T, E = MeasureError> = std::result::Result<T, E>;

/// Every error of measurements before and after finetuning.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
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
    /// Two measurements that are not of the same thing cannot be compared.
    #[error("the measurements do not go together: the {what} of one is {left}, of the other {right}")]
    Mismatch {
        /// What differs.
        what: String,
        /// Its value in the first.
        left: String,
        /// Its value in the second.
        right: String,
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
    /// A file that does not hold multiple-choice questions.
    #[error("{}{} cannot be read as questions: {reason}", path.display(), line.map_or_else(String::new, |l| format!(", line {l},")))]
    BadQuestions {
        /// The file or folder.
        path: PathBuf,
        /// The line at which the record begins, where it is about one.
        line: Option<u64>,
        /// What is wrong.
        reason: String,
    },
    /// A question that cannot be put to the model.
    #[error("question {index} of {subject:?}: {reason}")]
    BadQuestion {
        /// Its subject.
        subject: String,
        /// Its index among all test questions.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A file does not hold a measurement.
    #[error("{} is no measurement of this kind", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// The callback broke the measurement off. What was done is kept.
    #[error("the measurement was cancelled")]
    Cancelled,
    /// Samples, or their loss.
    #[error(transparent)]
    Train(Box<crate::Error>),
    /// A vector, a projection, or a run's folder.
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

impl From<crate::Error> for MeasureError {
    fn from(error: crate::Error) -> Self {
        Self::Train(Box::new(error))
    }
}

impl MeasureError {
    pub(crate) fn bad(reason: impl Into<String>) -> Self {
        Self::BadSetting { reason: reason.into() }
    }

    /// Unless both are equal.
    pub(crate) fn unless_same<T: PartialEq + std::fmt::Display>(what: &str, left: &T, right: &T) -> Result<()> {
        if left == right {
            return Ok(());
        }
        Err(Self::Mismatch { what: what.to_owned(), left: left.to_string(), right: right.to_string() })
    }
}
