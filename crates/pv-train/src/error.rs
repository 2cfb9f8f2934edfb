//! What can go wrong between a file of conversations and a trained decoder.

use std::path::PathBuf;

use pv_data::conversations::RowPlace;

use crate::MeasureError;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate. Variants carry the values that a caller needs to act on them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] pv_data::FileError),
    /// A run's folder: in use, of another run, or damaged.
    #[error(transparent)]
    Run(#[from] pv_data::RunError),
    /// A sample has no token to learn from.
    #[error("no token is trained: {reason}")]
    NothingTrained {
        /// Why that is.
        reason: String,
    },
    /// A sample's token ids and its marks of what is trained differ in number.
    #[error("{ids} token ids have {marks} marks of which are trained")]
    MarksLength {
        /// How many ids there are.
        ids: usize,
        /// How many marks there are.
        marks: usize,
    },
    /// None of the answers is to be trained: their weights are 0.
    #[error("no answer is to be trained: the weights are 0")]
    Untrained,
    /// The answer, or each of the answers that would be trained, says nothing.
    #[error("the answer in message {index} is empty")]
    EmptyAnswer {
        /// The answer's index in the conversation.
        index: usize,
    },
    /// The chat template leaves a part of a conversation out.
    #[error("{part}{}", if *parts > 1 { format!(", nor {} other parts", parts - 1) } else { String::new() })]
    Unwritten {
        /// The first of them.
        part: pv_model::UnwrittenPart,
        /// How many there are.
        parts: usize,
    },
    /// The chat template writes less of an answer than it says.
    #[error("the chat template writes other words of the answer in message {index} than it holds")]
    Altered {
        /// The answer's index in the conversation.
        index: usize,
    },
    /// A conversation's or a message's weight is no number of at least 0.
    #[error("the conversation cannot be weighed: {reason}")]
    BadWeights {
        /// What is wrong.
        reason: String,
    },
    /// A token's weight is no number of at least 0.
    #[error("the weight of token {token} is {weight}, but should be a number of at least 0")]
    BadWeight {
        /// The token's position.
        token: usize,
        /// Its weight.
        weight: f32,
    },
    /// The chat template closes an answer without a token that ends generation, so that a model could not learn to stop.
    #[error(
        "after the answer in message {index} the chat template writes {closing:?}, which holds none of the tokens that end an answer"
    )]
    NoEndOfTurn {
        /// The answer's index in the conversation.
        index: usize,
        /// What the template writes after it.
        closing: String,
    },
    /// An option that cannot be.
    #[error("{name} is {value}, but should be {expected}")]
    BadOption {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// Training is in f32 only.
    #[error("the decoder's weights are {dtype}; training needs f32")]
    Dtype {
        /// The weights' type.
        dtype: String,
    },
    /// There is nothing to train on.
    #[error("step {step} has no samples")]
    NoSamples {
        /// The step, from 1.
        step: usize,
    },
    /// A sample has more tokens than a packed pass.
    #[error(
        "sample {sample} has {tokens} tokens, and packed passes hold {most}: truncate or drop it, or make them larger"
    )]
    SampleTooLong {
        /// The sample's index.
        sample: usize,
        /// Its tokens.
        tokens: usize,
        /// The tokens of a packed pass.
        most: usize,
    },
    /// A sample has more tokens than the model has positions.
    #[error(
        "sample {sample} of step {step} has {tokens} tokens, and the model {positions} positions: truncate or drop it"
    )]
    BeyondPositions {
        /// The step, from 1; 0 outside of training.
        step: usize,
        /// The sample's index in the step.
        sample: usize,
        /// Its tokens.
        tokens: usize,
        /// The model's positions.
        positions: usize,
    },
    /// A token id that the model does not have.
    #[error("sample {sample} of step {step}: token id {id} is beyond the model's vocabulary of {vocab}")]
    TokenOutOfRange {
        /// The step, from 1.
        step: usize,
        /// The sample's index in the step.
        sample: usize,
        /// The id.
        id: u32,
        /// How many there are.
        vocab: usize,
    },
    /// Training has diverged: the loss is not a number, or infinite.
    #[error("step {step}: the loss is {loss}; a lower learning rate, or gradient clipping, may help")]
    BadLoss {
        /// The step, from 1.
        step: usize,
        /// The loss.
        loss: f64,
    },
    /// The gradient is not a number, or infinite.
    #[error("step {step}: the gradient's norm is {norm}, at a loss of {loss}")]
    BadGradient {
        /// The step, from 1.
        step: usize,
        /// The norm over all parameters.
        norm: f64,
        /// The loss.
        loss: f64,
    },
    /// The caller's source of samples failed.
    #[error("the source of samples failed at step {step}")]
    Source {
        /// The step, from 1.
        step: usize,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A folder holds no checkpoint.
    #[error("{} holds no checkpoint", path.display())]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint's files do not fit together.
    #[error("the checkpoint {} is damaged: {reason}", path.display())]
    DamagedCheckpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A conversation in a file that nothing can be learnt from.
    #[error("{place}: nothing can be learnt from this conversation")]
    Row {
        /// Where it stands.
        place: RowPlace,
        /// Why not.
        source: Box<Self>,
    },
    /// A conversation that is longer than it may be.
    #[error("{length} tokens are more than {max_length}")]
    TooLong {
        /// How many tokens it has.
        length: usize,
        /// How many it may have.
        max_length: usize,
    },
    /// No conversation of the files can be learnt from.
    #[error("there is nothing to {to}: {report}")]
    NoData {
        /// What the samples were for.
        to: &'static str,
        /// How many conversations there were, and what became of them.
        report: String,
    },
    /// Too few conversations to hold some of them out.
    #[error("holding some out takes two distinct conversations, and there are {distinct}: {report}")]
    TooFewConversations {
        /// How many distinct ones there are.
        distinct: usize,
        /// What was read, and what became of it.
        report: String,
    },
    /// The model cannot be told from others, or a table cannot be made.
    #[error(transparent)]
    Measure(Box<MeasureError>),
    /// The model, its tokenizer or its files.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// A file of conversations.
    #[error(transparent)]
    Conversations(#[from] pv_data::ConversationError),
    /// A hook does not fit the model, or did not fire.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
    /// An intervention cannot be.
    #[error(transparent)]
    Steer(Box<pv_steer::Error>),
    /// A vector lacks what was asked of it.
    #[error(transparent)]
    Vectors(Box<pv_vectors::Error>),
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

impl From<MeasureError> for Error {
    fn from(error: MeasureError) -> Self {
        Self::Measure(Box::new(error))
    }
}
