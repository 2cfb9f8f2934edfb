//! The formats of rows with conversations.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The format of a row with a conversation. It is detected from the row's keys, unless a reader is given one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `messages` (or `conversation`, `conversations`): a list of messages with `role` and `content`.
    Messages,
    /// The same list with ShareGPT's `from` and `value`: `human` is a user, `gpt` an assistant, `function_call` an
    /// assistant's tool call, `observation` a tool's answer.
    #[serde(rename = "sharegpt")]
    ShareGpt,
    /// `instruction`, `input` (or `context`) and `output` (or `response`), and optionally a `history` of pairs. The
    /// user's message is the instruction and the input, separated by a line break.
    Alpaca,
    /// `prompt` and `completion`, each a text or a list of messages. An assistant's messages in the prompt are not
    /// trained.
    PromptCompletion,
    /// Two texts: `question` and `answer`, `question` and `response`, `query` and `response`, `prompt` and `response`, or
    /// `input` and `output`.
    QuestionAnswer,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 5] =
        [Self::Messages, Self::ShareGpt, Self::Alpaca, Self::PromptCompletion, Self::QuestionAnswer];

    /// The name, as in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::ShareGpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::PromptCompletion => "prompt_completion",
            Self::QuestionAnswer => "question_answer",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let name = name.to_ascii_lowercase().replace('-', "_");
        let known = || format!("unknown format {name:?}, expected one of {}", Self::ALL.map(Self::name).join(", "));
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(known)
    }
}

/// The number of conversations in each format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FormatCounts {
    /// [`Format::Messages`].
    pub messages: u64,
    /// [`Format::ShareGpt`].
    pub sharegpt: u64,
    /// [`Format::Alpaca`].
    pub alpaca: u64,
    /// [`Format::PromptCompletion`].
    pub prompt_completion: u64,
    /// [`Format::QuestionAnswer`].
    pub question_answer: u64,
}

impl FormatCounts {
    /// The number of conversations in one format.
    pub fn get(&self, format: Format) -> u64 {
        match format {
            Format::Messages => self.messages,
            Format::ShareGpt => self.sharegpt,
            Format::Alpaca => self.alpaca,
            Format::PromptCompletion => self.prompt_completion,
            Format::QuestionAnswer => self.question_answer,
        }
    }

    pub(super) fn count(&mut self, format: Format) {
        *match format {
            Format::Messages => &mut self.messages,
            Format::ShareGpt => &mut self.sharegpt,
            Format::Alpaca => &mut self.alpaca,
            Format::PromptCompletion => &mut self.prompt_completion,
            Format::QuestionAnswer => &mut self.question_answer,
        } += 1;
    }
}

/// `300 alpaca, 2 messages`.
impl fmt::Display for FormatCounts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Format::ALL.map(|format| (self.get(format), format));
        let shown: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, format)| format!("{count} {format}")).collect();
        out.write_str(&shown.join(", "))
    }
}
