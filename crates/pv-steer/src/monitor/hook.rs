//! The monitoring hook, which changes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};
use pv_hooks::{Hook, HookError, Layer, LayerSet, ModelShape, ResidualContext};
use pv_model::decoder::to_f32;

use super::passes::{Places, State};
use super::reading::{Answer, At, Reading};
use super::watch::{self, Watch};
use crate::Result;

/// The number of passes after which projections are fetched without a request, so that they do not accumulate on the
/// device.
const MOST_PENDING: usize = 256;

/// Projects the prompt's last token and each token of the answer on the watched directions, and on request every token
/// of the prompt.
///
/// Each pass costs one product `[tokens, d_model] × [d_model, directions]` per watched layer. Nothing is fetched from
/// the device until it is read through [`Readings`]; then all layers of all passes so far are fetched in one transfer.
/// The residual is unchanged, bit for bit. Hooks before the monitor have acted on it; hooks after the monitor have not.
///
/// In a generation, prompts that share a computation share its projections. The last token of an answer is seen only if
/// it is fed back ([`GenerateOptions::feed_last_token`](pv_model::GenerateOptions::feed_last_token)).
///
/// A monitor may be used for several runs; the first pass of a run discards the readings of the previous one.
#[derive(Debug)]
pub struct Monitor {
    layers: Vec<LayerColumns>,
    readings: Readings,
    prompt_tokens: bool,
    /// The places that all layers of the current pass share.
    pass: Option<Arc<Places>>,
}

/// The directions of one layer.
#[derive(Debug)]
struct LayerColumns {
    layer: Layer,
    /// Their indices among all directions.
    numbers: Vec<usize>,
    d_model: usize,
    /// `[d_model, numbers.len()]`; empty if the directions differ in width, which `validate` refuses.
    values: Vec<f32>,
    /// The widths of the directions.
    widths: Vec<usize>,
    /// The values on the device of the last pass.
    on_device: Option<(Device, Tensor<2>)>,
}

/// The readings of a [`Monitor`]: a handle that can be read from any thread during the run.
#[derive(Clone, Debug)]
pub struct Readings {
    watches: Arc<[Watch]>,
    /// Per watched layer, from the lowest up, the indices of its directions.
    numbers: Arc<[Vec<usize>]>,
    state: Arc<Mutex<State>>,
}

impl Monitor {
    /// A monitor of these directions, in this order.
    ///
    /// # Errors
    /// [`MonitorError::NoWatches`](crate::error::MonitorError::NoWatches), or [`MonitorError::WatchedTwice`](crate::error::MonitorError::WatchedTwice) for two
    /// directions with the same name and layer.
    pub fn new(watches: impl IntoIterator<Item = Watch>) -> Result<Self> {
        let watches: Arc<[Watch]> = watches.into_iter().collect();
        watch::check(&watches)?;
        let mut numbers: BTreeMap<Layer, Vec<usize>> = BTreeMap::new();
        for (number, watch) in watches.iter().enumerate() {
            numbers.entry(watch.layer()).or_default().push(number);
        }
        let layers: Vec<LayerColumns> =
            numbers.into_iter().map(|(layer, numbers)| LayerColumns::new(layer, numbers, &watches)).collect();
        let numbers = layers.iter().map(|layer| layer.numbers.clone()).collect();
        let readings = Readings { watches, numbers, state: Arc::default() };
        Ok(Self { layers, readings, prompt_tokens: false, pass: None })
    }

    /// Also projects every token of the prompt. Projections at prompt tokens are distributed differently from those in
    /// answers, and a cap at prompt tokens needs a separate threshold
    /// ([`Kind::PromptToken`](super::Kind::PromptToken)).
    #[must_use]
    pub fn with_prompt_tokens(self) -> Self {
        Self { prompt_tokens: true, ..self }
    }

    /// The handle for reading the projections.
    pub fn readings(&self) -> Readings {
        self.readings.clone()
    }
}

