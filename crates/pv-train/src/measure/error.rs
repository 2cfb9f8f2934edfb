//! The errors of measurements.

use std::path::PathBuf;

use pv_data::conversations::RowProblem;

/// The result of fallible measurement functions.
pub(crate) type Result<T, E = MeasureError> = std::result::Result<T, E>;

/// Every error of measurements before and after finetuning.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] pv_data::FileError),
    /// A run folder is in use, belongs to another run, or is damaged.
    #[error(transparent)]
    Run(#[from] pv_data::RunError),
    /// A table cannot be written as CSV.
    #[error(transparent)]
    Csv(#[from] pv_data::tables::TableError),
    /// A setting is invalid.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Two measurements cannot be compared, because they differ in more than the compared value.
    #[error("the measurements cannot be compared: the {what} of the first is {left}, that of the second {right}")]
    Mismatch {
        /// The value that differs.
        what: String,
        /// Its value in the first.
        left: String,
        /// Its value in the second.
        right: String,
    },
    /// The judge returned fewer verdicts than requested.
    #[error("the judge {judge} returned {done} of {total} verdicts")]
    MissingVerdicts {
        /// The judge.
        judge: String,
        /// The number of verdicts that were returned.
        done: usize,
        /// The number of verdicts that were requested.
        total: usize,
    },
    /// A file does not contain valid multiple-choice questions.
    #[error("{}{} contains no valid multiple-choice questions", path.display(), line.map_or_else(String::new, |l| format!(", line {l},")))]
    BadQuestions {
        /// The file or folder.
        path: PathBuf,
        /// The line of the record's beginning, if the error is about a record.
        line: Option<u64>,
        /// The reason.
        source: QuestionError,
    },
    /// A question cannot be used with the model.
    #[error("question {index}, of the subject {subject:?}, cannot be used")]
    BadQuestion {
        /// The question's subject.
        subject: String,
        /// The question's index among all test questions.
        index: usize,
        /// The reason.
        source: QuestionError,
    },
    /// A question has an invalid form.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// A file does not contain a measurement of the expected kind.
    #[error("{} cannot be read as a measurement of this kind", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The error of the parser, with the position.
        source: serde_json::Error,
    },
    /// The callback cancelled the measurement. Completed results are kept.
    #[error("the measurement was cancelled")]
    Cancelled,
    /// A statistic has invalid settings or values.
    #[error(transparent)]
    Statistics(#[from] pv_statistics::Error),
    /// An error of the samples or their loss.
    #[error(transparent)]
    Train(Box<crate::Error>),
    /// An error of a vector, a projection, or a run folder.
    #[error(transparent)]
    Vectors(#[from] pv_vectors::Error),
    /// An error of the model or its prompts.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// An error of a rubric or a judge.
    #[error(transparent)]
    Judge(#[from] pv_judge::Error),
    /// A hook does not fit.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
}

/// An invalid setting of a measurement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// A number is 0, but must be at least 1.
    #[error("{name} is 0, expected at least 1")]
    Zero {
        /// The name of the number.
        name: &'static str,
    },
    /// A hook is given, but no description of it.
    #[error("the intervention's hook has no description")]
    HookWithoutDescription,
    /// A hook is described, but none is given.
    #[error("the intervention is described as {description:?}, but there is no hook")]
    DescriptionWithoutHook {
        /// The description.
        description: String,
    },
    /// There is no trait to evaluate.
    #[error("there is no trait to evaluate")]
    NoTraits,
    /// A trait has no evaluation questions.
    #[error("the trait {trait_name:?} has no evaluation questions")]
    NoQuestions {
        /// The trait's name.
        trait_name: String,
    },
    /// A trait is given twice.
    #[error("the trait {trait_name:?} is given twice")]
    TraitTwice {
        /// The trait's name.
        trait_name: String,
    },
    /// A trait has the name of the rubric for coherence.
    #[error("a trait has the name {trait_name:?} of the rubric for coherence")]
    NameOfCoherence {
        /// The trait's name.
        trait_name: String,
    },
    /// There are no evaluations to compare.
    #[error("there are no evaluations to compare")]
    NoEvaluations,
    /// Two evaluations have the same name.
    #[error("two evaluations are named {name:?}")]
    NameTwice {
        /// Their name.
        name: String,
    },
    /// There are no prompts to project.
    #[error("there are no prompts to project")]
    NoPrompts,
    /// The stride of windows is 0 or not less than their length.
    #[error("the stride is {stride}, expected at least 1 and less than the window of {window} tokens")]
    Stride {
        /// The stride in tokens.
        stride: usize,
        /// The length of a window in tokens.
        window: usize,
    },
    /// A window has more tokens than the model has positions.
    #[error("the window has {window} tokens, but the model has {positions} positions")]
    WindowTooLong {
        /// The length of a window in tokens.
        window: usize,
        /// The model's number of positions.
        positions: usize,
    },
    /// A text has no token to predict.
    #[error("the text has {tokens} tokens, expected at least 2")]
    TextTooShort {
        /// The number of tokens.
        tokens: usize,
    },
    /// There are no test questions.
    #[error("there are no test questions")]
    NoTestQuestions,
    /// A subject has too few questions that can serve as examples.
    #[error("the subject {subject:?} has {found} dev questions, but {requested} examples were requested")]
    TooFewExamples {
        /// The subject.
        subject: String,
        /// Its number of dev questions.
        found: usize,
        /// The requested number of examples.
        requested: usize,
    },
}

/// Why a multiple-choice question, or a file of them, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuestionError {
    /// A folder has no files with test questions.
    #[error("there is no SUBJECT_test.csv or test-*.parquet with questions")]
    NoTestFiles,
    /// A row has too few columns.
    #[error("the row has {found} columns, expected a question, four choices and an answer")]
    Columns {
        /// The number of columns.
        found: usize,
    },
    /// A question does not have four choices.
    #[error("the question has {found} choices, expected 4")]
    Choices {
        /// The number of choices.
        found: usize,
    },
    /// The answer is not the letter of a choice.
    #[error("the answer is {found:?}, expected A, B, C or D")]
    Letter {
        /// The answer in the file.
        found: String,
    },
    /// The answer is not the index of a choice.
    #[error("the answer is {found}, expected 0 to 3")]
    Index {
        /// The answer.
        found: i64,
    },
    /// The question is too long for the model, even without examples.
    #[error("the question has {tokens} tokens, but the model has {positions} positions")]
    TooLong {
        /// The number of tokens of the prompt with its longest choice.
        tokens: usize,
        /// The model's number of positions.
        positions: usize,
    },
    /// The tokenizer encodes two choices identically.
    #[error("the tokenizer encodes two choices identically")]
    SameTokens,
    /// A row of a CSV file is invalid.
    #[error(transparent)]
    Csv(#[from] csv::Error),
    /// A table cannot be read.
    #[error(transparent)]
    Table(Box<pv_data::conversations::ConversationError>),
    /// A row of a table does not have the expected columns.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A row of a table has a value that cannot be read.
    #[error(transparent)]
    Row(Box<RowProblem>),
}

impl From<crate::Error> for MeasureError {
    fn from(error: crate::Error) -> Self {
        Self::Train(Box::new(error))
    }
}

impl MeasureError {
    /// Refuses two values of `what` that differ.
    pub(crate) fn unless_same<T: PartialEq + std::fmt::Display>(what: &str, left: &T, right: &T) -> Result<()> {
        if left == right {
            return Ok(());
        }
        Err(Self::Mismatch { what: what.to_owned(), left: left.to_string(), right: right.to_string() })
    }
}

impl From<pv_model::tokenizer::TokenizerError> for MeasureError {
    fn from(error: pv_model::tokenizer::TokenizerError) -> Self {
        Self::Model(error.into())
    }
}
