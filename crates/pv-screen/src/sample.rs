//! From a conversation to what is screened: prompts and answers in tokens.

use std::fmt;

use pv_model::{
    AddSpecial, CausalLm, Conversation, Message, RenderOptions, Unwritten, UnwrittenPart, alters, answer_span,
    unwritten_parts,
};
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
    /// An answer that is not to be trained: its weight, or its row's, is 0.
    Untrained,
    /// The chat template leaves a part of the conversation out.
    Unwritten {
        /// The first such part.
        part: UnwrittenPart,
    },
    /// The chat template writes other words than the answer holds.
    Altered,
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
            Self::NoAnswer => out.write_str("the conversation has no assistant's answer"),
            Self::EmptyAnswer => out.write_str("the answer is empty"),
            Self::Untrained => out.write_str("the answer is not to be trained: its weight is 0"),
            Self::Unwritten { part } => part.fmt(out),
            Self::Altered => out.write_str("the chat template writes other words than the answer holds"),
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

/// How conversations are read by the model: as in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadingOptions {
    /// Options for the chat template; a conversation's own tools and variables are added.
    pub render: RenderOptions,
    /// How to treat an answer when the template leaves out a part of its conversation: a message of a role that it passes
    /// over, calls of tools, the tools themselves.
    pub unwritten: Unwritten,
    /// How to treat an answer of which the template writes less than it says, such as one whose thought it cuts off.
    pub altered: Unwritten,
}

impl Default for ReadingOptions {
    /// The template's defaults; what it leaves out is not screened, and what it alters is screened as it writes it.
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

/// The tokens of the last message as the answer to those before it, with the chat template's defaults.
///
/// The prompt is what a model is asked with, so that its own answer has the same. The answer is tokenized where it stands in the
/// conversation when that leaves the prompt's tokens as they are, and by itself otherwise (where a token would span both).
///
/// # Errors
/// [`Skip::NoAnswer`], [`Skip::EmptyAnswer`], [`Skip::Untrained`], [`Skip::Unwritten`], [`Skip::Refused`].
pub fn tokens(model: &CausalLm, messages: &[Message]) -> std::result::Result<Tokens, Skip> {
    tokens_with(model, &messages.to_vec().into(), &ReadingOptions::default()).map(|(tokens, _)| tokens)
}

/// As [`tokens`], of a conversation with all that its row says; and what was noticed of it although it is kept.
///
/// # Errors
/// As [`tokens`], and [`Skip::Altered`] where `options` say so.
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
    let refused = |error: pv_model::Error| Skip::Refused { why: error.to_string() };
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
    // A template may trim; and it may write other things than its generation prompt before the answer, and what is said beside
    // the content around it.
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

/// How much an answer counts.
pub(crate) fn weight(conversation: &Conversation, answer: &Message) -> std::result::Result<f64, Skip> {
    let weight = conversation.weight().and_then(|row| Ok(row * answer.weight()?));
    weight.map_err(|why| Skip::Refused { why })
}
