//! Reads batches of items and projects them.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{DType, Tensor, TensorData};
use ndarray::Array2;
use pv_hooks::{Capture, Hook, HookError, Layer, LayerSet, ModelShape, Recorder, ResidualContext};
use pv_model::CausalLm;
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::to_f32;

use super::{Overlong, ScanOptions, Scanned, Skipped, length};
use crate::error::{ItemError, SettingError};
use crate::vector::Pooling;
use crate::{Error, Result, UnitDirection};

/// The directions of one layer.
struct LayerDirections {
    layer: Layer,
    /// Their indices among all directions.
    numbers: Vec<usize>,
    /// `[d_model, numbers.len()]` in f32.
    columns: Tensor<2>,
}

pub(super) struct Reader<'a> {
    model: &'a CausalLm,
    options: &'a ScanOptions,
    poolings: BTreeSet<Pooling>,
    directions: usize,
    layers: Vec<LayerDirections>,
    stop: Layer,
}

impl<'a> Reader<'a> {
    pub(super) fn new(model: &'a CausalLm, directions: &[UnitDirection], options: &'a ScanOptions) -> Result<Self> {
        let stop = directions.iter().map(UnitDirection::layer).max().ok_or(SettingError::NoDirections)?;
        if options.poolings.is_empty() && !options.response_tokens {
            return Err(SettingError::NothingToProject.into());
        }
        let shape = model.shape();
        for direction in directions {
            let (layer, expected, found) = (direction.layer(), shape.d_model, direction.values().len());
            let hook = "the scan".to_owned();
            if layer > shape.last_layer() {
                return Err(HookError::LayerOutOfRange { hook, layer, last: shape.last_layer() }.into());
            }
            if expected != found {
                return Err(HookError::WidthMismatch { hook, layer, expected, found }.into());
            }
        }
        let device = model.decoder().device().clone().without_autodiff();
        let mut numbers: BTreeMap<Layer, Vec<usize>> = BTreeMap::new();
        for (number, direction) in directions.iter().enumerate() {
            numbers.entry(direction.layer()).or_default().push(number);
        }
        let columns = |numbers: &[usize]| {
            let values: Vec<f32> =
                (0..shape.d_model).flat_map(|i| numbers.iter().map(move |n| directions[*n].values()[i])).collect();
            Tensor::from_data(TensorData::new(values, [shape.d_model, numbers.len()]), (&device, DType::F32))
        };
        let layers = numbers.into_iter();
        let layers =
            layers.map(|(layer, numbers)| LayerDirections { layer, columns: columns(&numbers), numbers }).collect();
        let poolings = options.poolings.iter().copied().collect();
        Ok(Self { model, options, poolings, directions: directions.len(), layers, stop })
    }

