//! One rollout: prompt and answer.

use pv_model::generate::FinishReason;
use pv_model::{CausalLm, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::rollout::Place;

/// A rollout: the question, the rendered prompt and the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `{trait}_{question}_{pos|neg}_{pair}`; all rollouts of a prompt share it.
    pub question_id: String,
    /// Its place in the plan.
    pub place: Place,
    /// The question.
    pub question: String,
    /// The prompt as the chat template rendered it, with the header of the answer's turn.
    pub prompt: String,
    /// The answer's text.
    pub answer: String,
    /// The answer's own tokens, without the end-of-turn token.
    pub tokens: Vec<u32>,
    /// The seed of its sampling; `None` if it comes from a file of another tool.
    pub seed: Option<u64>,
    /// Why generation stopped; `None` if it comes from a file of another tool.
    pub finish: Option<FinishReason>,
}

impl Record {
    /// Whether the answer has no token, and therefore no activations.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The prompt's tokens.
    pub(crate) fn prompt_ids(&self, model: &CausalLm) -> Result<Vec<u32>> {
        Ok(model.tokenizer()?.encode_rendered(&self.prompt)?)
    }
}

/// The tokens of an answer of which only the text is known.
///
/// Prompt and answer are encoded together, as in the original code, and the tokens after the prompt's are the answer's.
/// If a token would span the boundary, the answer is encoded alone, since a model never sees such a token when it
/// answers.
pub(crate) fn answer_ids(tokenizer: &Tokenizer, prompt: &str, answer: &str) -> Result<Vec<u32>> {
    let head = tokenizer.encode_rendered(prompt)?;
    let whole = tokenizer.encode_rendered(&format!("{prompt}{answer}"))?;
    match whole.strip_prefix(head.as_slice()) {
        Some(rest) => Ok(rest.to_vec()),
        None => Ok(tokenizer.encode_rendered(answer)?),
    }
}
