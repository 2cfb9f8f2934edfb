//! The hook that looks and changes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};
use pv_hooks::{Hook, HookError, Layer, LayerSet, ModelShape, ResidualContext};
use pv_model::to_f32;

use super::passes::{Places, State};
use super::{Answer, At, Reading, Result, Watch, watch};

/// Passes whose projections may lie on the device before they are fetched unasked, so that they do not pile up there.
const MOST_PENDING: usize = 256;

/// Projects the prompt's last token and each token of the answer on the watched directions, and every token of the prompt
/// where it is asked to.
///
/// Each pass costs one product `[tokens, d_model] × [d_model, directions]` per watched layer, and nothing is fetched from
/// the device until it is read through [`Readings`]: then all layers of all passes so far, in one transfer. The residual
/// goes on unchanged, bit for bit. What stands before the monitor among the hooks has acted, what stands after it has not.
///
/// In a generation, prompts that share a reading share its projections. The last token of an answer is seen only where it
/// is fed back ([`GenerateOptions::feed_last_token`](pv_model::GenerateOptions::feed_last_token)).
///
/// A monitor may serve one run after the other; the next run's first pass forgets the readings of the last.
#[derive(Debug)]
pub struct Monitor {
    layers: Vec<LayerColumns>,
    readings: Readings,
    prompt_tokens: bool,
    /// What the passes since the lowest layer have in common.
    pass: Option<Arc<Places>>,
}

/// The directions of one layer.
#[derive(Debug)]
struct LayerColumns {
    layer: Layer,
    /// Their numbers among all.
    numbers: Vec<usize>,
    d_model: usize,
    /// `[d_model, numbers.len()]`; empty when the directions differ in width, which `validate` refuses.
    values: Vec<f32>,
    /// The widths as they were given.
    widths: Vec<usize>,
    /// The values on the device that asked last.
    on_device: Option<(Device, Tensor<2>)>,
}

/// The readings of a [`Monitor`]: a handle that can be read, from any thread, while the run goes on.
#[derive(Clone, Debug)]
pub struct Readings {
    watches: Arc<[Watch]>,
    /// Per watched layer from the lowest up, the numbers of its directions.
    numbers: Arc<[Vec<usize>]>,
    state: Arc<Mutex<State>>,
}

impl Monitor {
    /// A monitor of these directions, in this order.
    ///
    /// # Errors
    /// [`Error::NoWatches`](crate::Error::NoWatches), or
    /// [`Error::WatchedTwice`](crate::Error::WatchedTwice) for two directions of one name at one layer.
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

    /// Projects every token of the prompt too: what is ordinary there is not what is ordinary in an answer, and a cap at
    /// prompt tokens needs a threshold of their own
    /// ([`Kind::PromptToken`](super::Kind::PromptToken)).
    #[must_use]
    pub fn with_prompt_tokens(self) -> Self {
        Self { prompt_tokens: true, ..self }
    }

    /// The handle by which the projections are read.
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

    /// The directions as `[d_model, directions]` beside a residual without autodiff.
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
            // A pass with nothing but the middle of a prompt, say.
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

    /// Takes note that a pass begins.
    fn begin(&self, places: &Places) {
        let mut state = self.lock();
        if std::mem::take(&mut state.over) {
            *state = State::default();
        }
        state.seen |= !places.slots.is_empty();
        if state.pending.len() >= MOST_PENDING {
            // What fails here stays, and fails again where it can be told.
            let _ = self.fetch(&mut state);
        }
    }

    fn fetched(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        self.fetch(&mut state)?;
        Ok(state)
    }

    /// Fetches the whole passes that are still on the device, in one transfer.
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

    /// What is watched, in the order of the values of every [`Reading`].
    pub fn watches(&self) -> &[Watch] {
        &self.watches
    }

    /// What has been read since the last call: of each sequence, from the lowest number up, the prompt's tokens where they
    /// were asked for, its last token, the answer's tokens, each in order, and their mean once the answer has ended.
    ///
    /// At [`Event::Prefill`](pv_model::Event::Prefill) the prompt's last token is there, before any token is sampled. At
    /// the event of a token, those before it are: a token's projection belongs to the pass that it is fed to. That an answer has
    /// ended shows in the next pass, which goes on without it, and for the last ones when the run is over: ask once more
    /// then, or nothing is said of their means.
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
            for (i, values) in answer.prompt_tokens().iter().enumerate().skip(told.prompt_tokens) {
                found.push(Reading { sequence, at: At::PromptToken(i), values: values.clone() });
            }
            told.prompt_tokens = answer.prompt_tokens().len();
            if let Some(values) = answer.prompt_last().filter(|_| !told.prompt_last) {
                told.prompt_last = true;
                found.push(Reading { sequence, at: At::PromptLast, values: values.to_vec() });
            }
            for (i, values) in answer.tokens().iter().enumerate().skip(told.tokens) {
                found.push(Reading { sequence, at: At::Token(i), values: values.clone() });
            }
            told.tokens = answer.tokens().len();
            if let Some(values) = answer.mean().filter(|_| ended.remove(&sequence)) {
                found.push(Reading { sequence, at: At::ResponseMean, values });
            }
        }
        Ok(found)
    }

    /// What has been read of a sequence so far; `None` when nothing has.
    ///
    /// # Errors
    /// Those of the transfer from the device.
    pub fn answer(&self, sequence: usize) -> Result<Option<Answer>> {
        Ok(self.fetched()?.answers.get(&sequence).cloned())
    }

    /// As [`answer`](Self::answer), and forgets it: for runs of many sequences.
    ///
    /// # Errors
    /// Those of the transfer from the device.
    pub fn take(&self, sequence: usize) -> Result<Option<Answer>> {
        let mut state = self.fetched()?;
        state.forget(sequence);
        Ok(state.answers.remove(&sequence))
    }

    /// Everything that has been read and not taken, by sequence, and forgets it.
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
