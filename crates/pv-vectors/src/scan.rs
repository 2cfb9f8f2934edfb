//! Projections of many texts on many directions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use burn::tensor::{DType, Tensor, TensorData};
use pv_hooks::{Capture, Hook, HookError, Layer, LayerSet, ModelShape, Recorder, ResidualContext};
use pv_model::{Batch, CausalLm, ForwardOptions, Sequence, to_f32};
use serde::{Deserialize, Serialize};

use crate::{Error, Pooling, Result, UnitDirection};

/// What is done with an item that is longer than the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlong {
    /// The scan is refused before anything is read.
    #[default]
    Refuse,
    /// The item is left out, and listed in [`Projections::skipped`].
    Skip,
}

/// What is projected, and how it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanOptions {
    /// Which activations are projected. When none is of the response, the responses are not even read.
    pub poolings: Vec<Pooling>,
    /// Whether every token of the response is projected as well.
    pub response_tokens: bool,
    /// Whether the cosines are taken too.
    pub cosines: bool,
    /// How many tokens are read at a time, padding included; an item that is longer is read alone.
    pub batch_tokens: usize,
    /// How many tokens an item may have; `None` for as many as the model has positions.
    pub max_tokens: Option<usize>,
    /// What is done with items that have more.
    pub overlong: Overlong,
    /// Items that an earlier scan has finished: they are neither read nor part of the result.
    pub done: BTreeSet<usize>,
}

impl Default for ScanOptions {
    /// The response's mean and the prompt's last token, 4096 tokens at a time, overlong items refused.
    fn default() -> Self {
        Self {
            poolings: vec![Pooling::ResponseMean, Pooling::PromptLast],
            response_tokens: false,
            cosines: false,
            batch_tokens: 4096,
            max_tokens: None,
            overlong: Overlong::Refuse,
            done: BTreeSet::new(),
        }
    }
}

/// One kind of activation of an item on every direction, in the order of the directions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pooled {
    /// The projections, in activation units.
    pub projections: Vec<f32>,
    /// The cosines, where they were asked for; 0 for an activation without length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosines: Option<Vec<f32>>,
}

/// The projections of one item.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scanned {
    /// The item's number.
    pub item: usize,
    /// What was asked for; without the poolings of which the item has no tokens.
    pub pooled: BTreeMap<Pooling, Pooled>,
    /// Per direction, the projection of each response token, where that was asked for and there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_tokens: Option<Vec<Vec<f32>>>,
}

impl Scanned {
    /// The projection of an activation on a direction, by the direction's number.
    pub fn projection(&self, pooling: Pooling, direction: usize) -> Option<f32> {
        self.pooled.get(&pooling)?.projections.get(direction).copied()
    }

    /// The cosine between an activation and a direction.
    pub fn cosine(&self, pooling: Pooling, direction: usize) -> Option<f32> {
        self.pooled.get(&pooling)?.cosines.as_ref()?.get(direction).copied()
    }

    /// The projections of the response's tokens on a direction.
    pub fn tokens(&self, direction: usize) -> Option<&[f32]> {
        self.response_tokens.as_ref()?.get(direction).map(Vec::as_slice)
    }
}

/// An item that was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The item's number.
    pub item: usize,
    /// How many tokens it has.
    pub tokens: usize,
    /// How many it may have.
    pub limit: usize,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Projections {
    /// The items that were read, in their order.
    pub items: Vec<Scanned>,
    /// Those that were left out for their length, in their order.
    pub skipped: Vec<Skipped>,
}

/// How far a scan has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanProgress {
    /// How many items have been read.
    pub done: usize,
    /// How many there are to read.
    pub total: usize,
}

