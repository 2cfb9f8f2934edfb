//! What a judge is asked.

use serde::{Deserialize, Serialize};

use crate::{Answered, Error, Result};

/// A prompt that asks for one number about an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rubric {
    /// What it asks about: a trait's name, or [`COHERENCE`]. Names the column of its scores in files.
    pub name: String,
    /// The prompt, with the placeholders `{question}` and `{answer}`.
    pub template: String,
}

/// The name of the rubric that asks whether an answer holds together.
pub const COHERENCE: &str = "coherence";

impl Rubric {
    /// A rubric from its template.
    ///
    /// # Errors
    /// [`Error::NoPlaceholder`].
    pub fn new(name: impl Into<String>, template: impl Into<String>) -> Result<Self> {
        let (name, template) = (name.into(), template.into());
        for placeholder in ["{question}", "{answer}"] {
            if !template.contains(placeholder) {
                return Err(Error::NoPlaceholder { name, placeholder });
            }
        }
        Ok(Self { name, template })
    }

    /// The prompt about an answer. The texts are put in as they are: a placeholder inside of them stays.
    pub fn fill(&self, answered: &Answered<'_>) -> String {
        let mut filled = String::with_capacity(self.template.len() + answered.question.len() + answered.answer.len());
        let mut rest = self.template.as_str();
        loop {
            let question = rest.find("{question}").map(|at| (at, "{question}", answered.question));
            let answer = rest.find("{answer}").map(|at| (at, "{answer}", answered.answer));
            let Some((at, placeholder, text)) = question.into_iter().chain(answer).min() else { break };
            filled.push_str(&rest[..at]);
            filled.push_str(text);
            rest = &rest[at + placeholder.len()..];
        }
        filled.push_str(rest);
        filled
    }
}
