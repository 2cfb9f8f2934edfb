//! A hook that records activations.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};

use crate::tokens::RowSpans;
use crate::{Capture, Hook, HookError, Layer, LayerSet, ModelShape, Phase, ResidualContext, TokenSpans};

/// Records chosen [`Capture`]s at chosen layers for every sequence of a run, in f32 whatever type the model computes
/// in, and without autodiff.
///
/// Means are streaming sums on the device: recording all layers of a batch needs memory in proportion to layers ×
/// sequences × width, independently of the sequences' lengths. On the CPU, tokens are added one by one in their order, so
/// that the sums do not depend on how sequences are divided into passes and rows. Sequences are identified by [`RowSpans::sequences`].
/// Rows may appear in any order and leave the batch at any time. Padding may contain any finite value; a NaN or an
/// infinity there would spoil the means of its row's sequences.
#[derive(Debug)]
pub struct Recorder {
    layers: LayerSet,
    captures: Vec<Capture>,
    sums: BTreeMap<(Capture, Layer), Sums>,
    pieces: BTreeMap<Layer, BTreeMap<usize, Vec<Tensor<2>>>>,
}

/// The sums of one capture at one layer. A sequence gets its place with its first token, so that memory depends on the
/// number of sequences and not on their identifiers. Sequences with the same tokens so far have one place: all that a row
/// represents.
#[derive(Debug, Default)]
struct Sums {
    /// The place of each sequence; `None` before its first token.
    of: BTreeMap<usize, Option<usize>>,
    places: Vec<Place>,
    /// `[places, d_model]`; `None` before the first token.
    sums: Option<Tensor<2>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The number of tokens in the sum.
    count: usize,
    /// The position in its sequence of the first token that has not been seen.
    next: usize,
    /// The number of sequences.
    sequences: usize,
}

/// Positions of a row's window that are added to the sum of a place.
#[derive(Clone, Debug)]
struct Addend {
    place: usize,
    row: usize,
    window: Range<usize>,
}

impl Sums {
    /// Places for the tokens of a pass, given as a range of each row's window, and the places of which new ones are copies.
    /// Tokens that a sequence had before are left out if `once`.
    fn addends(
        &mut self,
        spans: &TokenSpans,
        window: impl Fn(&RowSpans) -> Range<usize>,
        once: bool,
    ) -> (Vec<Addend>, Vec<Option<usize>>) {
        let (mut addends, mut copies) = (Vec::new(), Vec::new());
        for (row, of) in spans.rows().iter().enumerate() {
            let window = window(of);
            let mut places: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
            for &sequence in &of.sequences {
                let place = *self.of.entry(sequence).or_default();
                if !window.is_empty() {
                    places.entry(place).or_default().push(sequence);
                }
            }
            for (place, sequences) in places {
                let before = place.map_or_else(Place::default, |place| self.places[place]);
                let seen = if once { (before.next + of.padding).saturating_sub(of.offset) } else { 0 };
                let window = window.start.max(seen)..window.end;
                if window.is_empty() {
                    continue;
                }
                let after = Place {
                    count: before.count + window.len(),
                    next: of.offset + window.end - of.padding,
                    sequences: sequences.len(),
                };
                let target = match place {
                    Some(place) if before.sequences == after.sequences => place,
                    _ => {
                        place.into_iter().for_each(|place| self.places[place].sequences -= after.sequences);
                        copies.push(place);
                        self.places.push(after);
                        self.places.len() - 1
                    }
                };
                self.places[target] = after;
                sequences.into_iter().for_each(|sequence| _ = self.of.insert(sequence, Some(target)));
                addends.push(Addend { place: target, row, window });
            }
        }
        (addends, copies)
    }

