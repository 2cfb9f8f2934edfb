//! The judge protocol's requests, and texts for messages.

use async_openai::types::chat::{
    ChatCompletionRequestMessage, ChatCompletionRequestUserMessage, CreateChatCompletionRequest,
};

use crate::score::{ScoreMode, shortened};

/// The mode of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Requests the probabilities of the first token.
    Distribution,
    /// Requests the probabilities of all tokens of a short reply.
    Digits,
    /// Uses the written number.
    Sampled,
    /// Uses the written number after reasoning.
    Reasoned,
}

impl Mode {
    pub(super) const ALL: [Self; 4] = [Self::Distribution, Self::Digits, Self::Sampled, Self::Reasoned];

    /// Enough for a number and surrounding text; for reasoning, the limit of the options.
    pub(super) fn max_tokens(self, thought: u32) -> u32 {
        match self {
            Self::Distribution => 1,
            Self::Digits | Self::Sampled => 8,
            Self::Reasoned => thought,
        }
    }

    /// Whether the mode uses probabilities.
    pub(super) fn wants_logprobs(self) -> bool {
        matches!(self, Self::Distribution | Self::Digits)
    }

    /// The parameters of a request that affect the reply, besides prompt and model. Part of the cache key: never change
    /// these texts.
    pub(super) fn parameters(self) -> &'static str {
        match self {
            Self::Distribution => "max_tokens 1, temperature 0, top_logprobs 20, seed 0",
            Self::Digits => "max_tokens 8, temperature 0, top_logprobs 20, seed 0",
            Self::Sampled => "max_tokens 8, temperature 0, seed 0",
            Self::Reasoned => "after a thought, temperature 0, seed 0",
        }
    }

    pub(super) fn of(mode: ScoreMode) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.score_mode() == mode)
    }

    pub(super) fn score_mode(self) -> ScoreMode {
        match self {
            Self::Distribution => ScoreMode::Distribution,
            Self::Digits => ScoreMode::Digits,
            Self::Sampled => ScoreMode::Sampled,
            Self::Reasoned => ScoreMode::Reasoned,
        }
    }
}

/// A request of the judge protocol.
pub(super) fn scoring(model: &str, prompt: String, mode: Mode, thought: u32) -> CreateChatCompletionRequest {
    let logprobs = mode.wants_logprobs();
    #[expect(deprecated, reason = "not every server supports the newer names of these parameters")]
    CreateChatCompletionRequest {
        model: model.to_owned(),
        messages: vec![user(prompt)],
        max_tokens: Some(mode.max_tokens(thought)),
        temperature: Some(0.0),
        logprobs: logprobs.then_some(true),
        top_logprobs: logprobs.then_some(20),
        seed: Some(0),
        ..Default::default()
    }
}

pub(crate) fn user(text: String) -> ChatCompletionRequestMessage {
    ChatCompletionRequestUserMessage::from(text).into()
}

/// A text on one line, shortened.
pub(super) fn snippet(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.is_empty() {
        true => "(nothing)".into(),
        false => shortened(&line, 300),
    }
}

/// The approximate number of tokens of a prompt: four letters per token in English, about one character per token in
/// other scripts. Templates add a few.
pub(crate) fn estimated_tokens(text: &str) -> u64 {
    let letters = text.bytes().filter(u8::is_ascii).count() as u64;
    let others = text.chars().filter(|c| !c.is_ascii()).count() as u64;
    letters.div_ceil(4) + others + 8
}