    /// The part of an item that has to be read.
    pub(super) fn part<'s>(&self, sequence: &Sequence<'s>) -> Sequence<'s> {
        let response = self.options.response_tokens || self.poolings.contains(&Pooling::ResponseMean);
        Sequence { prompt: sequence.prompt, response: if response { sequence.response } else { &[] }, rest: &[] }
    }

    pub(super) fn check(&self, item: usize, sequence: &Sequence<'_>) -> Result<Option<Skipped>> {
        let bad = |source| Err(Error::BadItem { item, source });
        let config = self.model.config();
        let tokens = length(sequence);
        if tokens == 0 {
            return bad(ItemError::Empty);
        }
        let vocab = config.vocab;
        let mut ids = sequence.prompt.iter().chain(sequence.response);
        if let Some(&id) = ids.find(|id| **id as usize >= vocab) {
            return bad(ItemError::UnknownToken { id, vocab });
        }
        let limit = self.options.max_tokens.unwrap_or(config.max_positions);
        match self.options.overlong {
            _ if tokens <= limit => Ok(None),
            Overlong::Skip => Ok(Some(Skipped { item, tokens, limit })),
            Overlong::Refuse => bad(ItemError::TooLong { tokens, limit }),
        }
    }

    pub(super) fn read(&self, batch: &[(usize, Sequence<'_>)]) -> Result<Vec<Scanned>> {
        let mut found: Vec<Scanned> =
            batch.iter().map(|(item, _)| Scanned { item: *item, ..Scanned::default() }).collect();
        let rows_with = |has: &dyn Fn(&Sequence<'_>) -> bool| -> Vec<usize> {
            (0..batch.len()).filter(|row| has(&batch[*row].1)).collect()
        };
        let responding = rows_with(&|sequence| !sequence.response.is_empty());
        let prompted = rows_with(&|sequence| !sequence.prompt.is_empty());
        let poolings: Vec<(Pooling, Capture, &[usize])> = self
            .poolings
            .iter()
            .map(|pooling| match pooling {
                Pooling::ResponseMean => (*pooling, Capture::ResponseMean, responding.as_slice()),
                Pooling::PromptMean => (*pooling, Capture::PromptMean, prompted.as_slice()),
                Pooling::PromptLast => (*pooling, Capture::PromptLast, prompted.as_slice()),
            })
            .filter(|(_, _, rows)| !rows.is_empty())
            .collect();
        let tokens = self.options.response_tokens && !responding.is_empty();
        if poolings.is_empty() && !tokens {
            return Ok(found);
        }

        let recorder = (!poolings.is_empty()).then(|| {
            let layers: LayerSet = self.layers.iter().map(|layer| layer.layer).collect();
            Recorder::new(layers, poolings.iter().map(|(_, capture, _)| capture.clone()))
        });
        let mut hooks = (recorder, tokens.then(|| TokenProjector { layers: &self.layers, found: Vec::new() }));
        let sequences: Vec<Sequence<'_>> = batch.iter().map(|(_, sequence)| *sequence).collect();
        let batch = Batch::whole(&sequences)?;
        let options = ForwardOptions { stop_at: Some(self.stop), ..ForwardOptions::default() };
        self.model.forward(&batch, options, &mut hooks)?;

        // In one transfer: devices answer small requests slowly.
        let (recorder, projector) = hooks;
        let mut pieces: Vec<Tensor<1>> = Vec::new();
        if let Some(recorder) = &recorder {
            for layer in &self.layers {
                for (_, capture, rows) in &poolings {
                    let pooled = recorder.get_of(capture, layer.layer, rows)?;
                    pieces.push(pooled.clone().matmul(layer.columns.clone()).flatten(0, 1));
                    if self.options.cosines {
                        pieces.push(pooled.square().sum_dim(1).sqrt().flatten(0, 1));
                    }
                }
            }
        }
        pieces.extend(projector.into_iter().flat_map(|projector| projector.found));
        let values = to_f32(Tensor::cat(pieces, 0))?;

        let mut values = values.as_slice();
        let mut take = |n: usize| values.split_off(..n).unwrap_or_default();
        if recorder.is_some() {
            for layer in &self.layers {
                for (pooling, _, rows) in &poolings {
                    let projections = take(rows.len() * layer.numbers.len());
                    let norms = if self.options.cosines { take(rows.len()) } else { &[] };
                    for (i, row) in rows.iter().enumerate() {
                        let pooled = found[*row].pooled.entry(*pooling).or_default();
                        pooled.projections.resize(self.directions, 0.0);
                        let projections = &projections[i * layer.numbers.len()..];
                        layer.numbers.iter().zip(projections).for_each(|(n, p)| pooled.projections[*n] = *p);
                        if let Some(norm) = norms.get(i) {
                            let cosines = pooled.cosines.get_or_insert_with(|| vec![0.0; self.directions]);
                            let cosine = |p: f32| if *norm > 0.0 { p / norm } else { 0.0 };
                            layer.numbers.iter().zip(projections).for_each(|(n, p)| cosines[*n] = cosine(*p));
                        }
                    }
                }
            }
        }
        if tokens {
            let spans = batch.spans();
            for layer in &self.layers {
                let width = layer.numbers.len();
                let projections = take(spans.batch() * spans.seq() * width);
                for row in &responding {
                    let response = spans.rows()[*row].response.clone();
                    let empty = || Array2::zeros((self.directions, response.len()));
                    let tokens = found[*row].response_tokens.get_or_insert_with(empty);
                    for (token, position) in response.enumerate() {
                        let at = &projections[(row * spans.seq() + position) * width..];
                        layer.numbers.iter().zip(at).for_each(|(n, p)| tokens[[*n, token]] = *p);
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Stores every token's projections, and no residuals.
struct TokenProjector<'a> {
    layers: &'a [LayerDirections],
    /// Per layer, `[batch × seq × directions of the layer]`.
    found: Vec<Tensor<1>>,
}

impl Hook for TokenProjector<'_> {
    fn name(&self) -> String {
        "token projector".to_owned()
    }

    fn layers(&self) -> LayerSet {
        self.layers.iter().map(|layer| layer.layer).collect()
    }

    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        if let Some(layer) = self.layers.iter().find(|layer| layer.layer == context.layer) {
            let [batch, seq, width] = residual.dims();
            let seen = residual.clone().without_autodiff().reshape([batch * seq, width]).cast(DType::F32);
            self.found.push(seen.matmul(layer.columns.clone()).flatten(0, 1));
        }
        residual
    }

    fn finish(&mut self) -> Result<(), HookError> {
        match self.found.is_empty() {
            true => Err(HookError::NeverFired { hook: self.name() }),
            false => Ok(()),
        }
    }
}
