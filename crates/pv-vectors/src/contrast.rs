//! A direction from contrastive system prompts: generate under both, average, subtract.

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use pv_hooks::{Capture, Layer, NoHook, Recorder};
use pv_judge::InstructionPair;
use pv_model::{
    Batch, CausalLm, Event, ForwardOptions, GenerateOptions, Generation, Message, RenderOptions, Request, Sequence,
};
use serde::{Deserialize, Serialize};

use crate::rollout::{difference, read_sequences};
use crate::vector::{PersonaVector, Pooling, Provenance};
use crate::{Error, Result};

/// What a direction is extracted from: every question is asked under every instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contrast {
    /// The trait's name.
    pub name: String,
    /// The pairs of instructions.
    pub instruction: Vec<InstructionPair>,
    /// The questions.
    pub questions: Vec<String>,
    /// How prompts are rendered.
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
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
    /// Answers are being judged.
    Judging {
        /// How many verdicts there are.
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
        let render = self.render.as_prompt();
        let mut keys = Vec::new();
        let mut requests = Vec::new();
        for (question, text) in self.questions.iter().enumerate() {
            for (pair, instruction) in self.instruction.iter().enumerate() {
                for (eliciting, system) in [(true, &instruction.pos), (false, &instruction.neg)] {
                    let prompt = model.prompt_with(&[Message::system(system), Message::user(text)], &render)?;
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
        let kept: Vec<usize> = (0..total).filter(|&i| !answers[i].generation.tokens.is_empty()).collect();
        let sequences: Vec<Sequence<'_>> = kept
            .iter()
            .map(|&i| Sequence { prompt: &requests[i].prompt, response: &answers[i].generation.tokens, rest: &[] })
            .collect();
        let means = read_sequences(model, &sequences, options.batch_size, on_progress)?;
        let side = |eliciting: bool| (0..kept.len()).filter(|&i| answers[kept[i]].eliciting == eliciting).collect();
        let (positive, negative): (Vec<usize>, Vec<usize>) = (side(true), side(false));
        let identity = model.identity()?;
        let provenance = Provenance {
            trait_name: self.name.clone(),
            model: identity.name,
            config_hash: Some(identity.config_hash),
            template_hash: identity.template_hash,
            weights: identity.weights,
            render: self.render.closed(),
            judge: None,
            verdicts: Default::default(),
            filter: None,
            kept_positive: Some(positive.len()),
            kept_negative: Some(negative.len()),
            total: Some(total),
            seed: Some(seed),
            sampling: Some(options.sampling.clone()),
            max_new_tokens: Some(options.max_new_tokens),
            version: Provenance::current_version(),
            best_layer: None,
            imported: None,
        };
        let vector = difference(means.as_slice(), &Pooling::ALL, [&positive, &negative], provenance)?;
        Ok(Extraction { vector, answers })
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
