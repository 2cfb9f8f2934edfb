//! Converts conversations to prompts and answers in tokens.

use std::fmt;

use pv_data::Conversation;
use pv_data::error::with_causes;
use pv_model::chat::{Unwritten, UnwrittenPart, alters, answer_span, unwritten_parts};
use pv_model::tokenizer::AddSpecial;
use pv_model::{CausalLm, Message, RenderOptions};
use serde::{Deserialize, Serialize};

use crate::Result;

/// The answers of a conversation that are screened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turns {
    /// Every assistant turn, each with the messages before it as its prompt.
    #[default]
    Every,
    /// The last assistant turn.
    Last,
}

impl Turns {
    /// The indices of the selected assistant messages.
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

/// The reason why something in a data set was not screened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Skip {
    /// A row is not a conversation.
    BadRow {
        /// The reason.
        why: String,
    },
    /// A file cannot be read, or not to its end.
    BadFile {
        /// The reason.
        why: String,
    },
    /// A conversation has no assistant turn.
    NoAnswer,
    /// An answer is empty.
    EmptyAnswer,
    /// An answer is not trained: its weight, or that of its row, is 0.
    Untrained,
    /// The chat template omits a part of the conversation.
    Unwritten {
        /// The first omitted part.
        part: UnwrittenPart,
    },
    /// The chat template renders other words than the answer has.
    Altered,
    /// Prompt and answer, or prompt and base answer, have too many tokens.
    TooLong {
        /// The number of tokens.
        tokens: usize,
        /// The largest allowed number.
        limit: usize,
    },
    /// The chat template or the tokenizer refuses the messages.
    Refused {
        /// The reason.
        why: String,
    },
}

impl Skip {
    /// A short name, which summaries use.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadRow { .. } => "bad_row",
            Self::BadFile { .. } => "bad_file",
            Self::NoAnswer => "no_answer",
            Self::EmptyAnswer => "empty_answer",
            Self::Untrained => "untrained",
            Self::Unwritten { .. } => "unwritten",
            Self::Altered => "altered",
            Self::TooLong { .. } => "too_long",
            Self::Refused { .. } => "refused",
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRow { why } | Self::BadFile { why } => out.write_str(why),
            Self::NoAnswer => out.write_str("the conversation has no assistant turn"),
            Self::EmptyAnswer => out.write_str("the answer is empty"),
            Self::Untrained => out.write_str("the answer is not trained: its weight is 0"),
            Self::Unwritten { part } => part.fmt(out),
            Self::Altered => out.write_str("the chat template renders the answer incompletely or changed"),
            Self::TooLong { tokens, limit } => write!(out, "it has {tokens} tokens; at most {limit} are allowed"),
            Self::Refused { why } => out.write_str(why),
        }
    }
}

/// A prompt and its answer as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tokens {
    /// The rendered prompt, including the generation prompt.
    pub prompt: Vec<u32>,
    /// The response tokens.
    pub answer: Vec<u32>,
}

/// Options for rendering conversations, the same as in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadingOptions {
    /// Options for the chat template; a conversation's own tools and variables are added.
    pub render: RenderOptions,
    /// How to handle an answer if the template omits a part of its conversation: a message whose role it ignores, tool
    /// calls, or the tools themselves.
    pub unwritten: Unwritten,
    /// How to handle an answer that the template renders incompletely, such as one whose thought it removes.
    pub altered: Unwritten,
}

impl Default for ReadingOptions {
    /// The template's defaults. An answer of whose conversation the template omits a part is skipped; one that the
    /// template changes is screened as rendered.
    fn default() -> Self {
        Self { render: RenderOptions::default(), unwritten: Unwritten::Refuse, altered: Unwritten::Keep }
    }
}

impl ReadingOptions {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The tokens of the prompt of a conversation that ends with an answer.
    pub(crate) fn prompt(&self, model: &CausalLm, conversation: &Conversation) -> Result<Vec<u32>, pv_model::Error> {
        let before = conversation.messages.len().saturating_sub(1);
        let render = RenderOptions { add_generation_prompt: true, ..self.render.of(conversation).closed() };
        model.prompt_with(&conversation.messages[..before], &render)
    }
}

