//! What can go wrong while judging.

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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
    /// The caller broke the judging off; the verdicts that were reported are good.
    #[error("judging was broken off after {done} of {total} verdicts")]
    Cancelled {
        /// How many verdicts there were.
        done: usize,
        /// How many there would have been.
        total: usize,
    },
}