impl LayerColumns {
    fn new(layer: Layer, numbers: Vec<usize>, watches: &[Watch]) -> Self {
        let columns: Vec<&[f32]> = numbers.iter().map(|n| watches[*n].direction.values()).collect();
        let widths: Vec<usize> = columns.iter().map(|column| column.len()).collect();
        let d_model = widths[0];
        let equal = widths.iter().all(|width| *width == d_model);
        let values = (0..if equal { d_model } else { 0 }).flat_map(|i| columns.iter().map(move |c| c[i])).collect();
        Self { layer, numbers, d_model, values, widths, on_device: None }
    }

    /// The directions as `[d_model, directions]`, for a residual without autodiff.
    fn columns(&mut self, device: &Device) -> Tensor<2> {
        match &self.on_device {
            Some((known, columns)) if known == device => columns.clone(),
            _ => {
                let data = TensorData::new(self.values.clone(), [self.d_model, self.numbers.len()]);
                let columns = Tensor::from_data(data, (device, DType::F32));
                self.on_device = Some((device.clone(), columns.clone()));
                columns
            }
        }
    }
}

impl Hook for Monitor {
    fn name(&self) -> String {
        "monitor".to_owned()
    }

    fn layers(&self) -> LayerSet {
        self.layers.iter().map(|layer| layer.layer).collect()
    }

    fn wants(&self, layer: Layer) -> bool {
        self.layers.iter().any(|watched| watched.layer == layer)
    }

    fn validate(&self, shape: &ModelShape) -> Result<(), HookError> {
        for layer in &self.layers {
            if let Some(&found) = layer.widths.iter().find(|width| **width != shape.d_model) {
                let (expected, layer) = (shape.d_model, layer.layer);
                return Err(HookError::WidthMismatch { hook: self.name(), layer, expected, found });
            }
        }
        Ok(())
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        let Some(at) = self.layers.iter().position(|layer| layer.layer == context.layer) else { return residual };
        let seen = residual.clone().without_autodiff();
        let device = seen.device();
        if at == 0 {
            let places = Arc::new(Places::new(context, self.prompt_tokens, &device));
            self.readings.begin(&places);
            // A pass over the middle of a prompt, for example, has no places.
            self.pass = (!places.slots.is_empty()).then_some(places);
        }
        let Some(places) = self.pass.clone() else { return residual };
        let [batch, seq, d_model] = seen.dims();
        let seen = seen.reshape([batch * seq, d_model]);
        let seen = match &places.gather {
            Some(indices) => seen.select(0, indices.clone()),
            None => seen,
        };
        let product = seen.cast(DType::F32).matmul(self.layers[at].columns(&device));
        let mut state = self.readings.lock();
        if at == 0 {
            state.pending.push((places, vec![product]));
        } else if let Some((_, products)) = state.pending.last_mut() {
            products.push(product);
        }
        residual
    }

    fn shares_prefix(&self, _sequences: &[usize]) -> bool {
        !self.prompt_tokens
    }

    fn finish(&mut self) -> Result<(), HookError> {
        let mut state = self.readings.lock();
        state.over = true;
        match std::mem::take(&mut state.seen) {
            true => Ok(()),
            false => Err(HookError::NeverFired { hook: "monitor".to_owned() }),
        }
    }
}

impl Readings {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a pass begins.
    fn begin(&self, places: &Places) {
        let mut state = self.lock();
        if std::mem::take(&mut state.over) {
            *state = State::default();
        }
        state.seen |= !places.slots.is_empty();
        if state.pending.len() >= MOST_PENDING {
            // A failure leaves the data in place, and occurs again where it can be reported.
            let _ = self.fetch(&mut state);
        }
    }

    fn fetched(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        self.fetch(&mut state)?;
        Ok(state)
    }

