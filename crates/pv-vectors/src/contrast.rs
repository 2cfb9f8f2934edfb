//! A direction from contrastive system prompts: generate under both, average, subtract.

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use pv_hooks::{Capture, Layer, NoHook, Recorder};
use pv_judge::traits::Polarity;
use pv_judge::{InstructionPair, TraitSpec};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::generate::{Event, Generation};
use pv_model::{CausalLm, GenerateOptions, Message, RenderOptions, Request};
use serde::{Deserialize, Serialize};

use crate::error::ContrastError;
pub use crate::progress::Progress;
use crate::rollout::{check_questions, difference, read_sequences};
use crate::vector::{PersonaVector, Pooling, Provenance};
use crate::{Error, Result};

/// The input of an extraction: every question is asked under every instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contrast {
    /// The trait's name.
    pub name: String,
    /// The instruction pairs.
    pub instruction: Vec<InstructionPair>,
    /// The questions.
    pub questions: Vec<String>,
    /// How prompts are rendered.
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
}

/// An answer, with its question and instruction.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ContrastAnswer {
    /// Whether the eliciting instruction was given.
    pub eliciting: bool,
    /// The index of the instruction pair.
    pub pair: usize,
    /// The index of the question.
    pub question: usize,
    /// The answer.
    pub generation: Generation,
}

/// The vector of a contrast, with its answers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Extraction {
    /// The mean differences at every layer, for every [`Pooling`].
    pub vector: PersonaVector,
    /// Every answer; the eliciting and the suppressing one of a question and pair are adjacent.
    pub answers: Vec<ContrastAnswer>,
}

impl Contrast {
    /// A trait's instruction pairs and extraction questions.
    ///
    /// # Errors
    /// [`Error::BadContrast`] for a trait without instruction pairs or without questions.
    pub fn of(spec: &TraitSpec) -> Result<Self> {
        let prompt = |pair, polarity| spec.system_prompt(pair, polarity);
        let pairs = (0..spec.instruction.len()).filter_map(|pair| {
            Some(InstructionPair { pos: prompt(pair, Polarity::Pos)?, neg: prompt(pair, Polarity::Neg)? })
        });
        let contrast = Self {
            name: spec.name.clone(),
            instruction: pairs.collect(),
            questions: spec.extraction.clone(),
            render: RenderOptions::default(),
        };
        contrast.check()?;
        Ok(contrast)
    }

    fn check(&self) -> Result<()> {
        if self.instruction.is_empty() {
            return Err(ContrastError::NoPairs.into());
        }
        check_questions(&self.questions)?;
        if let Some(pair) = self.instruction.iter().position(|pair| pair.pos == pair.neg) {
            return Err(ContrastError::SameInstructions { pair }.into());
        }
        Ok(())
    }

    /// Extracts the direction from one answer per question, pair and polarity, all of which are kept. The answers'
    /// activations are recorded in a second pass, with f32 sums on the device and f64 means over answers (method:
    /// paper, section 2).
    ///
    /// Answer `i` (in the order of [`Extraction::answers`]) is sampled with the seed `seed + i`. Empty answers have no
    /// activations and do not enter the means.
    ///
    /// # Errors
    /// An incomplete contrast, a model without chat template, a template that refuses system prompts, or a side with no
    /// answer to average over.
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

/// The residual at the last token of each prompt at a layer, `[prompts, d_model]`: the state before the first token of
/// the answer is sampled. The prompts are read in one batch, and no layer above is computed.
///
/// # Errors
/// Prompts without tokens, or a layer outside the model.
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
/// Sequences without response tokens, or a layer outside the model.
pub fn response_mean(model: &CausalLm, sequences: &[Sequence<'_>], layer: Layer) -> Result<Tensor<2>> {
    let mut recorder = Recorder::new(layer, [Capture::ResponseMean]);
    let options = ForwardOptions { stop_at: Some(layer), ..ForwardOptions::default() };
    model.forward(&Batch::whole(sequences)?, options, &mut recorder)?;
    Ok(recorder.get(&Capture::ResponseMean, layer)?)
}
