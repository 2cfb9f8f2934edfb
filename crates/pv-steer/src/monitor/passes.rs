//! The places that a pass projects, and the state of the answers so far.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use pv_hooks::tokens::RowSpans;
use pv_hooks::{Phase, ResidualContext};

use super::reading::{Answer, At};

/// The tokens of a pass that are projected.
#[derive(Debug)]
pub(super) struct Places {
    /// The row of the product, the sequences that it stands for, and the place in them.
    pub(super) slots: Vec<(usize, Vec<usize>, At)>,
    /// The sequences that start in this pass.
    pub(super) fresh: Vec<usize>,
    pub(super) phase: Phase,
    /// The positions in `[batch × seq]` that are projected; `None` for all.
    pub(super) gather: Option<Tensor<1, Int>>,
    /// The number of rows of a product.
    pub(super) rows: usize,
}

/// The state of a run.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Passes that have not been fetched: their places, and one product per layer.
    pub(super) pending: Vec<(Arc<Places>, Vec<Tensor<2>>)>,
    pub(super) answers: BTreeMap<usize, Answer>,
    /// The readings already reported, for each sequence with new ones.
    pub(super) told: BTreeMap<usize, Told>,
    pub(super) news: BTreeSet<usize>,
    /// Sequences whose answers have tokens and have not ended.
    pub(super) open: BTreeSet<usize>,
    /// Sequences whose answers have ended, which has not been reported.
    pub(super) ended: BTreeSet<usize>,
    pub(super) seen: bool,
    pub(super) over: bool,
}

/// The reported number of prompt tokens, whether the last prompt token was reported, and the number of answer tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) prompt_tokens: usize,
    pub(super) prompt_last: bool,
    pub(super) tokens: usize,
}

impl State {
    pub(super) fn forget(&mut self, sequence: usize) {
        self.told.remove(&sequence);
        self.news.remove(&sequence);
        self.open.remove(&sequence);
        self.ended.remove(&sequence);
    }

    /// Records the answers that end with a pass. In decoding these are the answers without a row, since a decoding pass
    /// has a row for every answer that continues; a whole sequence ends with the pass that reads it.
    pub(super) fn close(&mut self, places: &Places) {
        let here: BTreeSet<usize> = places.answering().collect();
        let over: Vec<usize> = match places.phase {
            Phase::Prefill => Vec::new(),
            Phase::Decode => self.open.difference(&here).copied().collect(),
            Phase::Full => here.iter().copied().collect(),
        };
        over.into_iter().for_each(|sequence| self.end(sequence));
    }

    pub(super) fn end(&mut self, sequence: usize) {
        if self.open.remove(&sequence) {
            self.ended.insert(sequence);
            self.news.insert(sequence);
        }
    }
}

impl Places {
    pub(super) fn new(context: &ResidualContext<'_>, prompt_tokens: bool, device: &Device) -> Self {
        let (spans, phase) = (context.spans, context.phase);
        let seq = spans.seq();
        let (mut slots, mut flat) = (Vec::new(), Vec::new());
        for (row, here) in spans.rows().iter().enumerate() {
            let prompt = if prompt_tokens { here.prompt.clone() } else { 0..0 };
            let prompt = prompt.map(|position| (position, At::PromptToken(here.offset + position - here.padding)));
            let prompt_last = here.prompt_last.map(|position| (position, At::PromptLast));
            let response = here.response.clone().enumerate();
            let response = response.map(|(i, position)| (position, At::Token(here.response_offset + i)));
            for (position, at) in prompt.chain(prompt_last).chain(response) {
                flat.push((row * seq + position) as i64);
                slots.push((flat.len() - 1, here.sequences.clone(), at));
            }
        }
        // After a shared prefix, nothing of a sequence is seen before the prompt's last token.
        let begins = |row: &&RowSpans| row.offset == 0 || !prompt_tokens && row.prompt_last.is_some();
        let fresh = spans.rows().iter().filter(begins).flat_map(|row| row.sequences.clone()).collect();
        let all = spans.batch() * seq;
        // In decoding, rows that stand for no sequence cost less than selecting the others.
        if seq == 1 {
            slots.iter_mut().zip(&flat).for_each(|(slot, position)| slot.0 = *position as usize);
            return Self { slots, fresh, phase, gather: None, rows: all };
        }
        let rows = flat.len();
        let gather = (rows > 0).then(|| Tensor::from_data(TensorData::new(flat, [rows]), device));
        Self { slots, fresh, phase, gather, rows }
    }

    /// The sequences of which this pass reads answer tokens.
    pub(super) fn answering(&self) -> impl Iterator<Item = usize> + '_ {
        let tokens = self.slots.iter().filter(|(_, _, at)| matches!(at, At::Token(_)));
        tokens.flat_map(|(_, sequences, _)| sequences.iter().copied())
    }
}