/// Tokenizes the last message as the answer to those before it, with the chat template's defaults.
///
/// The prompt is the one for generation, so that the base answer has the same prompt. The answer is tokenized in the
/// context of the conversation if that does not change the prompt's tokens, and alone otherwise (if a token would span
/// both).
///
/// # Errors
/// [`Skip::NoAnswer`], [`Skip::EmptyAnswer`], [`Skip::Untrained`], [`Skip::Unwritten`], [`Skip::Refused`].
pub fn tokens(model: &CausalLm, messages: &[Message]) -> std::result::Result<Tokens, Skip> {
    tokens_with(model, &messages.to_vec().into(), &ReadingOptions::default()).map(|(tokens, _)| tokens)
}

/// Like [`tokens`], for a conversation with all fields of its row; also returns remarks on an answer that is not
/// skipped.
///
/// # Errors
/// Those of [`tokens`], and [`Skip::Altered`] if `options` request it.
pub fn tokens_with(
    model: &CausalLm,
    conversation: &Conversation,
    options: &ReadingOptions,
) -> std::result::Result<(Tokens, Vec<Skip>), Skip> {
    let messages = &conversation.messages;
    let Some((last, _)) = messages.split_last().filter(|(last, _)| last.role == "assistant") else {
        return Err(Skip::NoAnswer);
    };
    if weight(conversation, last)? == 0.0 {
        return Err(Skip::Untrained);
    }
    if last.is_blank() {
        return Err(Skip::EmptyAnswer);
    }
    let mut noticed = Vec::new();
    let mut notice = |policy: Unwritten, skip: Skip| match policy {
        Unwritten::Refuse => Err(skip),
        Unwritten::Keep => {
            noticed.push(skip);
            Ok(())
        }
    };
    let render = options.render.of(conversation).closed();
    let (template, tokenizer) = (model.chat_template().map_err(refused)?, model.tokenizer().map_err(refused)?);
    let prompt = RenderOptions { add_generation_prompt: true, ..render.clone() };
    let asked = template.render(&messages[..messages.len() - 1], &prompt).map_err(refused)?.text;
    let whole = template.render(messages, &render).map_err(refused)?.text;
    let written = |content: &str| {
        let rest = whole.strip_prefix(asked.as_str()).filter(|rest| rest.starts_with(content))?;
        Some(asked.len()..asked.len() + content.len().min(rest.len()))
    };
    // A template may trim the answer. It may also render other text than its generation prompt before the answer, and
    // render further fields of the message around the content.
    let plain = last.fields.is_empty() && last.content.is_text();
    let place = match plain.then(|| written(&last.content).or_else(|| written(last.content.trim()))).flatten() {
        Some(place) => place,
        None => answer_span(template, messages, &render).map_err(refused)?.1,
    };
    for part in unwritten_parts(template, messages, &render, &whole).map_err(refused)? {
        notice(options.unwritten, Skip::Unwritten { part })?;
    }
    if whole[place.clone()].trim().is_empty() {
        return Err(Skip::EmptyAnswer);
    }
    if alters(last, &whole[place.clone()]) {
        notice(options.altered, Skip::Altered)?;
    }
    let encoded = || -> Result<Tokens, pv_model::Error> {
        let prompt = tokenizer.encode_rendered(&asked)?;
        let together = tokenizer.encode_with_offsets(&whole, AddSpecial::No)?;
        let words = together.tokens_touching(&place);
        let answer = match together.ids[..words.start] == prompt {
            true => together.ids[words].to_vec(),
            false => tokenizer.encode(&whole[place.clone()], AddSpecial::No)?,
        };
        Ok(Tokens { prompt, answer })
    };
    let tokens = encoded().map_err(refused)?;
    if tokens.prompt.is_empty() {
        return Err(Skip::Refused { why: "the prompt has no tokens".to_owned() });
    }
    if tokens.answer.is_empty() { Err(Skip::EmptyAnswer) } else { Ok((tokens, noticed)) }
}

/// An answer for which the template or the tokenizer failed.
fn refused(error: impl std::error::Error) -> Skip {
    Skip::Refused { why: with_causes(&error) }
}

/// The weight of an answer in training.
pub(crate) fn weight(conversation: &Conversation, answer: &Message) -> std::result::Result<f64, Skip> {
    let weight = conversation.weight().and_then(|row| Ok(row * answer.weight()?));
    weight.map_err(refused)
}