    /// Fetches the complete passes that are still on the device, in one transfer.
    fn fetch(&self, state: &mut State) -> Result<()> {
        let whole = state.pending.iter().take_while(|(_, products)| products.len() == self.numbers.len()).count();
        if whole == 0 {
            return Ok(());
        }
        let products = state.pending[..whole].iter().flat_map(|(_, products)| products);
        let flat: Vec<Tensor<1>> = products.map(|product| product.clone().flatten(0, 1)).collect();
        let values = to_f32(Tensor::cat(flat, 0))?;
        let mut values = values.as_slice();
        let passes: Vec<Arc<Places>> = state.pending.drain(..whole).map(|(places, _)| places).collect();
        for places in passes {
            for sequence in &places.fresh {
                state.forget(*sequence);
                state.answers.insert(*sequence, Answer::default());
            }
            let products: Vec<(&[usize], &[f32])> = self
                .numbers
                .iter()
                .map(|numbers| {
                    let product = values.split_off(..places.rows * numbers.len()).unwrap_or_default();
                    (numbers.as_slice(), product)
                })
                .collect();
            for (row, sequences, at) in &places.slots {
                let mut reading = vec![0.0; self.watches.len()];
                for (numbers, product) in &products {
                    let row = &product[row * numbers.len()..];
                    numbers.iter().zip(row).for_each(|(number, value)| reading[*number] = *value);
                }
                for sequence in sequences {
                    state.answers.entry(*sequence).or_default().add(*at, reading.clone());
                    state.news.insert(*sequence);
                    if let At::Token(_) = at {
                        state.open.insert(*sequence);
                    }
                }
            }
            state.close(&places);
        }
        Ok(())
    }

    /// The watched directions, in the order of the values of every [`Reading`].
    pub fn watches(&self) -> &[Watch] {
        &self.watches
    }

    /// The new readings since the last call. For each sequence, in ascending order: the prompt's tokens if requested,
    /// its last token, the answer's tokens, each in order, and their mean once the answer has ended.
    ///
    /// At [`Event::Prefill`](pv_model::generate::Event::Prefill) the reading of the prompt's last token is available,
    /// before any token is sampled. At the event of a token, the readings of the tokens before it are available: a
    /// token's projection belongs to the pass that it is fed to. The end of an answer shows in the next pass, which
    /// continues without it, and for the last answers at the end of the run: call this once more then, or their means
    /// are not reported.
    ///
    /// # Errors
    /// Those of the transfer from the device.
    pub fn news(&self) -> Result<Vec<Reading>> {
        let mut state = self.fetched()?;
        if state.over {
            let open: Vec<usize> = state.open.iter().copied().collect();
            open.into_iter().for_each(|sequence| state.end(sequence));
        }
        let State { answers, told, news, ended, .. } = &mut *state;
        let mut found = Vec::new();
        for sequence in std::mem::take(news) {
            let Some(answer) = answers.get(&sequence) else { continue };
            let told = told.entry(sequence).or_default();
            for (i, row) in answer.prompt_tokens().outer_iter().enumerate().skip(told.prompt_tokens) {
                found.push(Reading { sequence, at: At::PromptToken(i), values: row.to_vec() });
            }
            told.prompt_tokens = answer.prompt_tokens().nrows();
            if let Some(values) = answer.prompt_last().filter(|_| !told.prompt_last) {
                told.prompt_last = true;
                found.push(Reading { sequence, at: At::PromptLast, values: values.to_vec() });
            }
            for (i, row) in answer.tokens().outer_iter().enumerate().skip(told.tokens) {
                found.push(Reading { sequence, at: At::Token(i), values: row.to_vec() });
            }
            told.tokens = answer.tokens().nrows();
            if let Some(values) = answer.mean().filter(|_| ended.remove(&sequence)) {
                found.push(Reading { sequence, at: At::ResponseMean, values });
            }
        }
        Ok(found)
    }

    /// The readings of a sequence so far; `None` if there are none.
    ///
    /// # Errors
    /// Those of the transfer from the device.
    pub fn answer(&self, sequence: usize) -> Result<Option<Answer>> {
        Ok(self.fetched()?.answers.get(&sequence).cloned())
    }

    /// Like [`answer`](Self::answer), but removes the readings: for runs with many sequences.
    ///
    /// # Errors
    /// Those of the transfer from the device.
    pub fn take(&self, sequence: usize) -> Result<Option<Answer>> {
        let mut state = self.fetched()?;
        state.forget(sequence);
        Ok(state.answers.remove(&sequence))
    }

    /// Removes and returns all remaining readings, by sequence.
    ///
    /// # Errors
    /// Those of the transfer from the device.
    pub fn take_all(&self) -> Result<BTreeMap<usize, Answer>> {
        let mut state = self.fetched()?;
        let answers = std::mem::take(&mut state.answers);
        answers.keys().for_each(|sequence| state.forget(*sequence));
        Ok(answers)
    }
}
