//! A hook that keeps what was asked of the residual stream, and nothing else.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};

use crate::{Coverage, Hook, HookError, Layer, LayerSet, ModelShape, ResidualContext, TokenSet, TokenSpans};

/// What a [`Recorder`] keeps of a layer's residual.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capture {
    /// The mean over the response's own tokens.
    ResponseMean,
    /// The mean over the prompt's tokens.
    PromptMean,
    /// The residual at the prompt's last token.
    PromptLast,
    /// The mean Euclidean norm of the residual over the response's own tokens, `[sequences, 1]`.
    ResponseNorm,
    /// The residual at one position of each sequence, counted from its first real token.
    Position(usize),
    /// Every real token of every sequence. Costs memory of the order of layers × tokens × width.
    Everything,
}

/// Records chosen layers × [`Capture`]s of every sequence of a run, in f32 whatever the model computes in.
///
/// Means are streaming sums on the device, so that recording all layers of a batch costs memory of the order of
/// layers × sequences × width, however long the sequences are. Sequences are the numbers in
/// [`RowSpans::sequences`](crate::RowSpans::sequences); rows may come in any order and leave the batch at any time.
#[derive(Debug)]
pub struct Recorder {
    layers: LayerSet,
    captures: Vec<Capture>,
    sums: BTreeMap<(Capture, Layer), Tensor<2>>,
    pieces: BTreeMap<Layer, Vec<Vec<Tensor<2>>>>,
    counts: BTreeMap<(Capture, Layer), Vec<usize>>,
}

