//! A trait: what it is, how it is elicited and suppressed, what to ask, and how to judge it.

use serde::{Deserialize, Serialize};

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
    /// The system prompt of a pair and polarity: "You are an evil assistant. …" `None` for a pair that is not there.
    pub fn system_prompt(&self, pair: usize, polarity: Polarity) -> Option<String> {
        let pair = self.instruction.get(pair)?;
        let (name, instruction) = match polarity {
            Polarity::Pos => (self.assistant_pos.as_ref().unwrap_or(&self.name).as_str(), &pair.pos),
            Polarity::Neg => (self.assistant_neg.as_deref().unwrap_or("helpful"), &pair.neg),
        };
        let article = if name.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
        Some(format!("You are {article} {name} assistant. {instruction}"))
    }
}
