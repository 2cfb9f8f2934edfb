//! What can go wrong between prompts and a vector in a file.

use std::path::PathBuf;

use pv_hooks::Layer;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file could not be written. Whatever stood there before is unchanged.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not a persona vector's.
    #[error("{} is not a persona vector's file: {reason}", path.display())]
    NotAVector {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
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
    /// The callback broke the run off.
    #[error("the extraction was cancelled")]
    Cancelled,
    /// The model, its files or its prompts.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// A recording.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
}
