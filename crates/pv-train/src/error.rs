//! The errors of this crate.

use std::path::PathBuf;

use pv_data::conversations::RowPlace;
use pv_data::message::KeyProblem;

use crate::schedule::Decay;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate. Variants contain the values that a caller needs to act on them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] pv_data::FileError),
    /// A run folder is in use, belongs to another run, or is damaged.
    #[error(transparent)]
    Run(#[from] pv_data::RunError),
    /// A table cannot be written as CSV.
    #[error(transparent)]
    Csv(#[from] pv_data::tables::TableError),
    /// A sample has no trained token.
    #[error("no token is trained: {0}")]
    NothingTrained(NothingTrained),
    /// The number of a sample's token ids and the number of its marks or weights differ.
    #[error("there are {ids} token ids, but {marks} marks or weights")]
    MarksLength {
        /// The number of token ids.
        ids: usize,
        /// The number of marks or weights.
        marks: usize,
    },
    /// No answer of the conversation is trained: their weights are 0.
    #[error("no answer is trained: all weights are 0")]
    Untrained,
    /// The answer, or each of the answers that would be trained, is empty.
    #[error("the answer in message {index} is empty")]
    EmptyAnswer {
        /// The answer's index in the conversation.
        index: usize,
    },
    /// The chat template does not render a part of a conversation.
    #[error("{part}{}", if *parts > 1 { format!(" (and {} further parts)", parts - 1) } else { String::new() })]
    Unwritten {
        /// The first omitted part.
        part: pv_model::chat::UnwrittenPart,
        /// The number of omitted parts.
        parts: usize,
    },
    /// The chat template renders an answer incompletely or with other words.
    #[error("the chat template renders the answer in message {index} incompletely or changed")]
    Altered {
        /// The answer's index in the conversation.
        index: usize,
    },
    /// A conversation's or a message's weight is not a number of at least 0.
    #[error("the conversation's weights cannot be used")]
    BadWeights(#[source] KeyProblem),
    /// A token's weight is not a number of at least 0.
    #[error("the weight of token {token} is {weight}, expected a finite number of at least 0")]
    BadWeight {
        /// The token's position.
        token: usize,
        /// Its weight.
        weight: f32,
    },
    /// The chat template closes an answer without a token that ends generation, so that a model could not learn to
    /// stop.
    #[error(
        "after the answer in message {index} the chat template renders {closing:?}, which contains no token that ends an answer"
    )]
    NoEndOfTurn {
        /// The answer's index in the conversation.
        index: usize,
        /// The text that the template renders after the answer.
        closing: String,
    },
    /// An option is invalid.
    #[error("{name} is {value}, expected {expected}")]
    BadOption {
        /// The name of the option.
        name: &'static str,
        /// Its value.
        value: String,
        /// The values that are allowed.
        expected: &'static str,
    },
    /// The weights are not f32, which training of all parameters needs.
    #[error("the decoder's weights are {dtype}; training all parameters requires f32")]
    Dtype {
        /// The weights' type.
        dtype: String,
    },
    /// A step has no samples.
    #[error("step {step} has no samples")]
    NoSamples {
        /// The step, from 1.
        step: usize,
    },
    /// A sample has more tokens than a packed pass.
    #[error(
        "sample {sample} has {tokens} tokens, but a packed pass has at most {most}: truncate or remove the sample, or raise pack_tokens"
    )]
    SampleTooLong {
        /// The sample's index.
        sample: usize,
        /// Its number of tokens.
        tokens: usize,
        /// The largest number of tokens of a packed pass.
        most: usize,
    },
    /// A sample has more tokens than the model has positions.
    #[error(
        "sample {sample} of step {step} has {tokens} tokens, but the model has {positions} positions: truncate or remove the sample"
    )]
    BeyondPositions {
        /// The step, from 1; 0 outside of training.
        step: usize,
        /// The sample's index in the step.
        sample: usize,
        /// Its number of tokens.
        tokens: usize,
        /// The model's number of positions.
        positions: usize,
    },
    /// The model's vocabulary does not contain a token id.
    #[error("sample {sample} of step {step}: token id {id} is not in the model's vocabulary of {vocab} tokens")]
    TokenOutOfRange {
        /// The step, from 1.
        step: usize,
        /// The sample's index in the step.
        sample: usize,
        /// The token id.
        id: u32,
        /// The size of the vocabulary.
        vocab: usize,
    },
    /// Training has diverged: the loss is NaN or infinite.
    #[error("step {step}: the loss is {loss}; use a lower learning rate or gradient clipping")]
    BadLoss {
        /// The step, from 1.
        step: usize,
        /// The loss.
        loss: f64,
    },
    /// The gradient is NaN or infinite.
    #[error("step {step}: the norm of the gradient is {norm}, and the loss is {loss}")]
    BadGradient {
        /// The step, from 1.
        step: usize,
        /// The Euclidean norm over all parameters.
        norm: f64,
        /// The loss.
        loss: f64,
    },
    /// The caller's source of samples failed.
    #[error("the source of samples failed at step {step}")]
    Source {
        /// The step, from 1.
        step: usize,
        /// Its error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A folder contains no checkpoint.
    #[error("{} contains no checkpoint", path.display())]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint's files are inconsistent.
    #[error("the checkpoint {} is damaged", path.display())]
    DamagedCheckpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// The inconsistency.
        source: CheckpointDamage,
    },
    /// A longer run would have had other learning rates from its beginning, so that it cannot continue a shorter one
    /// with the same result.
    #[error(
        "{} contains a run of {saved} steps, but {requested} steps were requested: with {decay} decay, the learning rate depends on the number of steps. `RunOptions::grow` continues the run with the schedule of the longer run; with constant decay, a run can always be extended", path.display()
    )]
    ScheduleDependsOnSteps {
        /// The run's folder, or the checkpoint's.
        path: PathBuf,
        /// The decay of the learning rate.
        decay: Decay,
        /// The number of steps of the run in the folder.
        saved: usize,
        /// The requested number of steps.
        requested: usize,
    },
    /// A conversation in a file cannot be used for training.
    #[error("{place}: this conversation cannot be used for training")]
    Row {
        /// Its place.
        place: RowPlace,
        /// The reason.
        source: Box<Self>,
    },
    /// A conversation has more tokens than allowed.
    #[error("the conversation has {length} tokens; at most {max_length} are allowed")]
    TooLong {
        /// Its number of tokens.
        length: usize,
        /// The largest allowed number.
        max_length: usize,
    },
    /// No conversation of the files can be used.
    #[error("no {part} sample is left: {report}")]
    NoData {
        /// The part of the data, such as "training" or "held-out".
        part: &'static str,
        /// The report on the files: the number of conversations, and why they were skipped.
        report: String,
    },
    /// There are too few conversations to hold some of them out.
    #[error("held-out data requires at least two distinct conversations; there are {distinct}: {report}")]
    TooFewConversations {
        /// The number of distinct conversations.
        distinct: usize,
        /// The report on the files.
        report: String,
    },
    /// An error of the model, its tokenizer or its files.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// A file of conversations cannot be read.
    #[error(transparent)]
    Conversations(#[from] pv_data::conversations::ConversationError),
    /// A hook does not fit the model, or did not fire.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
    /// An intervention is invalid.
    #[error(transparent)]
    Steer(Box<pv_steer::Error>),
    /// A vector does not have the requested part.
    #[error(transparent)]
    Vectors(Box<pv_vectors::Error>),
}

