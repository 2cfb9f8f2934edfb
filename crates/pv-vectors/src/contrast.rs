//! A direction from contrastive system prompts: generate under both, average, subtract.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::Tensor;
use pv_hooks::{Capture, Layer, LayerSet, NoHook, Recorder};
use pv_model::{
    Batch, CausalLm, Event, ForwardOptions, GenerateOptions, Generation, Message, Request, Sequence, to_f32,
};
use serde::{Deserialize, Serialize};

use crate::vector::{LayerRows, PersonaVector, Pooling, Provenance};
use crate::{Error, Result};

/// A pair of instructions that differ in the trait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstructionPair {
    /// The system prompt that elicits the trait.
    pub pos: String,
    /// The system prompt that suppresses it.
    pub neg: String,
}

/// What a direction is extracted from: every question is asked under every instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contrast {
    /// The trait's name.
    pub name: String,
    /// The pairs of instructions.
    pub instruction: Vec<InstructionPair>,
    /// The questions.
    pub questions: Vec<String>,
}

/// What an extraction reports while it goes on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// Answers are being generated.
    Answering {
        /// How many have ended.
        done: usize,
        /// How many there will be.
        total: usize,
    },
    /// Answers are being read for their activations.
    Reading {
        /// How many have been read.
        done: usize,
        /// How many there are.
        total: usize,
    },
}

/// An answer and what it was asked.
#[derive(Clone, Debug)]
pub struct ContrastAnswer {
    /// Whether the eliciting instruction was given.
    pub eliciting: bool,
    /// Which pair of instructions.
    pub pair: usize,
    /// Which question.
    pub question: usize,
    /// The answer.
    pub generation: Generation,
}

/// The vector of a contrast, and the answers behind it.
#[derive(Clone, Debug)]
pub struct Extraction {
    /// The mean differences at every layer, for every [`Pooling`].
    pub vector: PersonaVector,
    /// Every answer, the eliciting and the suppressing one of a question and pair side by side.
    pub answers: Vec<ContrastAnswer>,
}

impl Contrast {
    fn check(&self) -> Result<()> {
        let bad = |reason: &str| Err(Error::BadContrast { reason: reason.to_owned() });
        if self.instruction.is_empty() {
            return bad("there is no pair of instructions");
        }
        if self.questions.is_empty() {
            return bad("there is no question");
        }
        if self.questions.iter().any(|question| question.trim().is_empty()) {
            return bad("a question is empty");
        }
        if let Some(pair) = self.instruction.iter().position(|pair| pair.pos == pair.neg) {
            return bad(&format!("both instructions of pair {pair} are the same"));
        }
        Ok(())
    }

    /// Extracts the direction: one answer per question, pair and polarity, all of them kept; the answers' activations
    /// are read in a second pass, in f32 sums on the device and f64 means over answers (method: paper, section 2).
    ///
    /// Answer `i` (in the order of [`Extraction::answers`]) is sampled with the seed `seed + i`. Empty answers have no
    /// activations and are left out of the means.
    ///
    /// # Errors
    /// An incomplete contrast, a model without chat template, a template that refuses system prompts, or a side without
    /// any answer to average over.
    pub fn extract(
        &self,
        model: &CausalLm,
        options: &GenerateOptions,
        seed: u64,
        mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Extraction> {
        self.check()?;
        let mut keys = Vec::new();
        let mut requests = Vec::new();
        for (question, text) in self.questions.iter().enumerate() {
            for (pair, instruction) in self.instruction.iter().enumerate() {
                for (eliciting, system) in [(true, &instruction.pos), (false, &instruction.neg)] {
                    let prompt = model.prompt(&[Message::system(system), Message::user(text)])?;
                    requests.push(Request::new(prompt, seed.wrapping_add(keys.len() as u64)));
                    keys.push((eliciting, pair, question));
                }
            }
        }
        let total = requests.len();
        let mut done = 0;
        let generations = model.generate(&requests, options, &mut NoHook, |event| match event {
            Event::Finished { .. } => {
                done += 1;
                on_progress(Progress::Answering { done, total })
            }
            _ => ControlFlow::Continue(()),
        })?;
        if done < total {
            return Err(Error::Cancelled);
        }
        let answers: Vec<ContrastAnswer> = keys
            .into_iter()
            .zip(generations)
            .map(|((eliciting, pair, question), generation)| ContrastAnswer { eliciting, pair, question, generation })
            .collect();
        let mut means = [Means::new(model), Means::new(model)];
        let mut kept: Vec<usize> = (0..total).filter(|&i| !answers[i].generation.tokens.is_empty()).collect();
        let count = |side: bool| kept.iter().filter(|&&i| answers[i].eliciting == side).count();
        let (positive, negative) = (count(true), count(false));
        for (side, kept) in [("eliciting", positive), ("suppressing", negative)] {
            if kept == 0 {
                return Err(Error::NoAnswers { side, answers: total / 2 });
            }
        }
        // Neighbours in length share a batch, so that little of it is padding.
        kept.sort_by_key(|&i| requests[i].prompt.len() + answers[i].generation.tokens.len());
        let mut read = 0;
        for group in kept.chunks(options.batch_size) {
            let sequences: Vec<Sequence<'_>> = group
                .iter()
                .map(|&i| Sequence { prompt: &requests[i].prompt, response: &answers[i].generation.tokens, rest: &[] })
                .collect();
            let recorded = Recorded::read(model, &sequences)?;
            for (row, &i) in group.iter().enumerate() {
                means[usize::from(!answers[i].eliciting)].add(&recorded, row);
            }
            read += group.len();
            if on_progress(Progress::Reading { done: read, total: kept.len() }).is_break() {
                return Err(Error::Cancelled);
            }
        }
        let provenance = Provenance {
            trait_name: self.name.clone(),
            model: model.id().name.clone(),
            config_hash: model.id().config_hash.clone(),
            template_hash: model.id().template_hash.clone(),
            judge: None,
            kept_positive: positive,
            kept_negative: negative,
            total,
            seed,
            best_layer: None,
        };
        let [positive, negative] = means;
        Ok(Extraction { vector: positive.minus(negative, provenance)?, answers })
    }
}

const CAPTURES: [(Pooling, Capture); 3] = [
    (Pooling::ResponseMean, Capture::ResponseMean),
    (Pooling::PromptMean, Capture::PromptMean),
    (Pooling::PromptLast, Capture::PromptLast),
];

/// The activations of a batch on the host: per pooling and for the norms, one `[rows, width]` table per layer.
struct Recorded {
    pooled: Vec<Vec<Vec<f32>>>,
    norms: Vec<Vec<f32>>,
    d_model: usize,
}

impl Recorded {
    fn read(model: &CausalLm, sequences: &[Sequence<'_>]) -> Result<Self> {
        let captures = CAPTURES.iter().map(|(_, capture)| capture.clone()).chain([Capture::ResponseNorm]);
        let mut recorder = Recorder::new(LayerSet::All, captures);
        let last = Layer::hidden_state(model.config().layers);
        // Stopping at the last layer leaves out the final norm and the output head.
        let options = ForwardOptions { stop_at: Some(last), ..ForwardOptions::default() };
        model.forward(&Batch::whole(sequences)?, options, &mut recorder)?;
        let table = |capture: &Capture| -> Result<Vec<Vec<f32>>> {
            let layers = LayerSet::All.resolve(model.config().layers);
            layers.into_iter().map(|layer| Ok(to_f32::<2>(recorder.get(capture, layer)?)?)).collect()
        };
        Ok(Self {
            pooled: CAPTURES.iter().map(|(_, capture)| table(capture)).collect::<Result<_>>()?,
            norms: table(&Capture::ResponseNorm)?,
            d_model: model.config().d_model,
        })
    }
}

/// Running sums over answers, in f64.
struct Means {
    sums: Vec<Vec<f64>>,
    norms: Vec<f64>,
    answers: usize,
    d_model: usize,
}

impl Means {
    fn new(model: &CausalLm) -> Self {
        let (layers, d_model) = (model.config().layers + 1, model.config().d_model);
        let sums = vec![vec![0.0; layers * d_model]; CAPTURES.len()];
        Self { sums, norms: vec![0.0; layers], answers: 0, d_model }
    }

