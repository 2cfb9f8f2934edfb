//! The projection difference of a batch: columns in, columns out.

use std::ops::ControlFlow;

use pv_model::{CausalLm, Sequence};
use pv_vectors::{Overlong, Pooling, ScanOptions, Scanned, UnitDirection, scan};

use crate::{Error, Result};

/// The rows of a batch, as columns of token ids.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows<'a> {
    /// The rendered prompts, generation prompts included.
    pub prompts: &'a [&'a [u32]],
    /// The data set's answers.
    pub answers: &'a [&'a [u32]],
    /// The base model's own answers, where there are any; either empty or one entry per row.
    pub base: &'a [Option<&'a [u32]>],
}

impl Rows<'_> {
    /// How many there are.
    pub(crate) fn check(&self) -> Result<usize> {
        let (n, answers, base) = (self.prompts.len(), self.answers.len(), self.base.len());
        if answers != n || !(base == 0 || base == n) {
            return Err(Error::bad(format!("{n} prompts, {answers} answers and {base} base answers are no table")));
        }
        Ok(n)
    }
}

/// How a batch is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// How many tokens are read in one pass, padding included; what is longer is read alone.
    pub batch_tokens: usize,
    /// How many tokens a prompt and an answer may have together; `None` for as many as the model has positions. Rows that
    /// have more get no projections.
    pub max_tokens: Option<usize>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { batch_tokens: 4096, max_tokens: None }
    }
}

/// The columns of one direction, one entry per row. An entry is `None` where the row has no such tokens, or too many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// `a(x, y)·v̂` of the data set's answer, in activation units.
    pub answer: Vec<Option<f32>>,
    /// `a(x, y′)·v̂` of the base model's answer.
    pub base: Vec<Option<f32>>,
    /// `p(x)·v̂` of the prompt's last token.
    pub prompt_last: Vec<Option<f32>>,
}

impl Difference {
    /// `ΔP`: the answer's projection minus the base answer's, where both are known.
    pub fn delta(&self) -> Vec<Option<f64>> {
        let delta = |(answer, base): (&Option<f32>, &Option<f32>)| Some(f64::from((*answer)?) - f64::from((*base)?));
        self.answer.iter().zip(&self.base).map(delta).collect()
    }
}

/// The projections of every row on every direction, in the directions' order: `ΔP = (a(x, y) − a(x, y′))·v̂`
/// (method.md §8).
///
/// A pure function of its arguments: it starts no thread, opens no file and reports to nobody, so that it can be called
/// from wherever rows come from, a query engine for instance. Passes stop at the highest layer of the directions, and
/// rows of similar length share one. The directions may be of several traits and layers.
///
/// # Errors
/// Columns of different lengths, no directions, directions of another width or of layers that the model lacks, ids
/// beyond the vocabulary.
pub fn difference(
    model: &CausalLm,
    rows: &Rows<'_>,
    directions: &[UnitDirection],
    options: &ReadOptions,
) -> Result<Vec<Difference>> {
    let n = rows.check()?;
    let Rows { prompts, answers, base } = *rows;
    // The answers first, the base answers behind them; rows without any token are left out.
    let sequence = |row: usize, response| Sequence { prompt: prompts[row], response, rest: &[] };
    let answered = (0..n).map(|row| (row, false, sequence(row, answers[row])));
    let own = (0..base.len()).filter_map(|row| Some((row, true, sequence(row, base[row]?))));
    let (places, sequences): (Vec<_>, Vec<Sequence<'_>>) = answered
        .chain(own)
        .filter(|(_, _, sequence)| !(sequence.prompt.is_empty() && sequence.response.is_empty()))
        .map(|(row, base, sequence)| ((row, base), sequence))
        .unzip();
    let empty = || Difference { answer: vec![None; n], base: vec![None; n], prompt_last: vec![None; n] };
    let mut columns: Vec<Difference> = directions.iter().map(|_| empty()).collect();
    let scan_options = ScanOptions {
        poolings: vec![Pooling::ResponseMean, Pooling::PromptLast],
        batch_tokens: options.batch_tokens,
        max_tokens: options.max_tokens,
        overlong: Overlong::Skip,
        ..ScanOptions::default()
    };
    let mut take = |scanned: &Scanned| {
        let (row, base) = places[scanned.item];
        for (number, column) in columns.iter_mut().enumerate() {
            let response = scanned.projection(Pooling::ResponseMean, number);
            if base {
                column.base[row] = response;
            } else {
                column.answer[row] = response;
                column.prompt_last[row] = scanned.projection(Pooling::PromptLast, number);
            }
        }
    };
    scan(model, &sequences, directions, &scan_options, |scanned, _| {
        take(scanned);
        ControlFlow::Continue(())
    })?;
    Ok(columns)
}
