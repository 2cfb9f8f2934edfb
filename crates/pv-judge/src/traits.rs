//! A trait: what it is, how it is elicited and suppressed, what to ask, and how to judge it.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, Rubric};

mod check;
mod files;

pub use check::TraitFault;
#[cfg(feature = "http")]
pub(crate) use check::check_eval_prompt;
#[cfg(feature = "http")]
pub(crate) use files::{TraitJson, write};

/// A pair of instructions that differ in the trait.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InstructionPair {
    /// The instruction that elicits the trait.
    pub pos: String,
    /// The instruction that suppresses it.
    pub neg: String,
}

/// Whether a rollout's system prompt elicits the trait or suppresses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Polarity {
    /// Elicits it.
    Pos,
    /// Suppresses it.
    Neg,
}

/// All that is needed to find a trait in a model (method: paper, section 2.1).
///
/// [`builtin`](Self::builtin) has the seven traits of the paper, [`load`](Self::load) and
/// [`load_pair`](Self::load_pair) read files, and with the feature `http` a language model writes further ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraitSpec {
    /// Its name, as in file names: "evil".
    pub name: String,
    /// What it is, in a sentence or two, where that is known.
    pub description: Option<String>,
    /// What an assistant with the trait is called in a system prompt: "evil"; the name, when there is none.
    pub assistant_pos: Option<String>,
    /// What an assistant without it is called; "helpful", when there is none.
    pub assistant_neg: Option<String>,
    /// The pairs of instructions; five in the paper.
    pub instruction: Vec<InstructionPair>,
    /// The questions that vectors are extracted from; twenty in the paper.
    pub extraction: Vec<String>,
    /// The questions that results are measured on; twenty others.
    pub evaluation: Vec<String>,
    /// The rubric's template, with `{question}` and `{answer}`.
    pub eval_prompt: String,
}

impl TraitSpec {
    /// The names of the traits that are built in: the paper's three main traits and its four further ones.
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
            _ => return Err(Error::UnknownTrait { name: name.to_owned(), known: Self::BUILTIN.join(", ") }),
        };
        Self::from_json(name, text)
    }

    /// The system prompt of a pair and polarity: "You are an evil assistant. …" `None` for a pair that is not there.
    pub fn system_prompt(&self, pair: usize, polarity: Polarity) -> Option<String> {
        let pair = self.instruction.get(pair)?;
        let (name, instruction) = match polarity {
            Polarity::Pos => (self.assistant_pos.as_ref().unwrap_or(&self.name).as_str(), &pair.pos),
            Polarity::Neg => (self.assistant_neg.as_deref().unwrap_or("helpful"), &pair.neg),
        };
        Some(format!("You are {} {name} assistant. {instruction}", article(name)))
    }

    /// The rubric that asks for this trait.
    ///
    /// # Errors
    /// [`Error::NoPlaceholder`].
    pub fn rubric(&self) -> Result<Rubric> {
        Rubric::new(&self.name, &self.eval_prompt)
    }
}

#[cfg(test)]
mod tests;

/// The indefinite article before a word, by the sound that it begins with: "an honest", "a unique".
fn article(word: &str) -> &'static str {
    let word = word.to_lowercase();
    let begins = |with: &[&str]| with.iter().any(|with| word.starts_with(with));
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']) && !begins(&["uni", "eu", "use", "usu", "uto", "one"]);
    if begins(&["hon", "hour", "heir"]) || vowel || begins(&["unim", "unin", "unid"]) { "an" } else { "a" }
}