    fn add(&mut self, recorded: &Recorded, row: usize) {
        let d_model = recorded.d_model;
        for (sums, tables) in self.sums.iter_mut().zip(&recorded.pooled) {
            for (sums, table) in sums.chunks_mut(d_model).zip(tables) {
                let values = &table[row * d_model..][..d_model];
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*value));
            }
        }
        for (sum, table) in self.norms.iter_mut().zip(&recorded.norms) {
            *sum += f64::from(table[row]);
        }
        self.answers += 1;
    }

    fn minus(self, other: Self, provenance: Provenance) -> Result<PersonaVector> {
        let (n, m) = (self.answers as f64, other.answers as f64);
        let mut tables = BTreeMap::new();
        for ((pooling, _), (pos, neg)) in CAPTURES.iter().zip(self.sums.iter().zip(&other.sums)) {
            let values = pos.iter().zip(neg).map(|(pos, neg)| (pos / n - neg / m) as f32).collect();
            tables.extend(LayerRows::new(values, self.d_model).map(|table| (*pooling, table)));
        }
        let norms = self.norms.iter().zip(&other.norms).map(|(pos, neg)| ((pos + neg) / (n + m)) as f32).collect();
        PersonaVector::new(provenance, tables, Some(norms))
    }
}

/// The residual at the last token of each prompt at a layer, `[prompts, d_model]`: what is known of an answer before its
/// first token is sampled. The prompts are read in one batch, and no layer above is computed.
///
/// # Errors
/// Prompts without tokens, or a layer that the model lacks.
pub fn prompt_last(model: &CausalLm, prompts: &[&[u32]], layer: Layer) -> Result<Tensor<2>> {
    let batch = Batch::prompts(prompts, (0..prompts.len()).map(|i| vec![i]).collect())?;
    let mut recorder = Recorder::new(layer, [Capture::PromptLast]);
    let options = ForwardOptions { stop_at: Some(layer), ..ForwardOptions::default() };
    model.forward(&batch, options, &mut recorder)?;
    Ok(recorder.get(&Capture::PromptLast, layer)?)
}

/// The mean residual over each response's own tokens at a layer, `[sequences, d_model]`. The sequences are read in one
/// batch, and no layer above is computed.
///
/// # Errors
/// Sequences without response tokens, or a layer that the model lacks.
pub fn response_mean(model: &CausalLm, sequences: &[Sequence<'_>], layer: Layer) -> Result<Tensor<2>> {
    let mut recorder = Recorder::new(layer, [Capture::ResponseMean]);
    let options = ForwardOptions { stop_at: Some(layer), ..ForwardOptions::default() };
    model.forward(&Batch::whole(sequences)?, options, &mut recorder)?;
    Ok(recorder.get(&Capture::ResponseMean, layer)?)
}
