//! What passes bring, and what is known of the answers so far.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use pv_hooks::{Phase, ResidualContext};

use super::{Answer, At};

/// Which tokens of a pass are projected.
#[derive(Debug)]
pub(super) struct Places {
    /// The row of the product, the sequences that it stands for, and where it is in them.
    pub(super) slots: Vec<(usize, Vec<usize>, At)>,
    /// The sequences that begin with this pass.
    pub(super) fresh: Vec<usize>,
    pub(super) phase: Phase,
    /// The positions in `[batch × seq]` that are projected; `None` for all.
    pub(super) gather: Option<Tensor<1, Int>>,
    /// The rows of a product.
    pub(super) rows: usize,
}

/// What is known of a run.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Passes that have not been fetched: their tokens, and one product per layer.
    pub(super) pending: Vec<(Arc<Places>, Vec<Tensor<2>>)>,
    pub(super) answers: BTreeMap<usize, Answer>,
    /// Per sequence with something new, what has been told of it.
    pub(super) told: BTreeMap<usize, Told>,
    pub(super) news: BTreeSet<usize>,
    /// Sequences whose answers have tokens and go on.
    pub(super) open: BTreeSet<usize>,
    /// Sequences whose answers have ended, which has not been told.
    pub(super) ended: BTreeSet<usize>,
    pub(super) seen: bool,
    pub(super) over: bool,
}

/// How many of the prompt's tokens, whether its last one, and how many of the answer's.
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

    /// Takes note of which answers a pass has ended. A decoding pass has a row for every answer that goes on; a whole sequence ends
    /// with the pass that reads it.
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
        let fresh = spans.rows().iter().filter(|row| row.offset == 0).flat_map(|row| row.sequences.clone()).collect();
        let all = spans.batch() * seq;
        // In decoding, rows that stand for no sequence cost less than the selection of the others.
        if seq == 1 {
            slots.iter_mut().zip(&flat).for_each(|(slot, position)| slot.0 = *position as usize);
            return Self { slots, fresh, phase, gather: None, rows: all };
        }
        let rows = flat.len();
        let gather = (rows > 0).then(|| Tensor::from_data(TensorData::new(flat, [rows]), device));
        Self { slots, fresh, phase, gather, rows }
    }

    /// The sequences of which tokens of the answer are read.
    pub(super) fn answering(&self) -> impl Iterator<Item = usize> + '_ {
        let tokens = self.slots.iter().filter(|(_, _, at)| matches!(at, At::Token(_)));
        tokens.flat_map(|(_, sequences, _)| sequences.iter().copied())
    }
}
