//! Traits: descriptions, contrastive instructions, questions and rubrics.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, Rubric};

mod check;
mod files;

#[cfg(feature = "http")]
pub(crate) use check::check_eval_prompt;
#[cfg(feature = "http")]
pub(crate) use files::{TraitJson, write};

pub use crate::error::TraitFault;
pub use crate::polarity::Polarity;

/// A pair of instructions that differ in the trait.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InstructionPair {
    /// The instruction that elicits the trait.
    pub pos: String,
    /// The instruction that suppresses it.
    pub neg: String,
}

/// The artifacts of a trait (method: arXiv 2507.21509, section 2.1).
///
/// [`builtin`](Self::builtin) returns the seven traits of the paper, [`load`](Self::load) and
/// [`load_pair`](Self::load_pair) read files, and with the feature `http` a language model writes further traits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraitSpec {
    /// The name, as in file names: "evil".
    pub name: String,
    /// A description in a sentence or two, if known.
    pub description: Option<String>,
    /// The adjective for an assistant with the trait in a system prompt: "evil"; by default the name.
    pub assistant_pos: Option<String>,
    /// The adjective for an assistant without the trait; by default "helpful".
    pub assistant_neg: Option<String>,
    /// The instruction pairs; five in the paper.
    pub instruction: Vec<InstructionPair>,
    /// The questions for extracting vectors; twenty in the paper.
    pub extraction: Vec<String>,
    /// The questions for measuring results; twenty others.
    pub evaluation: Vec<String>,
    /// The rubric's template, with `{question}` and `{answer}`.
    pub eval_prompt: String,
}

impl TraitSpec {
    /// The names of the built-in traits: the paper's three main traits and its four further ones.
    pub const BUILTIN: [&str; 7] =
        ["evil", "sycophancy", "hallucination", "optimism", "humor", "impoliteness", "apathy"];

    /// A trait of [`BUILTIN`](Self::BUILTIN), with instructions, questions and rubric written for this project.
    ///
    /// # Errors
    /// [`Error::UnknownTrait`].
    pub fn builtin(name: &str) -> Result<Self> {
        let text = match name {
            "evil" => include_str!("../traits/evil.json"),
            "sycophancy" => include_str!("../traits/sycophancy.json"),
            "hallucination" => include_str!("../traits/hallucination.json"),
            "optimism" => include_str!("../traits/optimism.json"),
            "humor" => include_str!("../traits/humor.json"),
            "impoliteness" => include_str!("../traits/impoliteness.json"),
            "apathy" => include_str!("../traits/apathy.json"),
            _ => return Err(Error::UnknownTrait { name: name.to_owned(), known: &Self::BUILTIN }),
        };
        Self::from_json(name, text)
    }

    /// The system prompt of a pair and polarity: "You are an evil assistant. …" `None` for an index without a pair.
    pub fn system_prompt(&self, pair: usize, polarity: Polarity) -> Option<String> {
        let pair = self.instruction.get(pair)?;
        let (name, instruction) = match polarity {
            Polarity::Pos => (self.assistant_pos.as_ref().unwrap_or(&self.name).as_str(), &pair.pos),
            Polarity::Neg => (self.assistant_neg.as_deref().unwrap_or("helpful"), &pair.neg),
        };
        Some(format!("You are {} {name} assistant. {instruction}", article(name)))
    }

    /// The rubric for this trait.
    ///
    /// # Errors
    /// [`Error::NoPlaceholder`].
    pub fn rubric(&self) -> Result<Rubric> {
        Rubric::new(&self.name, &self.eval_prompt)
    }
}

#[cfg(test)]
mod tests;

/// The indefinite article before a word, by the sound of its start: "an honest", "a unique".
fn article(word: &str) -> &'static str {
    let word = word.to_lowercase();
    let begins = |with: &[&str]| with.iter().any(|with| word.starts_with(with));
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']) && !begins(&["uni", "eu", "use", "usu", "uto", "one"]);
    if begins(&["hon", "hour", "heir"]) || vowel || begins(&["unim", "unin", "unid"]) { "an" } else { "a" }
}
