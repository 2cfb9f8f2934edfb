//! What can go wrong while judging.

use std::path::PathBuf;

use crate::{ScoreMode, TraitFault};

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] pv_data::FileError),
    /// A file is far larger than such a file can be.
    #[error("{} is larger than {limit} bytes, which is the most that is read of such a file", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// Something is not a trait's instructions, questions and rubric.
    #[error("{origin}: {fault}")]
    Trait {
        /// The file, or the trait's name where it is in none.
        origin: String,
        /// What is wrong.
        fault: TraitFault,
    },
    /// No trait of that name is built in.
    #[error("no trait {name:?} is built in; these are: {known}")]
    UnknownTrait {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The judge's server, or what was said to it, keeps it from going on.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Http(#[from] crate::HttpError),
    /// A rubric lacks a placeholder, without which no answer could be judged.
    #[error("the rubric {name:?} lacks the placeholder {placeholder}")]
    NoPlaceholder {
        /// The rubric's name.
        name: String,
        /// The placeholder.
        placeholder: &'static str,
    },
    /// A judge that knows its own rubrics only was asked for another.
    #[error("{judge} knows no rubric {rubric:?}; it knows {known}")]
    UnknownRubric {
        /// The judge.
        judge: String,
        /// What it was asked for.
        rubric: String,
        /// What it could be asked for.
        known: String,
    },
    /// The judge's model, or its files, keep it from going on.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// A judge's tokenizer gives two texts the same tokens, so that its numbers cannot be told apart.
    #[error("the tokenizer of {model} writes {first:?} and {second:?} alike, so that it cannot be a judge")]
    NumbersAlike {
        /// The model.
        model: String,
        /// A text.
        first: String,
        /// Another.
        second: String,
    },
    /// A filled rubric is longer than the judge's model can read.
    #[error(
        "the rubric {rubric:?} about answer {answer} takes {tokens} tokens with the reply, but the judge reads {limit}"
    )]
    PromptTooLong {
        /// The rubric's name.
        rubric: String,
        /// The index of the answer.
        answer: usize,
        /// How many tokens the prompt and the longest number or refusal have.
        tokens: usize,
        /// How many positions the model was made for.
        limit: usize,
    },
    /// A judge gets its scores in another way than those that are there, with which they would be mixed.
    #[error("{judge} scores by {given}, but the scores that are there are by {saved}; the two must not be mixed")]
    OtherMode {
        /// The judge.
        judge: String,
        /// How the scores that are there were got.
        saved: ScoreMode,
        /// How the judge gets its own.
        given: ScoreMode,
    },
    /// Two judges' verdicts are not about the same answers.
    #[error("{first} verdicts cannot be compared with {second}")]
    NotPaired {
        /// How many verdicts the first judge gave.
        first: usize,
        /// How many verdicts the second judge gave.
        second: usize,
    },
    /// Two judges' scores do not give a map from one to the other.
    #[error("{pairs} pairs of scores give no map: it takes three, with different scores of the judge to translate")]
    NoMap {
        /// How many answers both judges scored.
        pairs: usize,
    },
    /// The points of an isotonic map are not those of one.
    #[error("not an isotonic map: {reason}")]
    BadMap {
        /// What is wrong.
        reason: &'static str,
    },
    /// The caller broke the judging off; the verdicts that were reported are good.
    #[error("judging was broken off after {done} of {total} verdicts")]
    Cancelled {
        /// How many verdicts there were.
        done: usize,
        /// How many there would have been.
        total: usize,
    },
}
