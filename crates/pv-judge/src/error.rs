//! Errors of judging.

use std::path::PathBuf;

use crate::score::ScoreMode;

#[cfg(feature = "http")]
mod http;
mod map;
#[cfg(feature = "http")]
mod request_failure;
#[cfg(feature = "http")]
mod setting;
mod trait_fault;

#[cfg(feature = "http")]
pub use http::HttpError;
pub use map::MapError;
#[cfg(feature = "http")]
pub use request_failure::RequestFailure;
#[cfg(feature = "http")]
pub use setting::SettingError;
pub use trait_fault::TraitFault;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] pv_data::FileError),
    /// A file is larger than such a file can be.
    #[error("{} is larger than the limit of {limit} bytes for a trait's file", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The greatest number of bytes that are read.
        limit: u64,
    },
    /// The instructions, questions or rubric of a trait are invalid.
    #[error("{origin} is not a valid trait")]
    Trait {
        /// The file, or the trait's name if it is not from a file.
        origin: String,
        /// The fault.
        source: TraitFault,
    },
    /// There is no built-in trait of this name.
    #[error("unknown built-in trait {name:?}, expected one of: {}", known.join(", "))]
    UnknownTrait {
        /// The name.
        name: String,
        /// The names of the built-in traits.
        known: &'static [&'static str],
    },
    /// An error of the judge's server or its options.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A rubric lacks a placeholder.
    #[error("the rubric {name:?} has no placeholder {placeholder}")]
    NoPlaceholder {
        /// The rubric's name.
        name: String,
        /// The missing placeholder.
        placeholder: &'static str,
    },
    /// A judge with fixed rubrics was given another rubric.
    #[error("{judge} does not support the rubric {rubric:?}, expected one of: {known}")]
    UnknownRubric {
        /// The judge.
        judge: String,
        /// The given rubric.
        rubric: String,
        /// The supported rubrics.
        known: String,
    },
    /// An error of the judge's model or its files.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// A judge's tokenizer gives two texts the same tokens, so that its numbers cannot be distinguished.
    #[error(
        "the tokenizer of {model} gives {first:?} and {second:?} the same tokens, so that the model cannot be a judge"
    )]
    NumbersAlike {
        /// The model.
        model: String,
        /// The first text.
        first: String,
        /// The second text.
        second: String,
    },
    /// A filled rubric is longer than the model's number of positions.
    #[error(
        "the rubric {rubric:?} for answer {answer} has {tokens} tokens with the reply, but the limit of the judge is {limit}"
    )]
    PromptTooLong {
        /// The rubric's name.
        rubric: String,
        /// The index of the answer.
        answer: usize,
        /// The number of tokens of the prompt and the longest number or refusal.
        tokens: usize,
        /// The number of positions of the model.
        limit: usize,
    },
    /// A judge's mode differs from that of the existing scores, and the two must not be mixed.
    #[error("{judge} scores by {given}, but the existing scores are by {saved}; the two must not be mixed")]
    OtherMode {
        /// The judge.
        judge: String,
        /// The mode of the existing scores.
        saved: ScoreMode,
        /// The mode of the judge.
        given: ScoreMode,
    },
    /// The numbers of two judges' verdicts differ.
    #[error("found {first} and {second} verdicts, expected equal numbers")]
    NotPaired {
        /// The number of the first judge's verdicts.
        first: usize,
        /// The number of the second judge's verdicts.
        second: usize,
    },
    /// Two judges' scores do not determine a map.
    #[error(
        "{pairs} pairs of scores do not determine a map: expected at least three, with different scores of the first judge"
    )]
    NoMap {
        /// The number of answers that both judges scored.
        pairs: usize,
    },
    /// The points of an isotonic map are invalid.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The caller cancelled the judging; the reported verdicts are valid.
    #[error("judging was cancelled after {done} of {total} verdicts")]
    Cancelled {
        /// The number of verdicts so far.
        done: usize,
        /// The number of verdicts in all.
        total: usize,
    },
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
