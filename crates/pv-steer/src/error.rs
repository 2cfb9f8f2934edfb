//! The errors that interventions, monitoring and sweeps have in common.

use std::path::PathBuf;

mod monitor;
mod steering;
mod sweep;

pub use monitor::MonitorError;
pub use steering::SteeringError;
pub use sweep::SweepError;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] pv_data::FileError),
    /// A run's folder is in use, belongs to another run, or is damaged.
    #[error(transparent)]
    Run(#[from] pv_data::RunError),
    /// A table cannot be written as CSV.
    #[error(transparent)]
    Csv(#[from] pv_data::tables::TableError),
    /// A persona vector cannot do what was requested.
    #[error(transparent)]
    Vector(#[from] pv_vectors::Error),
    /// The judge returned fewer verdicts than requested.
    #[error("{judge} gave {done} of {total} verdicts")]
    MissingVerdicts {
        /// The judge.
        judge: String,
        /// The number of verdicts.
        done: usize,
        /// The number of requested verdicts.
        total: usize,
    },
    /// The callback cancelled the run. Its results so far are kept.
    #[error("cancelled; what was done is kept")]
    Cancelled,
    /// A file with unexpected content.
    #[error("{} is not {what}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// The expected content.
        what: &'static str,
        /// The fault.
        source: FileFault,
    },
    /// An invalid setting.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// An error about the model or its prompts.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// An error about a rubric or a judge.
    #[error(transparent)]
    Judge(#[from] pv_judge::Error),
    /// A hook that does not fit the model.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
    /// An intervention is invalid.
    #[error(transparent)]
    Steering(#[from] SteeringError),
    /// An error of a sweep.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// An error of monitoring.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
}

/// An invalid setting.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// A number that must be at least 1.
    #[error("{name} is 0")]
    Zero {
        /// The name of the setting.
        name: &'static str,
    },
    /// A number outside its range.
    #[error("{name} {value} is not {allowed}")]
    OutOfRange {
        /// The name of the setting.
        name: &'static str,
        /// The given value.
        value: f64,
        /// The allowed range.
        allowed: &'static str,
    },
    /// A duplicate strength.
    #[error("the strength {strength} is given twice")]
    StrengthTwice {
        /// The strength.
        strength: f32,
    },
    /// A trait with the same name as the coherence rubric.
    #[error("the trait and the rubric for coherence are both called {name:?}")]
    SameRubrics {
        /// The name of both.
        name: String,
    },
    /// No prompt.
    #[error("there is no prompt")]
    NoPrompts,
    /// No rubric with a trait's name.
    #[error("there is no rubric for {trait_name}")]
    NoRubric {
        /// The trait.
        trait_name: String,
    },
    /// A threshold of an alarm outside its range.
    #[error("the {name} {value} for {trait_name} is not {allowed}")]
    Threshold {
        /// The trait.
        trait_name: String,
        /// The kind of threshold.
        name: &'static str,
        /// The given value.
        value: f64,
        /// The allowed range.
        allowed: &'static str,
    },
    /// A threshold that needs a calibration.
    #[error("the threshold for {trait_name} is a {name}, which needs a calibration")]
    NeedsCalibration {
        /// The trait.
        trait_name: String,
        /// The kind of threshold.
        name: &'static str,
    },
    /// An invalid slack or limit of a CUSUM.
    #[error("a CUSUM with k = {k} and h = {h}: k must be at least 0, h above it, both finite")]
    Cusum {
        /// The slack.
        k: f64,
        /// The limit.
        h: f64,
    },
    /// An invalid name of positions.
    #[error("unknown positions {text:?}; use response, responsefrom(TOKEN), prompt or all")]
    Positions {
        /// The given text.
        text: String,
    },
}

/// A fault of a file's content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileFault {
    /// It is not valid JSON, or incomplete.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is not valid CSV, or incomplete.
    #[error(transparent)]
    Csv(#[from] csv::Error),
    /// It has another format, or another version of it.
    #[error("its format is {found:?}, not {expected:?}")]
    Format {
        /// The value in the file.
        found: String,
        /// The expected value.
        expected: &'static str,
    },
}

impl From<pv_model::tokenizer::TokenizerError> for Error {
    fn from(error: pv_model::tokenizer::TokenizerError) -> Self {
        Self::Model(error.into())
    }
}
