//! From a conversation to what is screened: prompts and answers in tokens.

use std::fmt;

use pv_model::{AddSpecial, CausalLm, Conversation, Message, RenderOptions, assistant_spans};
use serde::{Deserialize, Serialize};

use crate::Result;

/// Which of a conversation's answers are screened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turns {
    /// Every assistant turn, each given what came before it.
    #[default]
    Every,
    /// The last assistant turn.
    Last,
}

impl Turns {
    /// The indices of the chosen assistant messages.
    pub fn of(self, conversation: &Conversation) -> Vec<usize> {
        let mut turns: Vec<usize> = (0..conversation.messages.len())
            .filter(|&index| conversation.messages[index].role == "assistant")
            .collect();
        if self == Self::Last {
            turns.drain(..turns.len().saturating_sub(1));
        }
        turns
    }
}

/// Why something in a data set was not screened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Skip {
    /// A row that is no conversation.
    BadRow {
        /// What is wrong with it.
        why: String,
    },
    /// A file that cannot be read, or not to its end.
    BadFile {
        /// What is wrong with it.
        why: String,
    },
    /// A conversation without an assistant's answer.
    NoAnswer,
    /// An answer without a word.
    EmptyAnswer,
    /// Prompt and answer, or prompt and base answer, have more tokens than are allowed.
    TooLong {
        /// How many they have.
        tokens: usize,
        /// How many they may have.
        limit: usize,
    },
    /// The chat template or the tokenizer refuses the messages.
    Refused {
        /// What it says.
        why: String,
    },
}

impl Skip {
    /// A short name, under which summaries count.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadRow { .. } => "bad_row",
            Self::BadFile { .. } => "bad_file",
            Self::NoAnswer => "no_answer",
            Self::EmptyAnswer => "empty_answer",
            Self::TooLong { .. } => "too_long",
            Self::Refused { .. } => "refused",
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRow { why } | Self::BadFile { why } => out.write_str(why),
            Self::NoAnswer => out.write_str("the conversation has no assistant's answer"),
            Self::EmptyAnswer => out.write_str("the answer is empty"),
            Self::TooLong { tokens, limit } => write!(out, "it has {tokens} tokens, {limit} are allowed"),
            Self::Refused { why } => out.write_str(why),
        }
    }
}

/// A prompt and the answer to it, in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The rendered prompt, generation prompt included.
    pub prompt: Vec<u32>,
    /// The answer's own tokens.
    pub answer: Vec<u32>,
}

/// The tokens of the last message as the answer to those before it.
///
/// The prompt is what a model is asked with, so that its own answer has the same. The answer is tokenized where it stands in the
/// conversation when that leaves the prompt's tokens as they are, and by itself otherwise (where a token would span both).
///
/// # Errors
/// [`Skip::NoAnswer`], [`Skip::EmptyAnswer`], [`Skip::Refused`].
pub fn tokens(model: &CausalLm, messages: &[Message]) -> std::result::Result<Tokens, Skip> {
    let Some((last, before)) = messages.split_last().filter(|(last, _)| last.role == "assistant") else {
        return Err(Skip::NoAnswer);
    };
    if last.content.trim().is_empty() {
        return Err(Skip::EmptyAnswer);
    }
    let encoded = || -> Result<Tokens, pv_model::Error> {
        let (template, tokenizer) = (model.chat_template()?, model.tokenizer()?);
        let asked = template.render(before, &RenderOptions::prompt())?.text;
        let whole = template.render(messages, &RenderOptions::default())?.text;
        let written = |content: &str| {
            let rest = whole.strip_prefix(asked.as_str()).filter(|rest| rest.starts_with(content))?;
            Some(asked.len()..asked.len() + content.len().min(rest.len()))
        };
        // A template may trim; and it may write other things than its generation prompt before the answer.
        let span = match written(&last.content).or_else(|| written(last.content.trim())) {
            Some(span) => span,
            None => assistant_spans(template, messages, &RenderOptions::default())?.pop().unwrap_or_default(),
        };
        let prompt = tokenizer.encode_rendered(&asked)?;
        let together = tokenizer.encode_with_offsets(&whole, AddSpecial::No)?;
        let words = together.tokens_touching(&span);
        let answer = match together.ids[..words.start] == prompt {
            true => together.ids[words].to_vec(),
            false => tokenizer.encode(&whole[span], AddSpecial::No)?,
        };
        Ok(Tokens { prompt, answer })
    };
    let tokens = encoded().map_err(|error| Skip::Refused { why: error.to_string() })?;
    if tokens.prompt.is_empty() {
        return Err(Skip::Refused { why: "the prompt has no tokens".to_owned() });
    }
    if tokens.answer.is_empty() { Err(Skip::EmptyAnswer) } else { Ok(tokens) }
}
