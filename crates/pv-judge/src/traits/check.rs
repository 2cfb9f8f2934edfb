use super::{Polarity, TraitSpec};
use crate::COHERENCE;

/// What keeps something from being a trait's instructions, questions and rubric.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraitFault {
    /// It is not the JSON that it should be.
    #[error("it is not the JSON of a trait: {0}")]
    Json(#[source] serde_json::Error),
    /// The name is empty, or has characters that are not shown.
    #[error("{name:?} is no name for a trait")]
    Name {
        /// The name.
        name: String,
    },
    /// The name is that of another column of scores.
    #[error("a trait cannot be called {COHERENCE:?}, which is what every answer is judged by as well")]
    ReservedName,
    /// There is no pair of instructions.
    #[error("`instruction` holds no pair")]
    NoInstructions,
    /// An instruction is empty.
    #[error("`instruction`: {} of pair {} is empty", polarity_key(*polarity), pair + 1)]
    EmptyInstruction {
        /// The index of the pair.
        pair: usize,
        /// Which of the two.
        polarity: Polarity,
    },
    /// The two instructions of a pair are the same, so that nothing would tell their answers apart.
    #[error("`instruction`: `pos` and `neg` of pair {} are the same", pair + 1)]
    SameInstructions {
        /// The index of the pair.
        pair: usize,
    },
    /// A question is empty.
    #[error("`questions`: question {} is empty", index + 1)]
    EmptyQuestion {
        /// Its index; those for evaluation are counted on from those for extraction.
        index: usize,
    },
    /// There are not as many questions as there should be.
    #[error("`questions` holds {found}; there should be {expected}")]
    Questions {
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: &'static str,
    },
    /// The rubric lacks a placeholder.
    #[error("`eval_prompt` lacks the placeholder {placeholder}")]
    NoPlaceholder {
        /// The placeholder.
        placeholder: &'static str,
    },
    /// The file for extraction and the one for evaluation do not belong together.
    #[error("its `{key}` is not that of {other}")]
    Disagree {
        /// The key.
        key: &'static str,
        /// The other file.
        other: String,
    },
}

impl TraitFault {
    /// What keeps a name from being a trait's.
    pub(crate) fn in_name(name: &str) -> Result<(), Self> {
        match name {
            COHERENCE => Err(Self::ReservedName),
            _ if name.trim().is_empty() || name.chars().any(char::is_control) => {
                Err(Self::Name { name: name.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

fn polarity_key(polarity: Polarity) -> &'static str {
    match polarity {
        Polarity::Pos => "`pos`",
        Polarity::Neg => "`neg`",
    }
}

impl TraitSpec {
    /// Finds what would make the trait useless: empty texts, pairs that do not differ, missing placeholders. Any numbers
    /// of pairs and questions from one up are fine.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(&self) -> Result<(), TraitFault> {
        TraitFault::in_name(&self.name)?;
        if self.instruction.is_empty() {
            return Err(TraitFault::NoInstructions);
        }
        for (pair, both) in self.instruction.iter().enumerate() {
            for (polarity, text) in [(Polarity::Pos, &both.pos), (Polarity::Neg, &both.neg)] {
                if text.trim().is_empty() {
                    return Err(TraitFault::EmptyInstruction { pair, polarity });
                }
            }
            if both.pos.trim() == both.neg.trim() {
                return Err(TraitFault::SameInstructions { pair });
            }
        }
        if self.extraction.is_empty() || self.evaluation.is_empty() {
            let found = self.extraction.len() + self.evaluation.len();
            return Err(TraitFault::Questions { found, expected: "some for extraction and some for evaluation" });
        }
        let mut questions = self.extraction.iter().chain(&self.evaluation);
        if let Some(index) = questions.position(|question| question.trim().is_empty()) {
            return Err(TraitFault::EmptyQuestion { index });
        }
        check_eval_prompt(&self.eval_prompt)
    }
}

/// Finds what keeps a template from being a rubric.
pub(crate) fn check_eval_prompt(template: &str) -> Result<(), TraitFault> {
    match crate::rubric::PLACEHOLDERS.into_iter().find(|placeholder| !template.contains(placeholder)) {
        Some(placeholder) => Err(TraitFault::NoPlaceholder { placeholder }),
        None => Ok(()),
    }
}