    /// Adds rows of `values`, `[rows, width]`, each to the place with the same index in `targets`, in order.
    fn add(&mut self, targets: &[usize], values: Tensor<2>, copies: &[Option<usize>]) {
        let device = values.device();
        // Taken out, so that the buffer has one owner and is added to in place.
        let [_, width] = values.dims();
        let sums = match self.sums.take() {
            None if targets.iter().copied().eq(0..self.places.len()) => {
                self.sums = Some(values);
                return;
            }
            None => Tensor::zeros([self.places.len(), width], (&device, DType::F32)),
            Some(sums) if copies.is_empty() => sums,
            Some(sums) => grown(sums, copies),
        };
        self.sums = Some(if targets.iter().copied().eq(0..sums.dims()[0]) {
            sums + values
        } else {
            sums.select_assign(0, indices(targets, &device), values, IndexingUpdateOp::Add)
        });
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
        let count = |place: Option<usize>| place.map_or(0, |place| sums.places[place].count);
        sums.of.iter().map(|(sequence, place)| (*sequence, count(*place))).collect()
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
        if sums.of.is_empty() {
            return Err(not_recorded());
        }
        let lacks = |(expected, (sequence, place)): &(usize, (&usize, &Option<usize>))| {
            expected != *sequence || place.is_none()
        };
        match (0..).zip(&sums.of).find(lacks) {
            Some((sequence, _)) => Err(HookError::NoTokens { capture: capture.clone(), sequence }),
            None => self.get_of(capture, layer, &sums.of.keys().copied().collect::<Vec<_>>()),
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
        let Sums { of, places, sums } = self.sums.get(&(capture.clone(), layer)).ok_or_else(not_recorded)?;
        let place = |sequence: &usize| match of.get(sequence) {
            Some(Some(place)) => Ok((*place, places[*place].count as f32)),
            _ => Err(HookError::NoTokens { capture: capture.clone(), sequence: *sequence }),
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

    /// Adds the values, `[batch, seq, width]`, at some tokens of a pass, given as a range of each row's window. All sequences
    /// of the pass become known, so that a lack of tokens is reported as an error.
    fn add(
        &mut self,
        key: (Capture, Layer),
        spans: &TokenSpans,
        window: impl Fn(&RowSpans) -> Range<usize>,
        values: impl FnOnce() -> Tensor<3>,
    ) {
        let once = key.0 == Capture::PromptMean;
        let held = self.sums.entry(key).or_default();
        let (addends, copies) = held.addends(spans, window, once);
        if addends.is_empty() {
            return;
        }
        let values = values();
        if values.device() == Device::flex() || addends.iter().all(|addend| addend.window.len() == 1) {
            let [batch, seq, width] = values.dims();
            let (mut targets, mut tokens) = (Vec::new(), Vec::new());
            for Addend { place, row, window } in addends {
                targets.extend(std::iter::repeat_n(place, window.len()));
                tokens.extend(window.map(|position| row * seq + position));
            }
            let values = rows(values.reshape([batch * seq, width]), &tokens);
            return held.add(&targets, values, &copies);
        }
        let targets: Vec<usize> = addends.iter().map(|addend| addend.place).collect();
        held.add(&targets, window_sums(values, &addends), &copies);
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
        let nothing =
            self.sums.values().all(|sums| sums.places.is_empty()) && self.pieces.values().all(BTreeMap::is_empty);
        if nothing { Err(HookError::NeverFired { hook: self.name() }) } else { Ok(()) }
    }
}

/// Some rows of a matrix; the matrix itself if they are all of its rows.
fn rows(values: Tensor<2>, rows: &[usize]) -> Tensor<2> {
    if rows.iter().copied().eq(0..values.dims()[0]) {
        return values;
    }
    let device = values.device();
    values.select(0, indices(rows, &device))
}

/// The sum of the values, `[batch, seq, width]`, over each addend's window: `[addends, width]`.
fn window_sums(values: Tensor<3>, addends: &[Addend]) -> Tensor<2> {
    let [batch, seq, width] = values.dims();
    let device = values.device();
    let mut mask = vec![0f32; addends.len() * seq];
    for (mask, addend) in mask.chunks_exact_mut(seq).zip(addends) {
        mask[addend.window.clone()].fill(1.0);
    }
    let mask = TensorData::new(mask, [addends.len(), 1, seq]);
    let mask = Tensor::<3>::from_data(mask, (&device, DType::F32));
    let of: Vec<usize> = addends.iter().map(|addend| addend.row).collect();
    let values = rows(values.reshape([batch, seq * width]), &of).reshape([addends.len(), seq, width]);
    let sums = if width == 1 {
        // Not a product: the norm of a finite residual may be infinite outside the window.
        let outside = mask.swap_dims(1, 2).equal_elem(0.0);
        values.mask_fill(outside, 0.0).sum_dim(1)
    } else {
        // A product reads the values once and makes no masked copy.
        mask.matmul(values)
    };
    sums.reshape([addends.len(), width])
}

/// The sums with rows for new places, each a copy of another row or zeros.
fn grown(sums: Tensor<2>, copies: &[Option<usize>]) -> Tensor<2> {
    let device = sums.device();
    let (to, from): (Vec<usize>, Vec<usize>) =
        copies.iter().enumerate().filter_map(|(new, place)| Some((new, (*place)?))).unzip();
    let new = Tensor::zeros([copies.len(), sums.dims()[1]], (&device, DType::F32));
    let new = match from.is_empty() {
        true => new,
        false => {
            let copied = sums.clone().select(0, indices(&from, &device));
            new.select_assign(0, indices(&to, &device), copied, IndexingUpdateOp::Add)
        }
    };
    Tensor::cat(vec![sums, new], 0)
}

fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sums of devices other than the CPU.
    #[test]
    fn window_sums_are_those_of_the_windows_tokens() {
        for width in [1, 2] {
            let mut values: Vec<f32> = (0..2 * 4 * width).map(|i| i as f32).collect();
            // Outside every window.
            values[..width].fill(if width == 1 { f32::INFINITY } else { 1e30 });
            let tensor = Tensor::<3>::from_data(TensorData::new(values.clone(), [2, 4, width]), &Device::flex());
            let addends = [(1, 0..2), (0, 1..4), (1, 3..4)].map(|(row, window)| Addend { place: 0, row, window });
            let sum = |addend: &Addend, column: usize| {
                addend.window.clone().map(|at| values[(addend.row * 4 + at) * width + column]).sum::<f32>()
            };
            let expected: Vec<f32> =
                addends.iter().flat_map(|addend| (0..width).map(|column| sum(addend, column))).collect();
            let found: Vec<f32> = window_sums(tensor, &addends).into_data().try_to_vec().expect("values");
            assert_eq!(found, expected);
        }
    }
}
