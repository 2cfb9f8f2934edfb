//! The errors of this crate.

use std::path::PathBuf;

use pv_hooks::Layer;

use crate::filter::FilterError;

mod faults;
mod rollouts_file;
mod run_part;

pub use faults::{ActivationsError, ContrastError, ImportError, ItemError, SettingError, TablesError, VectorFileError};
pub use rollouts_file::RolloutsFileError;
pub use run_part::RunPart;

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
    /// A file is not a persona vector's file.
    #[error("{} is not a persona vector's file", path.display())]
    NotAVector {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: VectorFileError,
    },
    /// Another tool's file is damaged, or not of the expected format.
    #[error("cannot import {}", path.display())]
    Import {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: ImportError,
    },
    /// No file to import.
    #[error("no file to import was given")]
    NoFiles,
    /// A pickle requests a function or class that tensors do not need. Nothing of it was executed.
    #[error("{} is refused: its pickle requests {name}, which no tensor needs", path.display())]
    PickleGlobal {
        /// The file.
        path: PathBuf,
        /// The module and name of the function or class.
        name: String,
    },
    /// A pickle uses an instruction that tensors do not need. Nothing of it was executed.
    #[error("{} is refused: its pickle uses the opcode {opcode} at byte {at}, which no tensor needs", path.display())]
    PickleOpcode {
        /// The file.
        path: PathBuf,
        /// The opcode's name, or its value if it has none.
        opcode: String,
        /// Its position in the pickle, in bytes.
        at: usize,
    },
    /// A file in the format of torch before 1.6.
    #[error(
        "{} is in torch's old format, which is not a zip archive; save it again in Python: torch.save(torch.load(path, map_location=\"cpu\", weights_only=True), path)",
        path.display()
    )]
    OldTorchFile {
        /// The file.
        path: PathBuf,
    },
    /// A file whose content fits several formats.
    #[error(
        "{} contains a tensor of shape {shape:?}, and its name does not state what that is; give its format: {candidates}",
        path.display()
    )]
    AmbiguousFormat {
        /// The file.
        path: PathBuf,
        /// The shape of its tensor.
        shape: Vec<usize>,
        /// The formats that fit.
        candidates: &'static str,
    },
    /// A layer that a control vector's file cannot represent.
    #[error("a control vector's file cannot contain {layer}: its first direction acts after block 1, at layer 2")]
    ControlVectorLayer {
        /// The layer to be written.
        layer: Layer,
    },
    /// No row of a vector can be written to a control vector's file.
    #[error(
        "the vector {trait_name:?} has no row that can steer from layer 2 on, so that the control vector would be empty"
    )]
    NothingToExport {
        /// The vector's trait.
        trait_name: String,
    },
    /// A vector belongs to another model.
    #[error(
        "the vector {trait_name:?} does not fit this model: its {what} is {vector}, but that of the model is {model}"
    )]
    ModelMismatch {
        /// The vector's trait.
        trait_name: String,
        /// What differs.
        what: &'static str,
        /// The vector's value.
        vector: String,
        /// The model's value.
        model: String,
    },
    /// A vector has no such layer.
    #[error("the vector {trait_name:?} has no {layer}; its last is layer {last}")]
    NoSuchLayer {
        /// The vector's trait.
        trait_name: String,
        /// The requested layer.
        layer: Layer,
        /// The last layer's index.
        last: usize,
    },
    /// The layer at which a vector steers best is unknown.
    #[error("the best layer of the vector {trait_name:?} is not known; determine it with a sweep, or give a layer")]
    NoBestLayer {
        /// The vector's trait.
        trait_name: String,
    },
    /// The file that a vector was imported from has no row for a layer.
    #[error("the vector {trait_name:?} has no row for {layer}: the file that it was imported from contains none")]
    AbsentLayer {
        /// The vector's trait.
        trait_name: String,
        /// The requested layer.
        layer: Layer,
    },
    /// A row that is not a difference of residuals.
    #[error(
        "the vector {trait_name:?} cannot steer at {layer}: its row there was taken after the final norm, but steering acts before it"
    )]
    AfterFinalNorm {
        /// The vector's trait.
        trait_name: String,
        /// The requested layer.
        layer: Layer,
    },
    /// A vector lacks a pooling.
    #[error("the vector {trait_name:?} has no values for the pooling {pooling}")]
    NoSuchPooling {
        /// The vector's trait.
        trait_name: String,
        /// The requested pooling.
        pooling: &'static str,
    },
    /// A contrast without instruction pairs, without questions, or with empty texts.
    #[error(transparent)]
    BadContrast(#[from] ContrastError),
    /// Tables that do not form a vector.
    #[error(transparent)]
    BadTables(#[from] TablesError),
    /// One side of a contrast has no answer to average over.
    #[error("all {answers} answers under the {side} instructions are empty, so there is nothing to average over")]
    NoAnswers {
        /// `eliciting` or `suppressing`.
        side: &'static str,
        /// The number of answers.
        answers: usize,
    },
    /// A direction with length zero or with values that are not finite.
    #[error("the vector {trait_name:?} has no direction at {layer}: its row is zero or not finite")]
    Degenerate {
        /// The vector's trait.
        trait_name: String,
        /// The layer.
        layer: Layer,
    },
    /// Two directions, vectors or sets of activations that cannot be combined.
    #[error("cannot combine {left} and {right}: they differ in {what}")]
    Unlike {
        /// What differs.
        what: &'static str,
        /// The value of the first.
        left: String,
        /// The value of the second.
        right: String,
    },
    /// A result that has no direction.
    #[error("{operation} leaves no direction at {layer}: the result is zero or not finite")]
    NoDirection {
        /// The computation.
        operation: &'static str,
        /// The layer.
        layer: Layer,
    },
    /// Activations that are not a table of finite values, or without a question for every row.
    #[error(transparent)]
    BadActivations(#[from] ActivationsError),
    /// Too few questions (or rollouts, if the questions are unknown) to split.
    #[error("{what} divides the questions or rollouts into parts, each of which needs both sides; {found} are too few")]
    TooFewUnits {
        /// The computation.
        what: &'static str,
        /// The number of questions or rollouts.
        found: usize,
    },
    /// An invalid setting.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// An iteration that did not converge.
    #[error("{what} did not converge in {iterations} iterations")]
    NotConverged {
        /// The problem to be solved.
        what: &'static str,
        /// The number of iterations.
        iterations: usize,
    },
    /// An invalid text.
    #[error("cannot read item {item}")]
    BadItem {
        /// The index of the item.
        item: usize,
        /// The fault.
        source: ItemError,
    },
    /// A filter has an invalid threshold, or keeps too few rollouts.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Several judges have scored the rollouts by a rubric, and none was selected.
    #[error("{} judges have scored by {rubric:?}: {}; select one", judges.len(), judges.join(", "))]
    SeveralJudges {
        /// The rubric's name.
        rubric: String,
        /// The judges.
        judges: Vec<String>,
    },
    /// The selected judge has scored nothing.
    #[error("{} contains no verdicts of {judge:?}", path.display())]
    NoSuchJudge {
        /// The judge.
        judge: String,
        /// The run's folder.
        path: PathBuf,
    },
    /// An operation needs a run that has come further.
    #[error("the run in {} has {done} of {total} {part}", path.display())]
    IncompleteRun {
        /// The folder.
        path: PathBuf,
        /// The incomplete part.
        part: RunPart,
        /// The number so far.
        done: usize,
        /// The number in all.
        total: usize,
    },
    /// A file of another tool does not contain valid rollouts.
    #[error("cannot read rollouts from {}{}", path.display(), line.map_or_else(String::new, |l| format!(", line {l}")))]
    BadRollouts {
        /// The file.
        path: PathBuf,
        /// The line at which the record begins (in Parquet, the row), if the fault is in one record.
        line: Option<u64>,
        /// The fault.
        source: RolloutsFileError,
    },
    /// A table cannot be opened or is damaged.
    #[error(transparent)]
    Table(pv_data::conversations::ConversationError),
    /// A statistic has invalid options or values.
    #[error(transparent)]
    Statistics(#[from] pv_statistics::Error),
    /// The callback cancelled the run.
    #[error("the extraction was cancelled")]
    Cancelled,
    /// An error about the model, its files or its prompts.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// An error about a trait, a rubric or a judge.
    #[error(transparent)]
    Judge(#[from] pv_judge::Error),
    /// An error about a recording.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
}

impl From<pv_model::tokenizer::TokenizerError> for Error {
    fn from(error: pv_model::tokenizer::TokenizerError) -> Self {
        Self::Model(error.into())
    }
}

impl From<pv_model::chat::TemplateError> for Error {
    fn from(error: pv_model::chat::TemplateError) -> Self {
        Self::Model(error.into())
    }
}
