//! The base model's own answers, made once and kept.
//!
//! A folder holds, for each model and way of generating, a journal of answers (`answers.jsonl`: prompt and answer in
//! tokens) and, for each layer that was ever asked for, a file of their mean residuals (`means-20.f32`: one row of `d_model`
//! little-endian f32 per answer, in the journal's order). An answer takes 4 bytes per layer and value of the residual and about
//! 5 bytes per token: 100 000 answers of 200 tokens to prompts of 200, at one layer of 4096 values, about 1.6 GB and 0.2 GB.
//! A new vector at a known layer costs no pass at all, one at a new layer a pass over the kept answers, and never a generation.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::Tensor;
use pv_data::runs::through_text;
use pv_data::{FileError, RunError, RunFolder, sha256};
use pv_hooks::{Capture, Hook, HookError, Layer, LayerSet, ModelShape, Recorder, ResidualContext};
use pv_model::{
    CausalLm, FinishReason, GenerateOptions, Generation, RenderOptions, Request, Sampling, Sequence, to_f32,
};
use pv_vectors::response_mean;
use serde::{Deserialize, Serialize};

use crate::hashes::{draw, key};
use crate::{Error, Result};
use pv_data::runs::{Journal, RowFile};

const FORMAT: &str = "pv-base-answers/1";
const HEADER: &str = "base.json";
const ANSWERS: &str = "answers.jsonl";
/// So many answers are read together when a layer is asked for that was not kept.
const REREAD: usize = 8;

/// How base answers are generated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaseOptions {
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
    /// How tokens are chosen; greedy by default.
    pub sampling: Sampling,
    /// Seeds sampling, for each prompt by itself.
    pub seed: u64,
    /// How many answers are generated together; it changes none of them.
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

/// What is remembered of a line.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The answer's number.
    number: usize,
    /// Where its line begins.
    at: u64,
    empty: bool,
    /// Whether it ended at the most tokens.
    cut: bool,
}

/// The kept base answers of one model, generated in one way.
#[derive(Debug)]
pub struct BaseAnswers<'a> {
    model: &'a CausalLm,
    folder: RunFolder,
    options: BaseOptions,
    journal: Journal,
    layers: Vec<(Layer, RowFile)>,
    /// By the key of the prompt's id.
    index: HashMap<u128, Entry>,
    offsets: Vec<u64>,
}

impl<'a> BaseAnswers<'a> {
    /// Opens what `root` keeps of this model's answers, and makes sure that the layers' activations are there. Answers of other
    /// models, templates or settings stand beside them and do not matter.
    ///
    /// # Errors
    /// A folder that is in use or cannot be written; a layer that the model lacks; [`Error::BadSetting`].
    pub fn open(model: &'a CausalLm, root: &Path, options: &BaseOptions, layers: &[Layer]) -> Result<Self> {
        Self::open_for(model, root, options, &RenderOptions::default(), layers)
    }

    /// As [`open`](Self::open), for prompts that are rendered with these options: those of other options stand beside them.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_for(
        model: &'a CausalLm,
        root: &Path,
        options: &BaseOptions,
        render: &RenderOptions,
        layers: &[Layer],
    ) -> Result<Self> {
        if options.max_new_tokens == 0 || options.batch_size == 0 {
            return Err(Error::bad("base answers of no tokens, or no answers at a time"));
        }
        let last = model.shape().last_layer();
        if let Some(&layer) = layers.iter().find(|layer| **layer > last) {
            return Err(HookError::LayerOutOfRange { hook: "the base answers".to_owned(), layer, last }.into());
        }
        let BaseOptions { max_new_tokens, sampling, seed, .. } = options;
        // Greedy answers are the same whatever the seed.
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
        // Rows of activations stand beside lines: from a damaged line on they are another one's, and are read again.
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

    /// Reads the answers again whose activations at a layer were not kept.
    fn complete(&mut self, at: usize) -> Result<()> {
        let total = self.offsets.len();
        if self.layers[at].1.rows() >= total {
            return Ok(());
        }
        // From a fixed place on, so that a run that was killed here groups as one that was not.
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
        let damaged = |error: serde_json::Error| RunError::Damaged {
            path: self.folder.file(ANSWERS),
            reason: format!("the line at byte {at}: {error}"),
        };
        Ok(serde_json::from_slice(&line).map_err(damaged)?)
    }

    /// How many answers there are.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes that the answers and the activations at the opened layers take.
    pub fn bytes(&self) -> u64 {
        let row = self.model.config().d_model as u64 * 4;
        self.journal.bytes() + self.layers.iter().map(|(_, file)| file.rows() as u64 * row).sum::<u64>()
    }

    /// Whether the answer to a prompt is there, empty or not.
    pub fn contains(&self, prompt_id: &str) -> bool {
        self.index.contains_key(&key(prompt_id))
    }

    /// Whether the answer to a prompt is there and was cut at the most tokens.
    pub fn is_cut(&self, prompt_id: &str) -> bool {
        self.index.get(&key(prompt_id)).is_some_and(|entry| entry.cut)
    }

    /// The tokens of the answer to a prompt; `None` where it was not generated.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn tokens(&mut self, prompt_id: &str) -> Result<Option<Vec<u32>>> {
        match self.index.get(&key(prompt_id)) {
            Some(&Entry { at, .. }) => Ok(Some(self.line(at)?.answer)),
            None => Ok(None),
        }
    }

    /// The mean residual of the answer's tokens at an opened layer, `[d_model]`; `None` where it was not generated or is
    /// empty.
    ///
    /// # Errors
    /// A file that cannot be read; [`Error::BadSetting`] for another layer.
    pub fn mean(&mut self, prompt_id: &str, layer: Layer) -> Result<Option<Vec<f32>>> {
        let Some(&Entry { number, empty: false, .. }) = self.index.get(&key(prompt_id)) else { return Ok(None) };
        let file = self.layers.iter_mut().find(|(known, _)| *known == layer);
        let (_, file) = file.ok_or_else(|| Error::bad(format!("the base answers were not opened for {layer}")))?;
        Ok(Some(file.row(number)?))
    }

    /// Generates the answers to those prompts (ids and tokens) that have none yet. Their mean residuals are taken by a hook while
    /// they are generated; each answer is kept as soon as it ends, and then `on_answer` is called, which may break off.
    ///
    /// An answer depends on its prompt and the settings alone: not on its neighbours, their order, or what was kept before.
    ///
    /// # Errors
    /// Those of [`CausalLm::generate`], [`Error::NotFinite`], [`FileError::Write`](pv_data::FileError::Write), [`Error::Cancelled`].
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
            // Every prompt by itself: in a batch, its last bits would depend on its neighbours.
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

    /// Keeps an answer: its activations first, since the line says that they are there.
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

/// A recorder that can be read while the run that it records goes on.
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

    fn finish(&mut self) -> Result<(), HookError> {
        // Nothing is recorded where every answer ends at once.
        Ok(())
    }
}
