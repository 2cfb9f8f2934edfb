//! A hook that records activations.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};

use crate::tokens::RowSpans;
use crate::{Capture, Hook, HookError, Layer, LayerSet, ModelShape, Phase, ResidualContext, TokenSet, TokenSpans};

/// Records chosen [`Capture`]s at chosen layers for every sequence of a run, in f32 whatever type the model computes
/// in, and without autodiff.
///
/// Means are streaming sums on the device: recording all layers of a batch needs memory in proportion to layers ×
/// sequences × width, independently of the sequences' lengths. Sequences are identified by [`RowSpans::sequences`].
/// Rows may appear in any order and leave the batch at any time. Padding may contain any finite value; a NaN or an
/// infinity there would spoil the means of its row's sequences.
#[derive(Debug)]
pub struct Recorder {
    layers: LayerSet,
    captures: Vec<Capture>,
    sums: BTreeMap<(Capture, Layer), Sums>,
    pieces: BTreeMap<Layer, BTreeMap<usize, Vec<Tensor<2>>>>,
}

/// The sums of one capture at one layer. Sequences get rows in the order of their first appearance, so that memory
/// depends on their number and not on their identifiers.
#[derive(Debug, Default)]
struct Sums {
    /// The row of each sequence.
    rows: BTreeMap<usize, usize>,
    /// The number of tokens in each row's sum.
    counts: Vec<usize>,
    /// `[rows, d_model]`, possibly with spare rows; `None` before the first token.
    sums: Option<Tensor<2>>,
}

impl Sums {
    /// The row of a sequence; a new row for a new sequence.
    fn row(&mut self, sequence: usize) -> usize {
        let row = *self.rows.entry(sequence).or_insert(self.counts.len());
        if row == self.counts.len() {
            self.counts.push(0);
        }
        row
    }
}

impl Recorder {
    /// Creates a recorder of these captures at these layers.
    pub fn new(layers: impl Into<LayerSet>, captures: impl IntoIterator<Item = Capture>) -> Self {
        let mut captures: Vec<_> = captures.into_iter().collect();
        captures.sort();
        captures.dedup();
        Self { layers: layers.into(), captures, sums: BTreeMap::new(), pieces: BTreeMap::new() }
    }

    /// Discards everything recorded, so that the recorder can be used for another run.
    pub fn clear(&mut self) {
        self.sums.clear();
        self.pieces.clear();
    }

