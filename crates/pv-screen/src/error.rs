//! The errors of this crate.

use std::path::PathBuf;

use pv_hooks::Layer;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] pv_data::FileError),
    /// A run folder is in use, belongs to another run, or is damaged.
    #[error(transparent)]
    Run(#[from] pv_data::RunError),
    /// A setting is invalid.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Columns have different lengths.
    #[error("the columns have different lengths: {prompts} prompts, {answers} answers, {base} base answers")]
    Columns {
        /// The number of prompts.
        prompts: usize,
        /// The number of answers.
        answers: usize,
        /// The number of base answers, including missing ones; an empty column is allowed.
        base: usize,
    },
    /// One of the values by which samples are selected is NaN.
    #[error("the value of sample {sample} is NaN, so that samples cannot be ranked")]
    NotAValue {
        /// The sample's index.
        sample: usize,
    },
    /// A sample cannot be used for an estimate: a value is not finite, or its count is not positive.
    #[error("sample {index} cannot be used for an estimate: a projection is not finite, or its count is not positive")]
    BadSample {
        /// The sample's index.
        index: usize,
    },
    /// The base answers were opened without the activations at a layer.
    #[error("the base answers were opened without the activations at {layer}")]
    NotOpened {
        /// The layer.
        layer: Layer,
    },
    /// The activations and a direction have different widths.
    #[error("a base answer's activations at {layer} have {found} values, expected {expected} as in the direction")]
    OtherWidth {
        /// The layer.
        layer: Layer,
        /// The direction's width.
        expected: usize,
        /// The activations' width.
        found: usize,
    },
    /// An answer without tokens has no projection and no likelihood.
    #[error("the answer has no tokens")]
    EmptyAnswer,
    /// A likelihood belongs to another answer.
    #[error("the likelihood belongs to an answer of {found} tokens, expected {expected}")]
    OtherAnswer {
        /// The number of tokens of the answer.
        expected: usize,
        /// The number of tokens of the likelihood.
        found: usize,
    },
    /// The data set contains an answer that it did not contain when it was first read.
    #[error("the data changed during the screening: the answer {id} is new")]
    DataChanged {
        /// The answer's id.
        id: String,
    },
    /// An answer has no stored projections.
    #[error("the answer {id} has no stored projections")]
    NotProjected {
        /// The answer's id, or its index in the random order.
        id: String,
    },
    /// There are too few values for an estimate.
    #[error("{what} requires at least {needed} values, found {found}")]
    TooFew {
        /// The value to be estimated.
        what: &'static str,
        /// The number of values that are needed.
        needed: usize,
        /// The number of values that were found.
        found: usize,
    },
    /// The model's activations are not finite.
    #[error("the activations of the base answer to prompt {prompt} are not finite")]
    NotFinite {
        /// The prompt's id.
        prompt: String,
    },
    /// A row of a table has other directions than the first row.
    #[error("line {line} of {} has scores on {found:?}, expected those of the first line, {first:?}", path.display())]
    OtherLabels {
        /// The table.
        path: PathBuf,
        /// The row's line, from 1.
        line: u64,
        /// The labels of the first row's directions.
        first: Vec<String>,
        /// The labels of this row's directions.
        found: Vec<String>,
    },
    /// A sample's id is already used for another question or answer.
    #[error("the id {id:?} belongs to two samples with different questions or answers")]
    OtherTexts {
        /// The id.
        id: String,
    },
    /// The callback cancelled a screening or a judging. Completed results are kept.
    #[error("the screening or judging was cancelled")]
    Cancelled,
    /// A statistic has invalid settings or values.
    #[error(transparent)]
    Statistics(#[from] pv_statistics::Error),
    /// An error of a file of conversations.
    #[error(transparent)]
    Conversations(#[from] pv_data::conversations::ConversationError),
    /// An error of a vector, a projection, or a folder that belongs to another run.
    #[error(transparent)]
    Vectors(#[from] pv_vectors::Error),
    /// An error of the model.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// An error of a judge.
    #[error(transparent)]
    Judge(#[from] pv_judge::Error),
    /// An error of a recording hook.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
}

/// An invalid setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// A number is 0, but must be at least 1.
    #[error("{name} is 0, expected at least 1")]
    Zero {
        /// The name of the number.
        name: &'static str,
    },
    /// The control variate has too few folds.
    #[error("the control variate has {folds} folds, expected at least 2")]
    TooFewFolds {
        /// The number of folds.
        folds: usize,
    },
    /// There is no direction to screen on.
    #[error("the screening has no directions")]
    NoDirections,
    /// Two directions have the same label.
    #[error("two directions have the label {label}")]
    DirectionTwice {
        /// Their label.
        label: String,
    },
    /// Two personas have the same label.
    #[error("two personas have the label {label}")]
    PersonaTwice {
        /// Their label.
        label: String,
    },
    /// A stopping rule has neither a width nor a threshold, and would never stop.
    #[error("the stopping rule has neither a width nor a threshold")]
    NoStop,
    /// The initial number of base answers exceeds the maximum.
    #[error("the initial number of base answers is {first}, expected at most {most}")]
    FirstBeyondMost {
        /// The initial number.
        first: usize,
        /// The maximum.
        most: usize,
    },
    /// The number of strata differs from the number of samples.
    #[error("there are {strata} strata for {samples} samples, expected one per sample")]
    Strata {
        /// The number of samples.
        samples: usize,
        /// The number of strata.
        strata: usize,
    },
    /// A threshold is NaN.
    #[error("the threshold is NaN")]
    Threshold,
    /// A table does not have a direction.
    #[error("the table has no direction {label:?}; its directions are {labels:?}")]
    NoSuchDirection {
        /// The requested label.
        label: String,
        /// The labels of the table.
        labels: Vec<String>,
    },
}

impl From<pv_model::tokenizer::TokenizerError> for Error {
    fn from(error: pv_model::tokenizer::TokenizerError) -> Self {
        Self::Model(error.into())
    }
}
