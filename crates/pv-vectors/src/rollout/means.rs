//! The activations of rollouts, and the vector that is their mean difference.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::Tensor;
use ndarray::ArrayView2;
use pv_hooks::{Capture, Hook, HookError, Layer, LayerSet, ModelShape, Recorder, ResidualContext};
use pv_model::CausalLm;
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::to_f32;

use crate::activations::Activations;
use crate::error::{ActivationsError, SettingError};
use crate::filter::Kept;
use crate::progress::Progress;
use crate::rollout::{Place, Record};
use crate::vector::{LayerRows, PersonaVector, Pooling, Provenance};
use crate::{Error, Result};

/// The capture of each pooling, in the order of [`Pooling::ALL`].
const CAPTURES: [Capture; 3] = [Capture::ResponseMean, Capture::PromptMean, Capture::PromptLast];

/// The activations of one rollout at every layer, in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutMeans {
    pub(crate) layers: usize,
    pub(crate) d_model: usize,
    /// `[poolings, layers, d_model]`. Zeros for the response of an empty answer.
    pub(crate) values: Vec<f32>,
    /// `[layers]`: the mean norm of the residual over the response tokens.
    pub(crate) norms: Vec<f32>,
}

impl RolloutMeans {
    /// The activation of a pooling at a layer, `[d_model]`; `None` beyond the last layer. The response's activation of
    /// an empty answer is zero.
    pub fn get(&self, pooling: Pooling, layer: Layer) -> Option<&[f32]> {
        let row = pooling as usize * self.layers + layer.index();
        (layer.index() < self.layers).then(|| &self.values[row * self.d_model..][..self.d_model])
    }

    /// The activations of a pooling at all layers, `[layers, d_model]`.
    pub fn values(&self, pooling: Pooling) -> Option<ArrayView2<'_, f32>> {
        let (layers, d_model) = (self.layers, self.d_model);
        let rows = self.values.get(pooling as usize * layers * d_model..)?.get(..layers * d_model)?;
        ArrayView2::from_shape((layers, d_model), rows).ok()
    }

    /// The mean norm of the residual over the response tokens at a layer, in activation units.
    pub fn response_norm(&self, layer: Layer) -> Option<f32> {
        self.norms.get(layer.index()).copied()
    }

    /// The activations of one sequence, from a recorder made by [`recorder`].
    pub(super) fn of(recorder: &Recorder, sequence: usize, shape: ModelShape, empty: bool) -> Result<Self> {
        let layers = LayerSet::All.resolve(shape.blocks);
        // One transfer from the device per capture, not one per layer. Adding zero turns −0 into 0, so that the bits
        // are equal.
        let read = |capture: &Capture| -> Result<Vec<f32>> {
            let rows: Result<Vec<Tensor<2>>, HookError> =
                layers.iter().map(|&layer| recorder.get_of(capture, layer, &[sequence])).collect();
            Ok(to_f32(Tensor::cat(rows?, 0))?.into_iter().map(|value| value + 0.0).collect())
        };
        let zeros = |width: usize| vec![0.0; layers.len() * width];
        let mut values = Vec::with_capacity(CAPTURES.len() * layers.len() * shape.d_model);
        for capture in &CAPTURES {
            let lacking = empty && *capture == Capture::ResponseMean;
            values.extend(if lacking { zeros(shape.d_model) } else { read(capture)? });
        }
        let norms = if empty { zeros(1) } else { read(&Capture::ResponseNorm)? };
        if let Some(at) = values.iter().chain(&norms).position(|value| !value.is_finite()) {
            let layer = Layer::hidden_state(at / shape.d_model % layers.len());
            return Err(ActivationsError::Residual { layer }.into());
        }
        Ok(Self { layers: layers.len(), d_model: shape.d_model, values, norms })
    }
}

/// A recorder of everything that [`RolloutMeans`] contains.
pub(super) fn recorder() -> Recorder {
    Recorder::new(LayerSet::All, CAPTURES.into_iter().chain([Capture::ResponseNorm]))
}

/// A recorder that can be read while generation continues.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Recorder>>);

impl Shared {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(recorder())))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Recorder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hook for Shared {
    fn name(&self) -> String {
        self.lock().name()
    }

    fn layers(&self) -> LayerSet {
        LayerSet::All
    }

    fn wants(&self, _layer: Layer) -> bool {
        true
    }

