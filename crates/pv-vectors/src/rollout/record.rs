//! One rollout: what was asked and what was answered.

use pv_model::{CausalLm, FinishReason, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::{Place, Result};

/// A rollout: what was asked, how it was rendered, what was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `{trait}_{question}_{pos|neg}_{pair}`; all rollouts of a prompt share it.
    pub question_id: String,
    /// Its place in the plan.
    pub place: Place,
    /// The question.
    pub question: String,
    /// The prompt as the chat template rendered it, the head of the answer's turn included.
    pub prompt: String,
    /// The answer's text.
    pub answer: String,
    /// The answer's own tokens, without what ends its turn.
    pub tokens: Vec<u32>,
    /// The seed that it was sampled with; `None` when it comes from elsewhere.
    pub seed: Option<u64>,
    /// Why it ended; `None` when it comes from elsewhere.
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

/// The tokens of an answer that is known as text only.
///
/// Prompt and answer are encoded in one piece, as the original does, and what follows the prompt's tokens is the answer's.
/// Where a token would lie across the border the answer is encoded by itself, since a model never sees such a token
/// when it answers.
pub(crate) fn answer_ids(tokenizer: &Tokenizer, prompt: &str, answer: &str) -> Result<Vec<u32>> {
    let head = tokenizer.encode_rendered(prompt)?;
    let whole = tokenizer.encode_rendered(&format!("{prompt}{answer}"))?;
    match whole.strip_prefix(head.as_slice()) {
        Some(rest) => Ok(rest.to_vec()),
        None => Ok(tokenizer.encode_rendered(answer)?),
    }
}
