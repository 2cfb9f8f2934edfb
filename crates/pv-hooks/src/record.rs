//! A hook that records activations.

mod sums;
mod uploads;

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{DType, Tensor};

use crate::tokens::RowSpans;
use crate::{Capture, Hook, HookError, Layer, LayerSet, ModelShape, Phase, ResidualContext, TokenSpans};
use sums::Sums;
use uploads::Uploads;

/// Records chosen [`Capture`]s at chosen layers for every sequence of a run, in f32 whatever type the model computes
/// in, and without autodiff.
///
/// Means are streaming sums on the device: recording all layers of a batch needs memory in proportion to layers ×
/// sequences × width, independently of the sequences' lengths. On the CPU, tokens are added one by one in their order, so
/// that the sums do not depend on how sequences are divided into passes and rows. Sequences are identified by
/// [`RowSpans::sequences`]. Rows may appear in any order and leave the batch at any time. Padding may contain any finite value;
/// a NaN or an infinity there would spoil the means of its row's sequences.
#[derive(Debug)]
pub struct Recorder {
    layers: LayerSet,
    captures: Vec<Capture>,
    sums: BTreeMap<(Capture, Layer), Sums>,
    pieces: BTreeMap<Layer, BTreeMap<usize, Vec<Tensor<2>>>>,
    uploads: Uploads,
}

impl Recorder {
    /// Creates a recorder of these captures at these layers.
    pub fn new(layers: impl Into<LayerSet>, captures: impl IntoIterator<Item = Capture>) -> Self {
        let mut captures: Vec<_> = captures.into_iter().collect();
        captures.sort();
        captures.dedup();
        Self {
            layers: layers.into(),
            captures,
            sums: BTreeMap::new(),
            pieces: BTreeMap::new(),
            uploads: Uploads::default(),
        }
    }

    /// Discards everything recorded, so that the recorder can be used for another run.
    pub fn clear(&mut self) {
        self.sums.clear();
        self.pieces.clear();
    }

    /// The number of tokens that a capture has summed at a layer, by sequence number. Empty for a capture that was not
    /// recorded, and for [`Capture::Everything`], which sums nothing.
    pub fn counts(&self, capture: &Capture, layer: Layer) -> BTreeMap<usize, usize> {
        self.sums.get(&(capture.clone(), layer)).map_or_else(BTreeMap::new, |sums| sums.counts().collect())
    }

    /// A capture of every sequence at a layer, `[sequences, d_model]` in f32: the means, or the residual at one
    /// position. Row `i` is sequence `i`.
    ///
    /// # Errors
    /// [`HookError::NotRecorded`] when the capture was not requested or no pass reached the layer (and for
    /// [`Capture::Everything`], which [`tokens`](Self::tokens) returns); [`HookError::NoTokens`] when a sequence up to
    /// the greatest number has no such token.
    pub fn get(&self, capture: &Capture, layer: Layer) -> Result<Tensor<2>, HookError> {
        let not_recorded = || HookError::NotRecorded { capture: capture.clone(), layer };
        let sums = self.sums.get(&(capture.clone(), layer)).ok_or_else(not_recorded)?;
        let all: Vec<usize> = sums.counts().map(|(sequence, _)| sequence).collect();
        if all.is_empty() {
            return Err(not_recorded());
        }
        let lacks = |(expected, (sequence, count)): &(usize, (usize, usize))| expected != sequence || *count == 0;
        match (0..).zip(sums.counts()).find(lacks) {
            Some((sequence, _)) => Err(HookError::NoTokens { capture: capture.clone(), sequence }),
            None => self.get_of(capture, layer, &all),
        }
    }

    /// Like [`get`](Self::get), for these sequences in this order: `[sequences.len(), d_model]`. For runs in which some
    /// sequences have no such token, such as empty answers; [`counts`](Self::counts) tells which.
    ///
    /// # Errors
    /// As for [`get`](Self::get), for these sequences only. A sequence that the run did not have has no tokens.
    /// [`HookError::NoSequences`] for an empty list.
    pub fn get_of(&self, capture: &Capture, layer: Layer, sequences: &[usize]) -> Result<Tensor<2>, HookError> {
        let not_recorded = || HookError::NotRecorded { capture: capture.clone(), layer };
        let sums = self.sums.get(&(capture.clone(), layer)).ok_or_else(not_recorded)?;
        if sequences.is_empty() {
            return Err(HookError::NoSequences);
        }
        sums.means(sequences, &mut Uploads::default())
            .map_err(|sequence| HookError::NoTokens { capture: capture.clone(), sequence })
    }

