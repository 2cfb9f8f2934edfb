//! Faults of traits.

use crate::polarity::Polarity;

/// The reason why a trait's instructions, questions or rubric are invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraitFault {
    /// The JSON is not that of a trait.
    #[error("it does not have the JSON of a trait")]
    Json(#[source] serde_json::Error),
    /// The name is empty or contains invisible characters.
    #[error("{name:?} is not a valid name for a trait: it is empty or contains control characters")]
    Name {
        /// The name.
        name: String,
    },
    /// The name is that of another column of scores.
    #[error("a trait cannot have the name \"coherence\", which is that of the coherence rubric")]
    ReservedName,
    /// There is no instruction pair.
    #[error("`instruction` contains no pair")]
    NoInstructions,
    /// An instruction is empty.
    #[error("`instruction`: {} of pair {} is empty", polarity.key(), pair + 1)]
    EmptyInstruction {
        /// The index of the pair.
        pair: usize,
        /// The polarity of the instruction.
        polarity: Polarity,
    },
    /// The two instructions of a pair are equal, so that their answers would not differ.
    #[error("`instruction`: `pos` and `neg` of pair {} are equal", pair + 1)]
    SameInstructions {
        /// The index of the pair.
        pair: usize,
    },
    /// A question is empty.
    #[error("`questions`: question {} is empty", index + 1)]
    EmptyQuestion {
        /// Its index; evaluation questions are counted after extraction questions.
        index: usize,
    },
    /// The number of questions is wrong.
    #[error("found {found} `questions`, expected {expected}")]
    Questions {
        /// The number of questions.
        found: usize,
        /// The expected number.
        expected: &'static str,
    },
    /// The rubric lacks a placeholder.
    #[error("`eval_prompt` has no placeholder {placeholder}")]
    NoPlaceholder {
        /// The missing placeholder.
        placeholder: &'static str,
    },
    /// The files for extraction and for evaluation contradict each other.
    #[error("its `{key}` differs from that of {other}; both files must be of one trait")]
    Disagree {
        /// The key.
        key: &'static str,
        /// The other file.
        other: String,
    },
}

impl TraitFault {
    /// The fault of a name, if it is invalid.
    pub(crate) fn in_name(name: &str) -> Result<(), Self> {
        match name {
            // The name of the coherence rubric, by which every answer is judged too.
            "coherence" => Err(Self::ReservedName),
            _ if name.trim().is_empty() || name.chars().any(char::is_control) => {
                Err(Self::Name { name: name.to_owned() })
            }
            _ => Ok(()),
        }
    }
}
