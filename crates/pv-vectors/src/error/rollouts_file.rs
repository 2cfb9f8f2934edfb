//! Faults of files with rollouts of other tools.

use pv_data::conversations::RowProblem;
use pv_judge::traits::Polarity;

use crate::place::side;

/// The reason why a file of another tool does not contain valid rollouts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutsFileError {
    /// A column is missing.
    #[error("it has no column {column:?}; its columns are {found:?}")]
    NoColumn {
        /// The column.
        column: &'static str,
        /// The file's columns.
        found: Vec<String>,
    },
    /// The row cannot be read.
    #[error("the row cannot be read")]
    Row {
        /// The reason.
        source: RowProblem,
    },
    /// The row has no value in a column.
    #[error("its column {column:?} has no value")]
    NoValue {
        /// The column.
        column: &'static str,
    },
    /// A value is not a string.
    #[error("its column {column:?} contains {found}, expected a string")]
    NotText {
        /// The column.
        column: &'static str,
        /// The value, as JSON.
        found: String,
    },
    /// The id does not have the form of an id of the trait.
    #[error("its id {id:?} is not of the form {trait_name}_QUESTION_pos_PAIR or {trait_name}_QUESTION_neg_PAIR")]
    Id {
        /// The id.
        id: String,
        /// The trait's name.
        trait_name: String,
    },
    /// The id does not contain a polarity, and the caller gave none.
    #[error("its id {id:?} contains no polarity (pos or neg), so the polarity of the file must be given")]
    NoPolarity {
        /// The id.
        id: String,
    },
    /// The id contains another polarity than the caller gave.
    #[error("its id {id:?} is of polarity {}, but {} was given for the file", side(*found), side(*given))]
    OtherPolarity {
        /// The id.
        id: String,
        /// The polarity of the id.
        found: Polarity,
        /// The given polarity.
        given: Polarity,
    },
    /// A score is not a number from 0 to 100.
    #[error("its score {found} in column {column:?} is not a number from 0 to 100")]
    Score {
        /// The column.
        column: String,
        /// The value, as JSON.
        found: String,
    },
}