/// Why a sample has no trained token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NothingTrained {
    /// No token is marked as trained.
    #[error("none of {tokens} tokens is marked")]
    NoMark {
        /// The number of tokens.
        tokens: usize,
    },
    /// Only the first token is marked, which has no predecessor.
    #[error("only the first token is marked, and no token precedes it")]
    OnlyFirst,
    /// Truncation removed all trained tokens.
    #[error("all trained tokens are beyond the first {max_length} of {length} tokens")]
    Truncated {
        /// The number of tokens after truncation.
        max_length: usize,
        /// The number of tokens of the conversation.
        length: usize,
    },
    /// The conversation does not have the requested assistant turns.
    #[error("the conversation has {turns} assistant turns, and none of them was requested")]
    NoTurn {
        /// The number of assistant turns.
        turns: usize,
    },
}

/// An inconsistency in a checkpoint's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointDamage {
    /// `state.json` cannot be parsed.
    #[error("state.json cannot be parsed")]
    State(#[source] serde_json::Error),
    /// `optimizer.safetensors` cannot be parsed, or lacks a tensor.
    #[error("optimizer.safetensors cannot be read")]
    Tensors(#[source] safetensors::SafeTensorError),
    /// A tensor of `optimizer.safetensors` has another type.
    #[error("the tensor {name} of optimizer.safetensors is stored as {found}, expected {expected}")]
    TensorType {
        /// The tensor's name.
        name: String,
        /// The expected type.
        expected: String,
        /// The type in the file.
        found: String,
    },
    /// The number of losses is not the number of steps.
    #[error("it is the checkpoint of step {step}, but contains {losses} losses")]
    LossCount {
        /// The checkpoint's step.
        step: usize,
        /// The number of losses.
        losses: usize,
    },
    /// The moments of a parameter have another number of values than the parameter.
    #[error("the moments of {parameter} have {found} values, expected {expected}")]
    MomentCount {
        /// The parameter's path in the decoder.
        parameter: String,
        /// The parameter's number of values.
        expected: usize,
        /// The number of values of its moments.
        found: usize,
    },
    /// There are moments of a parameter that the decoder does not have.
    #[error("it contains moments of {parameter}, which the decoder does not have")]
    UnknownParameter {
        /// The parameter's path.
        parameter: String,
    },
    /// The metrics name the checkpoint as the best one, but it does not exist.
    #[error("the metrics name it as the best checkpoint, but it does not exist")]
    Missing,
}

impl From<pv_steer::Error> for Error {
    fn from(error: pv_steer::Error) -> Self {
        Self::Steer(Box::new(error))
    }
}

impl From<pv_vectors::Error> for Error {
    fn from(error: pv_vectors::Error) -> Self {
        Self::Vectors(Box::new(error))
    }
}

impl From<pv_model::adapter::AdapterError> for Error {
    fn from(error: pv_model::adapter::AdapterError) -> Self {
        Self::Model(error.into())
    }
}

impl From<pv_model::config::ConfigError> for Error {
    fn from(error: pv_model::config::ConfigError) -> Self {
        Self::Model(error.into())
    }
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