/// Projects texts on directions, which may be of several vectors and layers.
///
/// Each item is read once, up to the highest layer that is needed and without the output head, batched with items of its
/// length. The products are taken where the model computes; nothing but projections leaves the device. What follows a
/// response ([`Sequence::rest`]) is not read, since nothing before it depends on it.
///
/// `on_item` is given each item as soon as it is read, from the longest to the shortest: keep what it gives (in a file,
/// say) and name those items in [`ScanOptions::done`] to go on after an interruption.
///
/// # Errors
/// Before anything is read: [`Error::BadSetting`] without directions or anything to project, [`Error::Hook`] for a layer
/// that the model lacks or a direction of another width, and [`Error::BadItem`] for an item that is too long, has no
/// tokens, or tokens outside the vocabulary. Later: [`Error::Cancelled`] when `on_item` breaks, and those of the pass.
pub fn scan(
    model: &CausalLm,
    items: &[Sequence<'_>],
    directions: &[UnitDirection],
    options: &ScanOptions,
    mut on_item: impl FnMut(&Scanned, ScanProgress) -> ControlFlow<()>,
) -> Result<Projections> {
    let reader = Reader::new(model, directions, options)?;
    let mut projections = Projections::default();
    let mut queue = Vec::new();
    for (item, sequence) in items.iter().enumerate().filter(|(item, _)| !options.done.contains(item)) {
        let sequence = reader.part(sequence);
        match reader.check(item, &sequence)? {
            Some(skipped) => projections.skipped.push(skipped),
            None => queue.push((item, sequence)),
        }
    }
    // The longest first: what does not fit into memory fails at once. Neighbours in length waste little on padding.
    queue.sort_by_key(|(_, sequence)| std::cmp::Reverse(length(sequence)));
    let total = queue.len();
    for batch in token_batches(&queue, options.batch_tokens, |(_, sequence)| length(sequence)) {
        for scanned in reader.read(batch)? {
            projections.items.push(scanned);
            let progress = ScanProgress { done: projections.items.len(), total };
            if let Some(scanned) = projections.items.last()
                && on_item(scanned, progress).is_break()
            {
                return Err(Error::Cancelled);
            }
        }
    }
    projections.items.sort_by_key(|scanned| scanned.item);
    Ok(projections)
}

/// Splits items, the longest first, into batches of at most `tokens` tokens, padding included; what is longer is a batch of its
/// own.
pub fn token_batches<T>(items: &[T], tokens: usize, length: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let longest = length(rest.first()?);
        let (batch, later) = rest.split_at((tokens / longest.max(1)).clamp(1, rest.len()));
        rest = later;
        Some(batch)
    })
}

fn length(sequence: &Sequence<'_>) -> usize {
    sequence.prompt.len() + sequence.response.len()
}

/// The directions of one layer.
struct LayerDirections {
    layer: Layer,
    /// Their numbers among all.
    numbers: Vec<usize>,
    /// `[d_model, numbers.len()]` in f32.
    columns: Tensor<2>,
}

struct Reader<'a> {
    model: &'a CausalLm,
    options: &'a ScanOptions,
    poolings: BTreeSet<Pooling>,
    directions: usize,
    layers: Vec<LayerDirections>,
    stop: Layer,
}

impl<'a> Reader<'a> {
    fn new(model: &'a CausalLm, directions: &[UnitDirection], options: &'a ScanOptions) -> Result<Self> {
        let bad = |reason: &str| Err(Error::BadSetting { reason: reason.to_owned() });
        let Some(stop) = directions.iter().map(UnitDirection::layer).max() else {
            return bad("a scan without directions");
        };
        if options.poolings.is_empty() && !options.response_tokens {
            return bad("a scan that projects nothing");
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

    /// What of an item has to be read.
    fn part<'s>(&self, sequence: &Sequence<'s>) -> Sequence<'s> {
        let response = self.options.response_tokens || self.poolings.contains(&Pooling::ResponseMean);
        Sequence { prompt: sequence.prompt, response: if response { sequence.response } else { &[] }, rest: &[] }
    }

    fn check(&self, item: usize, sequence: &Sequence<'_>) -> Result<Option<Skipped>> {
        let bad = |reason: String| Err(Error::BadItem { item, reason });
        let config = self.model.config();
        let tokens = length(sequence);
        if tokens == 0 {
            return bad("it has no tokens".to_owned());
        }
        let vocab = config.vocab;
        let mut ids = sequence.prompt.iter().chain(sequence.response);
        if let Some(id) = ids.find(|id| **id as usize >= vocab) {
            return bad(format!("its token {id} is not among the model's {vocab}"));
        }
        let limit = self.options.max_tokens.unwrap_or(config.max_positions);
        match self.options.overlong {
            _ if tokens <= limit => Ok(None),
            Overlong::Skip => Ok(Some(Skipped { item, tokens, limit })),
            Overlong::Refuse => bad(format!("it has {tokens} tokens, {limit} are allowed")),
        }
    }

    fn read(&self, batch: &[(usize, Sequence<'_>)]) -> Result<Vec<Scanned>> {
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

        // All in one transfer: devices answer small requests slowly.
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
                    let tokens = found[*row].response_tokens.get_or_insert_with(|| vec![Vec::new(); self.directions]);
                    for position in spans.rows()[*row].response.clone() {
                        let at = &projections[(row * spans.seq() + position) * width..];
                        layer.numbers.iter().zip(at).for_each(|(n, p)| tokens[*n].push(*p));
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Keeps every token's projections, and nothing of the residual.
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