    fn validate(&self, shape: &ModelShape) -> Result<(), HookError> {
        self.lock().validate(shape)
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        self.lock().on_residual(context, residual)
    }

    fn shares_prefix(&self, sequences: &[usize]) -> bool {
        self.lock().shares_prefix(sequences)
    }

    fn finish(&mut self) -> Result<(), HookError> {
        self.lock().finish()
    }
}

/// Recomputes the activations of rollouts, in the order of the records. It uses the rendered prompts and the answers'
/// token ids as they are stored. Batches contain up to `batch_size` rollouts.
///
/// # Errors
/// A model without tokenizer, tokens outside the vocabulary, [`Error::Cancelled`].
pub fn recompute(
    model: &CausalLm,
    records: &[Record],
    batch_size: usize,
    on_progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<RolloutMeans>> {
    let prompts: Vec<Vec<u32>> = records.iter().map(|record| record.prompt_ids(model)).collect::<Result<_>>()?;
    let sequences: Vec<Sequence<'_>> = prompts
        .iter()
        .zip(records)
        .map(|(prompt, record)| Sequence { prompt, response: &record.tokens, rest: &[] })
        .collect();
    read_sequences(model, &sequences, batch_size, on_progress)
}

/// The activations of whole sequences, in the same order.
pub(crate) fn read_sequences(
    model: &CausalLm,
    sequences: &[Sequence<'_>],
    batch_size: usize,
    mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<RolloutMeans>> {
    if batch_size == 0 {
        return Err(SettingError::Zero { name: "batch_size" }.into());
    }
    let shape = model.shape();
    // Sequences of similar length share a batch, which reduces padding.
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&i| sequences[i].prompt.len() + sequences[i].response.len());
    let mut found = vec![None; sequences.len()];
    let mut done = 0;
    for group in order.chunks(batch_size) {
        let batch: Vec<Sequence<'_>> = group.iter().map(|&i| sequences[i]).collect();
        let mut recorder = recorder();
        // Stopping at the last layer skips the final norm and the output head.
        let options = ForwardOptions { stop_at: Some(shape.last_layer()), ..ForwardOptions::default() };
        model.forward(&Batch::whole(&batch)?, options, &mut recorder)?;
        for (row, &i) in group.iter().enumerate() {
            found[i] = Some(RolloutMeans::of(&recorder, row, shape, sequences[i].response.is_empty())?);
        }
        done += group.len();
        if on_progress(Progress::Reading { done, total: sequences.len() }).is_break() {
            return Err(Error::Cancelled);
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// A source of the activations of rollouts.
pub(crate) trait MeansTable {
    /// The number of layers and `d_model`.
    fn shape(&self) -> (usize, usize);

    /// The activations of these rollouts, `[rollouts, d_model]`.
    fn rows(&self, pooling: Pooling, layer: Layer, rollouts: &[usize]) -> Result<Vec<f32>>;

    /// The mean residual norms of these rollouts over the response tokens, `[rollouts, layers]`.
    fn norms(&self, rollouts: &[usize]) -> Result<Vec<f32>>;
}

impl MeansTable for [RolloutMeans] {
    fn shape(&self) -> (usize, usize) {
        self.first().map_or((0, 0), |means| (means.layers, means.d_model))
    }

    fn rows(&self, pooling: Pooling, layer: Layer, rollouts: &[usize]) -> Result<Vec<f32>> {
        let rows = rollouts.iter().map(|&i| self.get(i).and_then(|means| means.get(pooling, layer)));
        let rows: Option<Vec<&[f32]>> = rows.collect();
        rows.map(|rows| rows.concat()).ok_or_else(|| missing(rollouts, self.len(), layer))
    }

    fn norms(&self, rollouts: &[usize]) -> Result<Vec<f32>> {
        let rows: Option<Vec<&[f32]>> = rollouts.iter().map(|&i| Some(self.get(i)?.norms.as_slice())).collect();
        rows.map(|rows| rows.concat()).ok_or_else(|| missing(rollouts, self.len(), Layer::EMBEDDINGS))
    }
}

pub(crate) fn missing(rollouts: &[usize], known: usize, layer: Layer) -> Error {
    let rollout = rollouts.iter().max().copied().unwrap_or_default();
    ActivationsError::NoSuchRollout { rollout, layer, known }.into()
}

/// The vector of the kept rollouts: the mean over those under eliciting instructions minus the mean over the others,
/// `[layers, d_model]` per pooling. `means` contains the activations of all rollouts that the filter saw, in the same
/// order.
///
/// # Errors
/// [`Error::BadActivations`] if a kept rollout has no activations; [`Error::NoAnswers`] if a side has no rollout.
pub fn vector_of(means: &[RolloutMeans], kept: &Kept, provenance: Provenance) -> Result<PersonaVector> {
    difference(means, &Pooling::ALL, [&kept.pos, &kept.neg], provenance)
}

/// Like [`vector_of`], from the rollouts under eliciting instructions and those under suppressing ones.
pub(crate) fn difference(
    means: &(impl MeansTable + ?Sized),
    poolings: &[Pooling],
    [pos, neg]: [&[usize]; 2],
    provenance: Provenance,
) -> Result<PersonaVector> {
    for (side, rollouts) in [("eliciting", pos), ("suppressing", neg)] {
        if rollouts.is_empty() {
            return Err(Error::NoAnswers { side, answers: provenance.total.unwrap_or_default() / 2 });
        }
    }
    let (layers, d_model) = means.shape();
    let mut tables = BTreeMap::new();
    for &pooling in poolings {
        let mut values = Vec::with_capacity(layers * d_model);
        for layer in (0..layers).map(Layer::hidden_state) {
            let pos = mean(&means.rows(pooling, layer, pos)?, d_model);
            let neg = mean(&means.rows(pooling, layer, neg)?, d_model);
            values.extend(pos.iter().zip(&neg).map(|(pos, neg)| (pos - neg) as f32));
        }
        tables.extend(LayerRows::of_rows(values, d_model).map(|table| (pooling, table)));
    }
    let all = [pos, neg].concat();
    let norms = mean(&means.norms(&all)?, layers).into_iter().map(|norm| norm as f32).collect();
    PersonaVector::new(provenance, tables, Some(norms))
}

/// The mean of the rows, `[width]`, accumulated in f64.
fn mean(rows: &[f32], width: usize) -> Vec<f64> {
    let mut sum = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let n = (rows.len() / width) as f64;
    sum.iter_mut().for_each(|sum| *sum /= n);
    sum
}

/// The activations of the kept rollouts at one layer, for statistics beyond the mean.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptActivations {
    layer: Layer,
    d_model: usize,
    /// `[rollouts, d_model]` for each side.
    values: [Vec<f32>; 2],
    questions: [Vec<usize>; 2],
    pairs: [Vec<usize>; 2],
}

impl KeptActivations {
    pub(crate) fn read(
        means: &(impl MeansTable + ?Sized),
        pooling: Pooling,
        layer: Layer,
        kept: &Kept,
        place: impl Fn(usize) -> Option<Place>,
    ) -> Result<Self> {
        let (_, d_model) = means.shape();
        let values = [means.rows(pooling, layer, &kept.pos)?, means.rows(pooling, layer, &kept.neg)?];
        let places = |of: fn(Place) -> usize| {
            [&kept.pos, &kept.neg].map(|side| side.iter().map(|&index| place(index).map_or(0, of)).collect())
        };
        let (questions, pairs) = (places(|place| place.question), places(|place| place.pair));
        Ok(Self { layer, d_model, values, questions, pairs })
    }

    /// The activations of the kept rollouts in `means`, with the questions and instruction pairs of `records`.
    ///
    /// # Errors
    /// [`Error::BadActivations`] if a kept rollout has no activations.
    pub fn new(
        means: &[RolloutMeans],
        records: &[Record],
        pooling: Pooling,
        layer: Layer,
        kept: &Kept,
    ) -> Result<Self> {
        Self::read(means, pooling, layer, kept, |index| records.get(index).map(|record| record.place))
    }

    /// The activations under eliciting instructions. With a paired filter, row `i` is the partner of row `i` of
    /// [`neg`](Self::neg).
    ///
    /// # Errors
    /// [`Error::BadActivations`] if there are none.
    pub fn pos(&self) -> Result<Activations<'_>> {
        self.side(0)
    }

    /// The activations under suppressing instructions.
    ///
    /// # Errors
    /// [`Error::BadActivations`] if there are none.
    pub fn neg(&self) -> Result<Activations<'_>> {
        self.side(1)
    }

    fn side(&self, side: usize) -> Result<Activations<'_>> {
        Activations::of_rows(self.layer, &self.values[side], self.d_model)?
            .by_question_and_pair(&self.questions[side], &self.pairs[side])
    }
}