    /// Every token of one sequence at a layer, `[tokens, d_model]` in f32, padding excluded. Needs
    /// [`Capture::Everything`].
    ///
    /// # Errors
    /// [`HookError::NotRecorded`] or [`HookError::NoTokens`].
    pub fn tokens(&self, sequence: usize, layer: Layer) -> Result<Tensor<2>, HookError> {
        let pieces = self.pieces.get(&layer).ok_or(HookError::NotRecorded { capture: Capture::Everything, layer })?;
        match pieces.get(&sequence).filter(|pieces| !pieces.is_empty()) {
            Some(pieces) => Ok(Tensor::cat(pieces.clone(), 0)),
            None => Err(HookError::NoTokens { capture: Capture::Everything, sequence }),
        }
    }

    /// Adds the values, `[batch, seq, width]`, at some tokens of a pass, given as a range of each row's window.
    fn add(
        &mut self,
        key: (Capture, Layer),
        spans: &TokenSpans,
        window: impl Fn(&RowSpans) -> Range<usize>,
        values: impl FnOnce() -> Tensor<3>,
    ) {
        // A prompt's tokens may be in several passes.
        let once = key.0 == Capture::PromptMean;
        self.sums.entry(key).or_default().add(spans, window, once, values, &mut self.uploads);
    }

    fn add_tokens(&mut self, layer: Layer, spans: &TokenSpans, residual: &Tensor<3>) {
        let [_, seq, width] = residual.dims();
        let pieces = self.pieces.entry(layer).or_default();
        for (index, row) in spans.rows().iter().enumerate().filter(|(_, row)| row.padding < seq) {
            let piece = residual.clone().slice([index..index + 1, row.padding..seq, 0..width]);
            let piece = piece.reshape([seq - row.padding, width]);
            for &sequence in &row.sequences {
                pieces.entry(sequence).or_default().push(piece.clone());
            }
        }
    }
}

impl Hook for Recorder {
    fn name(&self) -> String {
        "recorder".to_owned()
    }

    fn layers(&self) -> LayerSet {
        self.layers.clone()
    }

    fn wants(&self, layer: Layer) -> bool {
        self.layers.contains(layer)
    }

    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        if self.layers == LayerSet::none() || self.captures.is_empty() {
            return Err(HookError::NoLayers { hook: self.name() });
        }
        Ok(())
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        let spans = context.spans;
        let inside = |row: &RowSpans| row.prompt_last.is_none() && row.response.is_empty();
        let prefix = context.phase == Phase::Prefill && spans.rows().iter().all(inside);
        let seen = residual.clone().without_autodiff();
        let seen = if seen.dtype() == DType::F32 { seen } else { seen.cast(DType::F32) };
        for capture in self.captures.clone() {
            let key = (capture.clone(), context.layer);
            let one = |position: Option<usize>| position.map_or(0..0, |position| position..position + 1);
            match capture {
                // A shared prefix may represent very many sequences, of which these record nothing there.
                Capture::ResponseMean | Capture::ResponseNorm | Capture::PromptLast if prefix => {}
                Capture::ResponseMean => self.add(key, spans, |row| row.response.clone(), || seen.clone()),
                Capture::PromptMean => self.add(key, spans, |row| row.prompt.clone(), || seen.clone()),
                Capture::PromptLast => self.add(key, spans, |row| one(row.prompt_last), || seen.clone()),
                Capture::ResponseNorm => {
                    let norms = || seen.clone().square().sum_dim(2).sqrt();
                    self.add(key, spans, |row| row.response.clone(), norms);
                }
                Capture::Position(position) => {
                    let found = |row: &RowSpans| (row.padding..spans.seq()).nth(position.checked_sub(row.offset)?);
                    self.add(key, spans, |row| one(found(row)), || seen.clone());
                }
                Capture::Everything => self.add_tokens(context.layer, spans, &seen),
            }
        }
        residual
    }

    fn shares_prefix(&self, _sequences: &[usize]) -> bool {
        !self.captures.iter().any(|capture| matches!(capture, Capture::Position(_) | Capture::Everything))
    }

    fn finish(&mut self) -> Result<(), HookError> {
        let nothing = self.sums.values().all(Sums::is_empty) && self.pieces.values().all(BTreeMap::is_empty);
        if nothing { Err(HookError::NeverFired { hook: self.name() }) } else { Ok(()) }
    }
}
