//! What can go wrong between prompts and a vector in a file.

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
    /// A run's folder: in use, of another run, or damaged.
    #[error(transparent)]
    Run(#[from] pv_data::RunError),
    /// A file is not a persona vector's.
    #[error("{} is not a persona vector's file: {reason}", path.display())]
    NotAVector {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another tool's file is damaged, or is not what it was taken for.
    #[error("cannot import {}: {reason}", path.display())]
    Import {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A pickle asks for a function or class that tensors do not need. Nothing of it was run.
    #[error("{} is refused: its pickle asks for {name}, which no tensor needs", path.display())]
    PickleGlobal {
        /// The file.
        path: PathBuf,
        /// The module and name that the pickle asks for.
        name: String,
    },
    /// A pickle uses an instruction that tensors do not need. Nothing of it was run.
    #[error("{} is refused: its pickle uses the opcode {opcode} at byte {at}, which no tensor needs", path.display())]
    PickleOpcode {
        /// The file.
        path: PathBuf,
        /// The opcode's name, or its value where it has none.
        opcode: String,
        /// Where it stands in the pickle.
        at: usize,
    },
    /// A file in the format of torch before 1.6.
    #[error(
        "{} is in torch's old format, which is not a zip archive; re-save it in Python:          torch.save(torch.load(path, map_location=\"cpu\", weights_only=True), path)",
        path.display()
    )]
    OldTorchFile {
        /// The file.
        path: PathBuf,
    },
    /// A file that may be of several formats.
    #[error("{} {what}; say which format it is: {candidates}", path.display())]
    AmbiguousFormat {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        what: String,
        /// The formats that it may be.
        candidates: &'static str,
    },
    /// A layer that a control vector's file cannot hold.
    #[error("a control vector's file cannot hold {layer}: its first direction acts after block 1, at layer 2")]
    ControlVectorLayer {
        /// What was to be written.
        layer: Layer,
    },
    /// None of a vector's rows has a place in a control vector's file.
    #[error("the vector {trait_name:?} has no row from layer 2 up that steers, so a control vector would hold nothing")]
    NothingToExport {
        /// The vector's trait.
        trait_name: String,
    },
    /// A vector belongs to another model.
    #[error("the vector {trait_name:?} does not fit this model: its {what} is {vector}, the model's is {model}")]
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
        /// What was asked for.
        layer: Layer,
        /// The last layer's index.
        last: usize,
    },
    /// The file that a vector was imported from holds no row for a layer.
    #[error("the vector {trait_name:?} has no row for {layer}: the file that it was imported from holds none")]
    AbsentLayer {
        /// The vector's trait.
        trait_name: String,
        /// What was asked for.
        layer: Layer,
    },
    /// A row that is not a difference of residuals.
    #[error(
        "the vector {trait_name:?} cannot steer at {layer}: its row there was taken after the final norm, steering acts before it"
    )]
    AfterFinalNorm {
        /// The vector's trait.
        trait_name: String,
        /// What was asked for.
        layer: Layer,
    },
    /// A vector was not pooled in this way.
    #[error("the vector {trait_name:?} was not kept for {pooling}")]
    NoSuchPooling {
        /// The vector's trait.
        trait_name: String,
        /// What was asked for.
        pooling: &'static str,
    },
    /// A contrast without pairs, without questions, or with texts that are empty.
    #[error("the contrast is incomplete: {reason}")]
    BadContrast {
        /// What is missing.
        reason: String,
    },
    /// One side of a contrast was left without an answer to average over.
    #[error("all {answers} answers under the {side} instructions are empty, so there is nothing to average over")]
    NoAnswers {
        /// `eliciting` or `suppressing`.
        side: &'static str,
        /// How many answers there were.
        answers: usize,
    },
    /// A direction without length or with values that are not numbers.
    #[error("the vector {trait_name:?} is zero or not finite at {layer}")]
    Degenerate {
        /// The vector's trait.
        trait_name: String,
        /// Where.
        layer: Layer,
    },
    /// Two directions, vectors or sets of activations that do not go together.
    #[error("{left} and {right} do not go together: they differ in {what}")]
    Unlike {
        /// What differs.
        what: &'static str,
        /// The first one's value.
        left: String,
        /// The second one's value.
        right: String,
    },
    /// A calculation that leaves nothing to point along.
    #[error("{operation} leaves no direction at {layer}: the result is zero or not finite")]
    NoDirection {
        /// What was calculated.
        operation: &'static str,
        /// Where.
        layer: Layer,
    },
    /// Activations that are no table of finite numbers, or whose questions are not given for every row.
    #[error("bad activations: {reason}")]
    BadActivations {
        /// What is wrong with them.
        reason: String,
    },
    /// Too few questions (or rollouts, where no questions are known) to divide.
    #[error(
        "{what} needs both sides in every part that it divides the rollouts into, but there are {found} units only"
    )]
    TooFewUnits {
        /// What was to be calculated.
        what: &'static str,
        /// How many questions or rollouts there are.
        found: usize,
    },
    /// A setting that makes no sense.
    #[error("bad setting: {reason}")]
    BadSetting {
        /// What is wrong.
        reason: String,
    },
    /// An iteration that ended without a solution.
    #[error("{what} did not converge in {iterations} iterations")]
    NotConverged {
        /// What was being solved.
        what: &'static str,
        /// How many iterations were tried.
        iterations: usize,
    },
    /// A text that cannot be read.
    #[error("item {item} cannot be read: {reason}")]
    BadItem {
        /// Which of the items.
        item: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A filter kept too few rollouts to average over. `table` counts the reasons.
    #[error("the filter keeps {found} {what} where {needed} are needed; {advice}")]
    TooFewKept {
        /// How many it keeps.
        found: usize,
        /// How many there must be.
        needed: usize,
        /// What is counted.
        what: &'static str,
        /// What to change.
        advice: String,
        /// How many rollouts were kept, and left out for each reason.
        table: Box<crate::FilterTable>,
    },
    /// Something was asked of a run that has not come so far.
    #[error("the run in {} has {done} of {total} {what}", path.display())]
    IncompleteRun {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        what: String,
        /// How many there are.
        done: usize,
        /// How many there must be.
        total: usize,
    },
    /// A file of another tool does not hold rollouts.
    #[error("{}{} cannot be read as rollouts: {reason}", path.display(), line.map_or_else(String::new, |l| format!(", line {l},")))]
    BadRollouts {
        /// The file.
        path: PathBuf,
        /// The line at which the record begins (in Parquet, the row), where it is about one.
        line: Option<u64>,
        /// What is wrong.
        reason: String,
    },
    /// A table that cannot be opened.
    #[error(transparent)]
    Table(pv_data::ConversationError),
    /// The callback broke the run off.
    #[error("the extraction was cancelled")]
    Cancelled,
    /// The model, its files or its prompts.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// A trait, a rubric or a judge.
    #[error(transparent)]
    Judge(#[from] pv_judge::Error),
    /// A recording.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
}
