//! Token ids of a forward pass, left-padded, with their roles.

use burn::tensor::{Device, Tensor};
use pv_hooks::tokens::RowSpans;
use pv_hooks::{HookError, TokenSpans};

use crate::ops::{Ragged, Window};

/// A whole sequence: a prompt, the response's own tokens, and the tokens after them (such as an end-of-turn token).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequence<'a> {
    /// The rendered prompt, generation prompt included.
    pub prompt: &'a [u32],
    /// The response's own tokens.
    pub response: &'a [u32],
    /// Tokens after the response, which belong to neither prompt nor response.
    pub rest: &'a [u32],
}

/// Rows of token ids, left-padded to one length.
#[derive(Debug)]
pub struct Batch {
    pub(crate) ids: Vec<u32>,
    pub(crate) spans: TokenSpans,
}

impl Batch {
    /// Prompts for generation. Row `i` represents the sequences `sequences[i]`.
    ///
    /// # Errors
    /// [`HookError::BadSpans`] for a prompt without tokens, for a row without sequences, and when the numbers of
    /// prompts and of lists differ.
    pub fn prompts(prompts: &[&[u32]], sequences: Vec<Vec<usize>>) -> Result<Self, HookError> {
        let rows = prompts.len().min(sequences.len());
        if prompts.len() > rows {
            return Err(HookError::BadSpans { row: rows, reason: "the prompt has no list of sequences" });
        }
        if sequences.len() > rows {
            return Err(HookError::BadSpans { row: rows, reason: "the list of sequences has no prompt" });
        }
        let rows = prompts.iter().zip(sequences).map(|(prompt, sequences)| (vec![*prompt], sequences)).collect();
        Self::padded(rows, |padding, seq, _, sequences| RowSpans::prompt(sequences, padding, seq))
    }

    /// Whole sequences; row `i` is sequence `i`.
    ///
    /// # Errors
    /// [`HookError::BadSpans`] for a sequence without tokens.
    pub fn whole(sequences: &[Sequence<'_>]) -> Result<Self, HookError> {
        let parts = |s: &Sequence<'_>| (s.prompt.len(), s.response.len());
        let lengths: Vec<_> = sequences.iter().map(parts).collect();
        let rows = sequences.iter().enumerate().map(|(i, s)| (vec![s.prompt, s.response, s.rest], vec![i])).collect();
        Self::padded(rows, |padding, _, row, _| RowSpans::whole(row, padding, lengths[row].0, lengths[row].1))
    }

    fn padded(
        rows: Vec<(Vec<&[u32]>, Vec<usize>)>,
        spans: impl Fn(usize, usize, usize, Vec<usize>) -> RowSpans,
    ) -> Result<Self, HookError> {
        let length = |parts: &[&[u32]]| parts.iter().map(|part| part.len()).sum::<usize>();
        let seq = rows.iter().map(|(parts, _)| length(parts)).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows.len() * seq);
        let mut all = Vec::with_capacity(rows.len());
        for (row, (parts, sequences)) in rows.into_iter().enumerate() {
            let padding = seq - length(&parts);
            if padding == seq {
                return Err(HookError::BadSpans { row, reason: "no tokens" });
            }
            // Padding repeats a token of the row: any id is valid, and this one is in the vocabulary if the row's
            // tokens are.
            let filler = parts.iter().find_map(|part| part.first()).copied().unwrap_or(0);
            ids.extend(std::iter::repeat_n(filler, padding));
            ids.extend(parts.iter().flat_map(|part| part.iter()));
            all.push(spans(padding, seq, row, sequences));
        }
        Ok(Self { ids, spans: TokenSpans::new(all, seq)? })
    }

    /// The roles of the tokens.
    pub fn spans(&self) -> &TokenSpans {
        &self.spans
    }

    /// The ids, row after row, padding included.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The residual at the tokens, `[tokens, d_model]`, of one at all positions, `[batch, seq, d_model]`.
    ///
    /// # Panics
    /// If the residual is not one of this batch.
    pub fn without_padding(&self, residual: Tensor<3>) -> Tensor<2> {
        let [batch, seq, d_model] = residual.dims();
        assert_eq!([batch, seq], [self.spans.batch(), self.spans.seq()], "the residual of another batch");
        let packing = self.packing(&residual.device());
        let residual = residual.reshape([batch * seq, d_model]);
        packing.map_or(residual.clone(), |packing| packing.pack(residual))
    }

    /// The inverse of [`without_padding`](Self::without_padding). Padding has the values of a token of its row.
    ///
    /// # Panics
    /// If the residual is not one of this batch.
    pub fn with_padding(&self, residual: Tensor<2>) -> Tensor<3> {
        let (batch, seq, [_, d_model]) = (self.spans.batch(), self.spans.seq(), residual.dims());
        let packing = self.packing(&residual.device());
        packing.map_or(residual.clone(), |packing| packing.unpack(residual)).reshape([batch, seq, d_model])
    }

    /// `None` without padding.
    fn packing(&self, device: &Device) -> Option<Ragged> {
        Ragged::in_order(&Window::whole(&self.spans), 0..self.spans.batch(), 0, device)
    }
}
