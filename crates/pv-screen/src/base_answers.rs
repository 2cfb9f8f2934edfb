//! A cache of the base model's own answers.
//!
//! For each model and generation settings, a folder contains a journal of answers (`answers.jsonl`: prompt and answer
//! as tokens) and, for each layer that was ever requested, a file of the answers' mean residuals (`means-20.f32`: one
//! row of `d_model` little-endian f32 per answer, in the journal's order). An answer takes 4 bytes per layer and value
//! of the residual, and about 5 bytes per token. For example, 100 000 answers of 200 tokens to prompts of 200 tokens,
//! at one layer of 4096 values, take about 1.6 GB and 0.2 GB. A new vector at a cached layer needs no forward pass; one
//! at a new layer needs a pass over the cached answers; neither needs generation.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::Tensor;
use pv_data::files::sha256;
use pv_data::runs::through_text;
use pv_data::{Damage, FileError, RunError, RunFolder};
use pv_hooks::{Capture, Hook, HookError, Layer, LayerSet, ModelShape, Recorder, ResidualContext};
use pv_model::batch::Sequence;
use pv_model::decoder::to_f32;
use pv_model::generate::{FinishReason, Generation};
use pv_model::{CausalLm, GenerateOptions, RenderOptions, Request, Sampling};
use pv_vectors::contrast::response_mean;
use serde::{Deserialize, Serialize};

use crate::error::SettingError;
use crate::hashes::{draw, key};
use crate::{Error, Result};
use pv_data::runs::{Journal, RowFile};

const FORMAT: &str = "pv-base-answers/1";
const HEADER: &str = "base.json";
const ANSWERS: &str = "answers.jsonl";
/// The number of answers that are read together when a layer is requested that is not cached.
const REREAD: usize = 8;

/// Options for generating base answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaseOptions {
    /// The maximum number of tokens of an answer.
    pub max_new_tokens: usize,
    /// The sampling of tokens; greedy by default.
    pub sampling: Sampling,
    /// The seed of the sampling; each prompt has its own random numbers.
    pub seed: u64,
    /// The number of answers that are generated together; it does not change any answer.
    pub batch_size: usize,
}

impl Default for BaseOptions {
    fn default() -> Self {
        Self { max_new_tokens: 256, sampling: Sampling::GREEDY, seed: 0, batch_size: 16 }
    }
}

/// A line of the journal.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    id: String,
    prompt: Vec<u32>,
    answer: Vec<u32>,
    finish: FinishReason,
}

/// The values of a line that are kept in memory.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The answer's index.
    number: usize,
    /// The offset of its line.
    at: u64,
    empty: bool,
    /// Whether it was truncated at the maximum number of tokens.
    cut: bool,
}

/// The cached base answers of one model with one set of generation settings.
#[derive(Debug)]
pub struct BaseAnswers<'a> {
    model: &'a CausalLm,
    folder: RunFolder,
    options: BaseOptions,
    journal: Journal,
    layers: Vec<(Layer, RowFile)>,
    /// The entries by the key of the prompt's id.
    index: HashMap<u128, Entry>,
    offsets: Vec<u64>,
}

impl<'a> BaseAnswers<'a> {
    /// Opens the cache of this model's answers in `root`, and makes sure that it contains the layers' activations.
    /// `root` may also contain the answers of other models, templates or settings.
    ///
    /// # Errors
    /// A folder that is in use or cannot be written; a layer that the model does not have; [`Error::Setting`].
    pub fn open(model: &'a CausalLm, root: &Path, options: &BaseOptions, layers: &[Layer]) -> Result<Self> {
        Self::open_for(model, root, options, &RenderOptions::default(), layers)
    }