impl Recorder {
    /// A recorder of these captures at these layers.
    pub fn new(layers: impl Into<LayerSet>, captures: impl IntoIterator<Item = Capture>) -> Self {
        let mut captures: Vec<_> = captures.into_iter().collect();
        captures.sort();
        captures.dedup();
        Self {
            layers: layers.into(),
            captures,
            sums: BTreeMap::new(),
            pieces: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Forgets all that was recorded, for another run.
    pub fn clear(&mut self) {
        self.sums.clear();
        self.pieces.clear();
        self.counts.clear();
    }

    /// How many tokens of each sequence a capture has summed at a layer; empty when it was not recorded.
    pub fn counts(&self, capture: &Capture, layer: Layer) -> &[usize] {
        self.counts.get(&(capture.clone(), layer)).map_or(&[], Vec::as_slice)
    }

    /// A capture of every sequence at a layer, `[sequences, d_model]` in f32: the means, or the residual at the one
    /// position asked for.
    ///
    /// # Errors
    /// [`HookError::NotRecorded`] when the recorder was not asked for it or no pass reached the layer (and for
    /// [`Capture::Everything`], which [`tokens`](Self::tokens) returns); [`HookError::NoTokens`] when a sequence has no
    /// token of that kind.
    pub fn get(&self, capture: &Capture, layer: Layer) -> Result<Tensor<2>, HookError> {
        let key = (capture.clone(), layer);
        let Some(counts) = self.counts.get(&key) else {
            return Err(HookError::NotRecorded { capture: capture.clone(), layer });
        };
        if let Some(sequence) = counts.iter().position(|&n| n == 0) {
            return Err(HookError::NoTokens { capture: capture.clone(), sequence });
        }
        let Some(sums) = self.sums.get(&key) else {
            return Err(HookError::NotRecorded { capture: capture.clone(), layer });
        };
        let inverse: Vec<f32> = counts.iter().map(|&n| 1.0 / n as f32).collect();
        let sums = sums.clone().narrow(0, 0, counts.len());
        let data = TensorData::new(inverse, [counts.len(), 1]);
        Ok(if counts.iter().all(|&n| n == 1) {
            sums
        } else {
            sums.clone() * Tensor::from_data(data, (&sums.device(), DType::F32))
        })
    }

    /// Every real token of one sequence at a layer, `[tokens, d_model]` in f32, when [`Capture::Everything`] was asked.
    ///
    /// # Errors
    /// [`HookError::NotRecorded`] or [`HookError::NoTokens`].
    pub fn tokens(&self, sequence: usize, layer: Layer) -> Result<Tensor<2>, HookError> {
        let pieces = self.pieces.get(&layer).ok_or(HookError::NotRecorded { capture: Capture::Everything, layer })?;
        match pieces.get(sequence).filter(|pieces| !pieces.is_empty()) {
            Some(pieces) => Ok(Tensor::cat(pieces.clone(), 0)),
            None => Err(HookError::NoTokens { capture: Capture::Everything, sequence }),
        }
    }

    /// Adds one value per row of the batch, `[batch, d_model]`, to the sums of the rows' sequences.
    fn add(&mut self, key: (Capture, Layer), spans: &TokenSpans, row_counts: &[usize], values: Tensor<2>) {
        let sequences: usize = spans.rows().iter().flat_map(|row| &row.sequences).max().map_or(0, |last| last + 1);
        let counts = self.counts.entry(key.clone()).or_default();
        counts.resize(counts.len().max(sequences), 0);
        let mut targets = Vec::new();
        let mut sources = Vec::new();
        for (index, row) in spans.rows().iter().enumerate() {
            for &sequence in row.sequences.iter().filter(|_| row_counts[index] > 0) {
                counts[sequence] += row_counts[index];
                targets.push(sequence);
                sources.push(index);
            }
        }
        if targets.is_empty() {
            return;
        }
        let device = values.device();
        let width = values.dims()[1];
        let in_order = |indices: &[usize], n: usize| indices.iter().copied().eq(0..n);
        let values =
            if in_order(&sources, spans.batch()) { values } else { values.select(0, indices(&sources, &device)) };
        // Taken out of the map, so that the buffer has one owner and is added to in place.
        let sums = match self.sums.remove(&key) {
            None if in_order(&targets, counts.len()) => values,
            found => {
                let sums = grown(found, counts.len(), width, &device);
                if in_order(&targets, sums.dims()[0]) {
                    sums + values
                } else {
                    sums.select_assign(0, indices(&targets, &device), values, IndexingUpdateOp::Add)
                }
            }
        };
        self.sums.insert(key, sums);
    }

    /// Adds the sum of each row's tokens of a set of `[batch, seq, width]`.
    fn add_set(&mut self, key: (Capture, Layer), spans: &TokenSpans, set: TokenSet, residual: &Tensor<3>) {
        let counts: Vec<usize> = (0..spans.batch()).map(|row| spans.count(row, set)).collect();
        if counts.iter().any(|&n| n > 0) {
            return self.add(key, spans, &counts, masked_sum(residual, spans, set));
        }
        // The rows must still be known, so that a sequence without such tokens is an error and not a gap.
        let sequences = spans.rows().iter().flat_map(|row| &row.sequences).max().map_or(0, |last| last + 1);
        let known = self.counts.entry(key).or_default();
        known.resize(known.len().max(sequences), 0);
    }

    fn add_tokens(&mut self, layer: Layer, spans: &TokenSpans, residual: &Tensor<3>) {
        let [_, seq, width] = residual.dims();
        let pieces = self.pieces.entry(layer).or_default();
        for (index, row) in spans.rows().iter().enumerate() {
            let piece = residual.clone().slice([index..index + 1, row.padding..seq, 0..width]);
            let piece = piece.reshape([seq - row.padding, width]);
            for &sequence in &row.sequences {
                pieces.resize(pieces.len().max(sequence + 1), Vec::new());
                pieces[sequence].push(piece.clone());
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
        let seen = residual.clone().detach();
        let seen = if seen.dtype() == DType::F32 { seen } else { seen.cast(DType::F32) };
        for capture in self.captures.clone() {
            let key = (capture.clone(), context.layer);
            let set = match capture {
                Capture::ResponseMean => TokenSet::Response,
                Capture::PromptMean => TokenSet::Prompt,
                Capture::PromptLast => TokenSet::PromptLast,
                Capture::ResponseNorm => {
                    let norms = seen.clone().square().sum_dim(2).sqrt();
                    self.add_set(key, spans, TokenSet::Response, &norms);
                    continue;
                }
                Capture::Position(position) => {
                    if let Some((counts, values)) = at_position(spans, position, &seen) {
                        self.add(key, spans, &counts, values);
                    }
                    continue;
                }
                Capture::Everything => {
                    self.add_tokens(context.layer, spans, &seen);
                    continue;
                }
            };
            self.add_set(key, spans, set, &seen);
        }
        residual
    }

    fn finish(&mut self) -> Result<(), HookError> {
        let nothing = self.counts.values().flatten().all(|&n| n == 0) && self.pieces.is_empty();
        if nothing { Err(HookError::NeverFired { hook: self.name() }) } else { Ok(()) }
    }
}

/// The sum of each row's tokens of a set, `[batch, d_model]`.
fn masked_sum(residual: &Tensor<3>, spans: &TokenSpans, set: TokenSet) -> Tensor<2> {
    let [batch, seq, width] = residual.dims();
    let residual = residual.clone();
    if seq == 1 && spans.coverage(set) == Coverage::Everything {
        return residual.reshape([batch, width]);
    }
    // A product with the mask as a row vector: one pass over the residual, and no masked copy of it.
    let mask = spans.mask(set, &residual.device()).swap_dims(1, 2);
    mask.matmul(residual).reshape([batch, width])
}

/// The residual at a position of each sequence, for the rows whose window holds it.
fn at_position(spans: &TokenSpans, position: usize, residual: &Tensor<3>) -> Option<(Vec<usize>, Tensor<2>)> {
    let [batch, seq, width] = residual.dims();
    let within = |row: &crate::RowSpans| {
        let index = (position + row.padding).checked_sub(row.offset)?;
        (index >= row.padding && index < seq).then_some(index)
    };
    let found: Vec<Option<usize>> = spans.rows().iter().map(within).collect();
    if found.iter().all(Option::is_none) {
        return None;
    }
    let flat: Vec<usize> = found.iter().enumerate().map(|(row, index)| row * seq + index.unwrap_or(0)).collect();
    let values = residual.clone().reshape([batch * seq, width]).select(0, indices(&flat, &residual.device()));
    Some((found.iter().map(|index| usize::from(index.is_some())).collect(), values))
}

/// The sums with room for at least `rows` sequences; what is new is zero.
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