    /// The number of tokens that a capture has summed at a layer, by sequence number. Empty for a capture that was not
    /// recorded, and for [`Capture::Everything`], which sums nothing.
    pub fn counts(&self, capture: &Capture, layer: Layer) -> BTreeMap<usize, usize> {
        let Some(sums) = self.sums.get(&(capture.clone(), layer)) else { return BTreeMap::new() };
        sums.rows.iter().map(|(sequence, row)| (*sequence, sums.counts[*row])).collect()
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
        if sums.rows.is_empty() {
            return Err(not_recorded());
        }
        let lacks =
            |(expected, (sequence, row)): &(usize, (&usize, &usize))| expected != *sequence || sums.counts[**row] == 0;
        match (0..).zip(&sums.rows).find(lacks) {
            Some((sequence, _)) => Err(HookError::NoTokens { capture: capture.clone(), sequence }),
            None => self.get_of(capture, layer, &sums.rows.keys().copied().collect::<Vec<_>>()),
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
        let Sums { rows, counts, sums } = self.sums.get(&(capture.clone(), layer)).ok_or_else(not_recorded)?;
        let place = |&sequence: &usize| match rows.get(&sequence).map(|row| (*row, counts[*row])) {
            Some((row, n)) if n > 0 => Ok((row, n as f32)),
            _ => Err(HookError::NoTokens { capture: capture.clone(), sequence }),
        };
        if sequences.is_empty() {
            return Err(HookError::NoSequences);
        }
        let places = sequences.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let (places, divisors): (Vec<usize>, Vec<f32>) = places.into_iter().unzip();
        let sums = sums.as_ref().ok_or_else(not_recorded)?;
        let device = sums.device();
        let in_order = places.iter().copied().eq(0..sums.dims()[0]);
        let sums = if in_order { sums.clone() } else { sums.clone().select(0, indices(&places, &device)) };
        if divisors.iter().all(|&n| n == 1.0) {
            return Ok(sums);
        }
        let data = TensorData::new(divisors, [sequences.len(), 1]);
        Ok(sums / Tensor::from_data(data, (&device, DType::F32)))
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

    /// Adds one value per row of the batch, `[batch, d_model]`, to the sums of the row's sequences. Values of rows with
    /// a count of 0 are ignored, but their sequences are registered, so that a lack of tokens is reported as an error.
    fn add(
        &mut self,
        key: (Capture, Layer),
        spans: &TokenSpans,
        row_counts: &[usize],
        values: impl FnOnce() -> Tensor<2>,
    ) {
        let held = self.sums.entry(key).or_default();
        let mut targets = Vec::new();
        let mut sources = Vec::new();
        for (index, row) in spans.rows().iter().enumerate() {
            for &sequence in &row.sequences {
                let place = held.row(sequence);
                if row_counts[index] > 0 {
                    held.counts[place] += row_counts[index];
                    targets.push(place);
                    sources.push(index);
                }
            }
        }
        if targets.is_empty() {
            return;
        }
        let values = values();
        let device = values.device();
        let width = values.dims()[1];
        let in_order = |indices: &[usize], n: usize| indices.iter().copied().eq(0..n);
        let values =
            if in_order(&sources, spans.batch()) { values } else { values.select(0, indices(&sources, &device)) };
        // Taken out, so that the buffer has one owner and is added to in place.
        held.sums = Some(match held.sums.take() {
            None if in_order(&targets, held.counts.len()) => values,
            found => {
                let sums = grown(found, held.counts.len(), width, &device);
                if in_order(&targets, sums.dims()[0]) {
                    sums + values
                } else {
                    sums.select_assign(0, indices(&targets, &device), values, IndexingUpdateOp::Add)
                }
            }
        });
    }

    /// Adds the sum over each row's tokens of a set.
    fn add_set(&mut self, key: (Capture, Layer), spans: &TokenSpans, set: TokenSet, residual: &Tensor<3>) {
        self.add(key, spans, &counts(spans, set), || masked_sum(residual, spans, set));
    }

    /// Adds the residual at one position of each row's window, for rows that have the position.
    fn add_one(
        &mut self,
        key: (Capture, Layer),
        spans: &TokenSpans,
        residual: &Tensor<3>,
        position: impl Fn(&RowSpans) -> Option<usize>,
    ) {
        let [batch, seq, width] = residual.dims();
        let found: Vec<Option<usize>> = spans.rows().iter().map(position).collect();
        let counts: Vec<usize> = found.iter().map(|position| usize::from(position.is_some())).collect();
        self.add(key, spans, &counts, || {
            let flat: Vec<usize> = found.iter().enumerate().map(|(row, p)| row * seq + p.unwrap_or(0)).collect();
            residual.clone().reshape([batch * seq, width]).select(0, indices(&flat, &residual.device()))
        });
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
        // A shared prefix may represent very many sequences, of which nothing is recorded here.
        let inside = |row: &RowSpans| row.prompt_last.is_none() && row.response.is_empty();
        if context.phase == Phase::Prefill && spans.rows().iter().all(inside) && self.shares_prefix(&[]) {
            return residual;
        }
        let seen = residual.clone().without_autodiff();
        let seen = if seen.dtype() == DType::F32 { seen } else { seen.cast(DType::F32) };
        for capture in self.captures.clone() {
            let key = (capture.clone(), context.layer);
            match capture {
                Capture::ResponseMean => self.add_set(key, spans, TokenSet::Response, &seen),
                Capture::PromptMean => self.add_set(key, spans, TokenSet::Prompt, &seen),
                Capture::PromptLast => self.add_one(key, spans, &seen, |row| row.prompt_last),
                Capture::ResponseNorm => {
                    let counts = counts(spans, TokenSet::Response);
                    self.add(key, spans, &counts, || norm_sum(&seen, spans, TokenSet::Response));
                }
                Capture::Position(position) => self.add_one(key, spans, &seen, |row| {
                    (row.padding..spans.seq()).nth(position.checked_sub(row.offset)?)
                }),
                Capture::Everything => self.add_tokens(context.layer, spans, &seen),
            }
        }
        residual
    }

    fn shares_prefix(&self, _sequences: &[usize]) -> bool {
        let after =
            |capture: &Capture| matches!(capture, Capture::ResponseMean | Capture::ResponseNorm | Capture::PromptLast);
        self.captures.iter().all(after)
    }

    fn finish(&mut self) -> Result<(), HookError> {
        let summed = self.sums.values().flat_map(|sums| &sums.counts);
        let nothing = summed.copied().all(|n| n == 0) && self.pieces.values().all(BTreeMap::is_empty);
        if nothing { Err(HookError::NeverFired { hook: self.name() }) } else { Ok(()) }
    }
}

/// The number of tokens of each row that belong to a set.
fn counts(spans: &TokenSpans, set: TokenSet) -> Vec<usize> {
    (0..spans.batch()).map(|row| spans.count(row, set)).collect()
}

/// The sum over each row's tokens of a set, `[batch, d_model]`; arbitrary values in rows without such tokens.
fn masked_sum(residual: &Tensor<3>, spans: &TokenSpans, set: TokenSet) -> Tensor<2> {
    let [batch, seq, width] = residual.dims();
    let residual = residual.clone();
    if seq == 1 {
        return residual.reshape([batch, width]);
    }
    // A product with the mask as a row vector reads the residual once and makes no masked copy.
    let mask = spans.mask(set, &residual.device()).swap_dims(1, 2);
    mask.matmul(residual).reshape([batch, width])
}

/// The sum of the norms over each row's tokens of a set, `[batch, 1]`.
fn norm_sum(residual: &Tensor<3>, spans: &TokenSpans, set: TokenSet) -> Tensor<2> {
    let norms = residual.clone().square().sum_dim(2).sqrt();
    // Not a product with the mask: the norm of a finite residual may be infinite outside the set.
    let outside = spans.mask(set, &residual.device()).equal_elem(0.0);
    norms.mask_fill(outside, 0.0).sum_dim(1).reshape([spans.batch(), 1])
}

/// The sums, extended with zeros to at least `rows` sequences.
fn grown(sums: Option<Tensor<2>>, rows: usize, width: usize, device: &Device) -> Tensor<2> {
    let zeros = |n: usize| Tensor::zeros([n, width], (device, DType::F32));
    match sums {
        None => zeros(rows),
        Some(sums) if sums.dims()[0] < rows => {
            let missing = rows - sums.dims()[0];
            Tensor::cat(vec![sums, zeros(missing)], 0)
        }
        Some(sums) => sums,
    }
}

fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}