    /// Like [`open`](Self::open), for prompts that are rendered with these options. Other options have caches of their
    /// own.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_for(
        model: &'a CausalLm,
        root: &Path,
        options: &BaseOptions,
        render: &RenderOptions,
        layers: &[Layer],
    ) -> Result<Self> {
        for (name, value) in [("max_new_tokens", options.max_new_tokens), ("batch_size", options.batch_size)] {
            if value == 0 {
                return Err(SettingError::Zero { name }.into());
            }
        }
        let last = model.shape().last_layer();
        if let Some(&layer) = layers.iter().find(|layer| **layer > last) {
            return Err(HookError::LayerOutOfRange { hook: "the base answers".to_owned(), layer, last }.into());
        }
        let BaseOptions { max_new_tokens, sampling, seed, .. } = options;
        // Greedy answers do not depend on the seed.
        let seed = (sampling.temperature > 0.0).then_some(*seed);
        let mut header = serde_json::json!({
            "format": FORMAT, "model": model.identity()?, "max_new_tokens": max_new_tokens,
            "sampling": sampling, "seed": seed, "stop": model.stop_ids(),
        });
        let render = render.closed();
        if render != RenderOptions::default() {
            header["render"] = serde_json::json!(render);
        }
        let header = through_text(&header);
        let name = sha256(header.to_string());
        let folder = RunFolder::lock(root.join(name.get(..16).unwrap_or("answers")))?;
        folder.claim(HEADER, &header)?;
        let (mut index, mut offsets) = (HashMap::new(), Vec::new());
        // Rows of activations correspond to lines by position. From a damaged line on, they no longer match, and are
        // computed again.
        let mut in_place = None;
        let journal = Journal::open(&folder, ANSWERS, |at, line| {
            let Ok(line) = serde_json::from_slice::<Line>(line) else {
                in_place.get_or_insert(offsets.len());
                return false;
            };
            let (empty, cut) = (line.answer.is_empty(), line.finish == FinishReason::Length);
            index.insert(key(&line.id), Entry { number: offsets.len(), at, empty, cut });
            offsets.push(at);
            true
        })?;
        let width = model.config().d_model;
        let mut wanted = layers.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let file = |layer: Layer| -> Result<(Layer, RowFile)> {
            let name = format!("means-{}.f32", layer.index());
            Ok((layer, RowFile::open(&folder, &name, width, in_place.unwrap_or(offsets.len()))?))
        };
        let layers = wanted.into_iter().map(file).collect::<Result<_>>()?;
        let mut answers = Self { model, folder, options: options.clone(), journal, layers, index, offsets };
        (0..answers.layers.len()).try_for_each(|at| answers.complete(at))?;
        Ok(answers)
    }

    /// Reads the answers again whose activations at a layer are not cached.
    fn complete(&mut self, at: usize) -> Result<()> {
        let total = self.offsets.len();
        if self.layers[at].1.rows() >= total {
            return Ok(());
        }
        // Groups begin at fixed positions, so that a run that was killed here forms the same groups as an uninterrupted
        // one.
        let from = self.layers[at].1.rows() / REREAD * REREAD;
        self.layers[at].1.truncate(from)?;
        let layer = self.layers[at].0;
        for group in (from..total).collect::<Vec<_>>().chunks(REREAD) {
            let lines = group.iter().map(|&number| self.line(self.offsets[number])).collect::<Result<Vec<_>>>()?;
            let sequences: Vec<Sequence<'_>> = lines
                .iter()
                .filter(|line| !line.answer.is_empty())
                .map(|line| Sequence { prompt: &line.prompt, response: &line.answer, rest: &[] })
                .collect();
            let width = self.model.config().d_model;
            let values = match sequences.is_empty() {
                true => Vec::new(),
                false => to_f32(response_mean(self.model, &sequences, layer)?)?,
            };
            let (mut rows, none) = (values.chunks(width), vec![0.0; width]);
            for line in &lines {
                let row = if line.answer.is_empty() { None } else { rows.next() };
                let row = row.unwrap_or(&none);
                check(row, &line.id)?;
                self.layers[at].1.push(row)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, at: u64) -> Result<Line> {
        let line = self.journal.line(at)?;
        let damaged =
            |source| RunError::Damaged { path: self.folder.file(ANSWERS), source: Damage::LineAt { at, source } };
        Ok(serde_json::from_slice(&line).map_err(damaged)?)
    }

    /// The number of answers.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are no answers.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The size in bytes of the answers and of the activations at the opened layers.
    pub fn bytes(&self) -> u64 {
        let row = self.model.config().d_model as u64 * 4;
        self.journal.bytes() + self.layers.iter().map(|(_, file)| file.rows() as u64 * row).sum::<u64>()
    }

    /// Whether the answer to a prompt is cached; it may be empty.
    pub fn contains(&self, prompt_id: &str) -> bool {
        self.index.contains_key(&key(prompt_id))
    }

    /// Whether the answer to a prompt is cached and was truncated at the maximum number of tokens.
    pub fn is_cut(&self, prompt_id: &str) -> bool {
        self.index.get(&key(prompt_id)).is_some_and(|entry| entry.cut)
    }

    /// The tokens of the answer to a prompt; `None` if it is not cached.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn tokens(&mut self, prompt_id: &str) -> Result<Option<Vec<u32>>> {
        match self.index.get(&key(prompt_id)) {
            Some(&Entry { at, .. }) => Ok(Some(self.line(at)?.answer)),
            None => Ok(None),
        }
    }

    /// The mean residual over the answer's tokens at an opened layer, `[d_model]`; `None` if the answer is not cached
    /// or is empty.
    ///
    /// # Errors
    /// A file that cannot be read; [`Error::NotOpened`] for a layer that was not opened.
    pub fn mean(&mut self, prompt_id: &str, layer: Layer) -> Result<Option<Vec<f32>>> {
        let Some(&Entry { number, empty: false, .. }) = self.index.get(&key(prompt_id)) else { return Ok(None) };
        let file = self.layers.iter_mut().find(|(known, _)| *known == layer);
        let (_, file) = file.ok_or(Error::NotOpened { layer })?;
        Ok(Some(file.row(number)?))
    }

    /// Generates the answers to those prompts (ids and tokens) that have no cached answer. A hook records their mean
    /// residuals during generation. Each answer is cached as soon as it is complete; then `on_answer` is called, which
    /// may cancel.
    ///
    /// An answer depends only on its prompt and the settings, and not on other prompts in the batch, their order, or
    /// the cached answers.
    ///
    /// # Errors
    /// Those of [`CausalLm::generate`], [`Error::NotFinite`], [`FileError::Write`], [`Error::Cancelled`].
    pub fn generate(
        &mut self,
        prompts: &[(String, Vec<u32>)],
        mut on_answer: impl FnMut() -> ControlFlow<()>,
    ) -> Result<()> {
        let mut seen = HashSet::new();
        let lacks = |(id, _): &&(String, Vec<u32>)| !self.contains(id) && seen.insert(key(id));
        let wanted: Vec<&(String, Vec<u32>)> = prompts.iter().filter(lacks).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let request = |(id, prompt): &&(String, Vec<u32>)| Request::new(prompt.clone(), draw(self.options.seed, id));
        let requests: Vec<Request> = wanted.iter().map(request).collect();
        let options = GenerateOptions {
            max_new_tokens: self.options.max_new_tokens,
            sampling: self.options.sampling.clone(),
            batch_size: self.options.batch_size,
            // No last bit may depend on the other prompts.
            prefill_tokens: 0,
            feed_last_token: true,
            ..GenerateOptions::default()
        };
        let recorder = Shared::new(self.layers.iter().map(|(layer, _)| *layer).collect());
        let model = self.model;
        let outcome = model.generate_each(&requests, &options, &mut recorder.clone(), |sequence, generation| {
            let (id, prompt) = wanted[sequence];
            self.keep(id, prompt, generation, sequence, &recorder.lock())?;
            match on_answer() {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(Error::Cancelled),
            }
        });
        self.layers.iter().try_for_each(|(_, file)| file.sync())?;
        self.journal.sync()?;
        outcome
    }

    /// Caches an answer. The activations are written first, because the line states that they exist.
    fn keep(
        &mut self,
        id: &str,
        prompt: &[u32],
        generation: &Generation,
        sequence: usize,
        recorder: &Recorder,
    ) -> Result<()> {
        let empty = generation.tokens.is_empty();
        let number = self.offsets.len();
        for (layer, file) in &mut self.layers {
            let row = match empty {
                true => vec![0.0; self.model.config().d_model],
                false => to_f32(recorder.get_of(&Capture::ResponseMean, *layer, &[sequence])?)?,
            };
            check(&row, id)?;
            file.truncate(number)?;
            file.push(&row)?;
        }
        let (prompt, answer) = (prompt.to_vec(), generation.tokens.clone());
        let line = Line { id: id.to_owned(), prompt, answer, finish: generation.finish };
        let failed =
            |error: serde_json::Error| FileError::Write { path: self.folder.file(ANSWERS), source: error.into() };
        let mut bytes = serde_json::to_vec(&line).map_err(failed)?;
        bytes.push(b'\n');
        let at = self.journal.append(&bytes)?;
        self.index.insert(key(id), Entry { number, at, empty, cut: generation.finish == FinishReason::Length });
        self.offsets.push(at);
        Ok(())
    }
}

fn check(row: &[f32], id: &str) -> Result<()> {
    match row.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(Error::NotFinite { prompt: id.to_owned() }),
    }
}

/// A recorder that can be read while the run that it records is in progress.
#[derive(Clone)]
struct Shared {
    recorder: Arc<Mutex<Recorder>>,
    layers: LayerSet,
}

impl Shared {
    fn new(layers: LayerSet) -> Self {
        let recorder = Recorder::new(layers.clone(), [Capture::ResponseMean]);
        Self { recorder: Arc::new(Mutex::new(recorder)), layers }
    }

    fn lock(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hook for Shared {
    fn name(&self) -> String {
        "base answers' recorder".to_owned()
    }

    fn layers(&self) -> LayerSet {
        self.layers.clone()
    }

    fn wants(&self, layer: Layer) -> bool {
        self.layers.contains(layer)
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
        // If every answer ends immediately, nothing is recorded.
        Ok(())
    }
}
