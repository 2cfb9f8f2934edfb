//! What is read: projections at one token, and those of a whole answer.

use serde::{Deserialize, Serialize};

use super::{Error, Result, Watch};

/// Which activation is projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One token of the prompt, the last one included; read where it was asked for
    /// ([`Monitor::with_prompt_tokens`](super::Monitor::with_prompt_tokens)).
    PromptToken,
    /// The prompt's last token: what is known before the answer begins.
    PromptLast,
    /// One token of the answer.
    Token,
    /// The mean over all of the answer's tokens, which is read when the answer has ended.
    ResponseMean,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::PromptToken, Self::PromptLast, Self::Token, Self::ResponseMean];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::PromptToken => "prompt_token",
            Self::PromptLast => "prompt_last",
            Self::Token => "token",
            Self::ResponseMean => "response_mean",
        }
    }
}

/// Where in a sequence a reading was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// At this token of the prompt, from 0.
    PromptToken(usize),
    /// At the prompt's last token.
    PromptLast,
    /// At this token of the answer, from 0.
    Token(usize),
    /// Over all of the answer's tokens.
    ResponseMean,
}

impl At {
    /// The kind of activation.
    pub fn kind(self) -> Kind {
        match self {
            Self::PromptToken(_) => Kind::PromptToken,
            Self::PromptLast => Kind::PromptLast,
            Self::Token(_) => Kind::Token,
            Self::ResponseMean => Kind::ResponseMean,
        }
    }
}

/// The projections of one activation on every watched direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The sequence's number in its run.
    pub sequence: usize,
    /// Where in the sequence.
    pub at: At,
    /// The projections, in activation units, in the order of the watched directions.
    #[serde(with = "super::number::list")]
    pub values: Vec<f32>,
}

impl Reading {
    /// Refuses a reading of other directions, and one that is not finite.
    pub(super) fn check(&self, watches: &[Watch]) -> Result<()> {
        let (expected, found) = (watches.len(), self.values.len());
        if expected != found {
            return Err(Error::OtherReadings { expected, found });
        }
        match self.values.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(i) => {
                let (trait_name, layer) = (watches[i].trait_name.clone(), watches[i].layer());
                Err(Error::NotFinite { trait_name, layer })
            }
        }
    }
}

/// The projections of one sequence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    prompt_tokens: Vec<Vec<f32>>,
    prompt_last: Option<Vec<f32>>,
    tokens: Vec<Vec<f32>>,
    /// Of the tokens' projections, in f64.
    sums: Vec<f64>,
}

impl Answer {
    /// The projections of the prompt's last token on every direction; `None` when the run did not read the prompt.
    pub fn prompt_last(&self) -> Option<&[f32]> {
        self.prompt_last.as_deref()
    }

    /// The projections of the prompt's tokens, in order: per token, on every direction. Empty unless they were asked for.
    pub fn prompt_tokens(&self) -> &[Vec<f32>] {
        &self.prompt_tokens
    }

    /// The projections of the answer's tokens, in order: per token, on every direction.
    pub fn tokens(&self) -> &[Vec<f32>] {
        &self.tokens
    }

    /// The means over the answer's tokens so far; `None` before the first.
    pub fn mean(&self) -> Option<Vec<f32>> {
        let n = self.tokens.len() as f64;
        (n > 0.0).then(|| self.sums.iter().map(|sum| (sum / n) as f32).collect())
    }

    /// All readings of the answer: the prompt's tokens where they were asked for, its last token, the answer's tokens, their
    /// mean.
    pub fn readings(&self, sequence: usize) -> impl Iterator<Item = Reading> + '_ {
        let prompt = self.prompt_tokens.iter().enumerate().map(|(i, values)| (At::PromptToken(i), values.clone()));
        let prompt_last = self.prompt_last.iter().cloned().map(|values| (At::PromptLast, values));
        let tokens = self.tokens.iter().enumerate().map(|(i, values)| (At::Token(i), values.clone()));
        let mean = self.mean().into_iter().map(|values| (At::ResponseMean, values));
        prompt.chain(prompt_last).chain(tokens).chain(mean).map(move |(at, values)| Reading { sequence, at, values })
    }

    /// Takes a reading in; means are not stored.
    pub(super) fn add(&mut self, at: At, values: Vec<f32>) {
        match at {
            At::PromptToken(_) => self.prompt_tokens.push(values),
            At::PromptLast => self.prompt_last = Some(values),
            At::Token(_) => {
                self.sums.resize(values.len(), 0.0);
                self.sums.iter_mut().zip(&values).for_each(|(sum, value)| *sum += f64::from(*value));
                self.tokens.push(values);
            }
            At::ResponseMean => {}
        }
    }
}
