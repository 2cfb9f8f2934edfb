//! The projection difference of a batch of rows, from columns to columns.

use std::ops::ControlFlow;

use pv_model::CausalLm;
use pv_model::batch::Sequence;
use pv_vectors::UnitDirection;
use pv_vectors::scan::{Overlong, ScanOptions, Scanned, scan};
use pv_vectors::vector::Pooling;

use crate::{Error, Result};

/// The rows of a batch, as columns of token ids. All columns have the same length, `[rows]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows<'a> {
    /// The rendered prompts, including generation prompts.
    pub prompts: &'a [&'a [u32]],
    /// The data set's answers.
    pub answers: &'a [&'a [u32]],
    /// The base model's own answers, if there are any; either an empty column or one entry per row.
    pub base: &'a [Option<&'a [u32]>],
}

impl Rows<'_> {
    /// Checks the columns, and returns the number of rows.
    pub(crate) fn check(&self) -> Result<usize> {
        let (n, answers, base) = (self.prompts.len(), self.answers.len(), self.base.len());
        if answers != n || !(base == 0 || base == n) {
            return Err(Error::Columns { prompts: n, answers, base });
        }
        Ok(n)
    }
}

/// Options for reading a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// The number of tokens that are read in one pass, including padding; a longer row is read alone.
    pub batch_tokens: usize,
    /// The maximum number of tokens of a prompt and an answer together; `None` for the model's number of positions.
    /// Longer rows have no projections.
    pub max_tokens: Option<usize>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { batch_tokens: 4096, max_tokens: None }
    }
}

/// The columns of one direction, `[rows]`, in activation units. An entry is `None` if the row has no such tokens, or
/// too many.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// `a(x, y)·v̂` of the data set's answer.
    pub answer: Vec<Option<f32>>,
    /// `a(x, y′)·v̂` of the base model's answer.
    pub base: Vec<Option<f32>>,
    /// `p(x)·v̂` of the prompt's last token.
    pub prompt_last: Vec<Option<f32>>,
}

impl Difference {
    /// `ΔP` in activation units, `[rows]`: the answer's projection minus the base answer's; `None` if either is
    /// unknown.
    pub fn delta(&self) -> Vec<Option<f64>> {
        let delta = |(answer, base): (&Option<f32>, &Option<f32>)| Some(f64::from((*answer)?) - f64::from((*base)?));
        self.answer.iter().zip(&self.base).map(delta).collect()
    }
}

/// The projections of every row on every direction, in the order of the directions, from which `ΔP = (a(x, y) − a(x,
/// y′))·v̂` follows (method.md §8).
///
/// This is a pure function of its arguments: it starts no threads, opens no files and reports no progress, so it can be
/// called from any source of rows, such as a query engine. Passes stop at the highest layer of the directions, and rows
/// of similar length share a pass. The directions may belong to several traits and layers.
///
/// # Errors
/// Columns of different lengths, no directions, directions of another width or at layers that the model does not have,
/// ids beyond the vocabulary.
pub fn difference(
    model: &CausalLm,
    rows: &Rows<'_>,
    directions: &[UnitDirection],
    options: &ReadOptions,
) -> Result<Vec<Difference>> {
    let n = rows.check()?;
    let Rows { prompts, answers, base } = *rows;
    // The answers come first, then the base answers; rows without tokens are not read.
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
