//! Readings: projections at one token, and those of a whole answer.

use ndarray::{Array2, ArrayView1, ArrayView2};
use pv_vectors::serde_rows;
use serde::{Deserialize, Serialize};

use super::watch::Watch;
use crate::Result;
use crate::error::MonitorError;

/// The kind of activation that is projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One token of the prompt, including the last one; read on request
    /// ([`Monitor::with_prompt_tokens`](super::Monitor::with_prompt_tokens)).
    PromptToken,
    /// The prompt's last token, before the answer begins.
    PromptLast,
    /// One token of the answer.
    Token,
    /// The mean over all tokens of the answer, available when the answer has ended.
    ResponseMean,
}

impl Kind {
    /// All kinds.
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

/// The position of a reading in a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// A token of the prompt, from 0.
    PromptToken(usize),
    /// The prompt's last token.
    PromptLast,
    /// A token of the answer, from 0.
    Token(usize),
    /// All tokens of the answer.
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
#[non_exhaustive]
pub struct Reading {
    /// The index of the sequence in its run.
    pub sequence: usize,
    /// The position in the sequence.
    pub at: At,
    /// The projections, `[directions]`, in activation units, in the order of the watched directions.
    #[serde(with = "super::number::list")]
    pub values: Vec<f32>,
}

impl Reading {
    /// Refuses a reading with another number of directions, or with values that are not finite.
    pub(super) fn check(&self, watches: &[Watch]) -> Result<()> {
        let (expected, found) = (watches.len(), self.values.len());
        if expected != found {
            return Err(MonitorError::OtherReadings { expected, found }.into());
        }
        match self.values.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(i) => {
                let (trait_name, layer) = (watches[i].trait_name.clone(), watches[i].layer());
                Err(MonitorError::NotFinite { trait_name, layer }.into())
            }
        }
    }
}

/// The projections of one sequence, in activation units.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// `[tokens, directions]`; empty without tokens.
    #[serde(default, skip_serializing_if = "Array2::is_empty", with = "serde_rows")]
    prompt_tokens: Array2<f32>,
    prompt_last: Option<Vec<f32>>,
    /// `[tokens, directions]`; empty without tokens.
    #[serde(with = "serde_rows")]
    tokens: Array2<f32>,
    /// The sums of the tokens' projections, `[directions]`, in f64.
    sums: Vec<f64>,
}

impl Answer {
    /// The projections of the prompt's last token, `[directions]`; `None` if the run did not read the prompt.
    pub fn prompt_last(&self) -> Option<&[f32]> {
        self.prompt_last.as_deref()
    }

    /// The projections of the prompt's tokens, `[tokens, directions]`. Empty unless requested.
    pub fn prompt_tokens(&self) -> ArrayView2<'_, f32> {
        self.prompt_tokens.view()
    }

    /// The projections of the answer's tokens, `[tokens, directions]`.
    pub fn tokens(&self) -> ArrayView2<'_, f32> {
        self.tokens.view()
    }

    /// The means over the answer's tokens so far, `[directions]`; `None` before the first.
    pub fn mean(&self) -> Option<Vec<f32>> {
        let n = self.tokens.nrows() as f64;
        (n > 0.0).then(|| self.sums.iter().map(|sum| (sum / n) as f32).collect())
    }

    /// All readings of the answer: the prompt's tokens if requested, its last token, the answer's tokens, their mean.
    pub fn readings(&self, sequence: usize) -> impl Iterator<Item = Reading> + '_ {
        let prompt = self.prompt_tokens.outer_iter().enumerate().map(|(i, row)| (At::PromptToken(i), row.to_vec()));
        let prompt_last = self.prompt_last.iter().cloned().map(|values| (At::PromptLast, values));
        let tokens = self.tokens.outer_iter().enumerate().map(|(i, row)| (At::Token(i), row.to_vec()));
        let mean = self.mean().into_iter().map(|values| (At::ResponseMean, values));
        prompt.chain(prompt_last).chain(tokens).chain(mean).map(move |(at, values)| Reading { sequence, at, values })
    }

    /// Adds a reading; means are not stored.
    pub(super) fn add(&mut self, at: At, values: Vec<f32>) {
        match at {
            At::PromptToken(_) => push(&mut self.prompt_tokens, &values),
            At::PromptLast => self.prompt_last = Some(values),
            At::Token(_) => {
                self.sums.resize(values.len(), 0.0);
                self.sums.iter_mut().zip(&values).for_each(|(sum, value)| *sum += f64::from(*value));
                push(&mut self.tokens, &values);
            }
            At::ResponseMean => {}
        }
    }
}

/// Adds a row to a table. The first row sets the width.
fn push(table: &mut Array2<f32>, row: &[f32]) {
    if table.is_empty() {
        *table = Array2::zeros((0, row.len()));
    }
    let pushed = table.push_row(ArrayView1::from(row));
    debug_assert!(pushed.is_ok(), "a monitor's readings are all on the same directions");
}
