//! The training loop.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::DType;
use pv_hooks::Hook;
use pv_model::Decoder;

use crate::checkpoint::Checkpoints;
use crate::collate::{collate, passes};
use crate::loss::{check, summed_loss, value};
use crate::optimizer::{Optimizers, ParameterGradients};
use crate::{Error, Result, Sample, TrainOptions};

/// One finished step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Its number, from 1.
    pub step: usize,
    /// How many there will be.
    pub steps: usize,
    /// The mean cross-entropy in nats over the step's trained tokens, before the update.
    pub loss: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// The Euclidean norm of the gradient over all parameters, before clipping.
    pub grad_norm: f64,
    /// How many tokens were read, padding not counted.
    pub tokens: usize,
    /// How many of them were trained.
    pub trained_tokens: usize,
    /// How long the step took, in seconds.
    pub seconds: f64,
}

impl StepReport {
    /// Tokens read per second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainReport {
    /// The loss of each step, those before a resumption included.
    pub losses: Vec<f64>,
    /// Whether the caller broke the run off.
    pub stopped: bool,
}

/// Trains all parameters of a decoder.
///
/// For samples in a list there is [`finetune`](crate::finetune); a trainer takes them from anywhere.
pub struct Trainer {
    /// With autodiff.
    pub(crate) decoder: Decoder,
    pub(crate) options: TrainOptions,
    pub(crate) steps: usize,
    pub(crate) optimizers: Optimizers,
    pub(crate) losses: Vec<f64>,
    /// What the caller says the samples are; a checkpoint goes on with the same.
    pub(crate) data: Option<String>,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer").field("options", &self.options).field("step", &self.losses.len()).finish()
    }
}

impl Trainer {
    /// Starts from the weights of `decoder`, which stays as it is. The duration must be given in steps.
    ///
    /// # Errors
    /// [`Error::BadOption`]; [`Error::Dtype`] for weights other than f32.
    pub fn new(decoder: &Decoder, options: TrainOptions) -> Result<Self> {
        options.validate()?;
        let steps = options.steps()?;
        if decoder.dtype() != DType::F32 {
            return Err(Error::Dtype { dtype: format!("{:?}", decoder.dtype()) });
        }
        let optimizers = Optimizers::new(&options);
        Ok(Self { decoder: decoder.trainable(), options, steps, optimizers, losses: Vec::new(), data: None })
    }

    /// Says what the samples are, in any words: a checkpoint records it, and is not continued with other ones.
    #[must_use]
    pub fn with_data(mut self, description: impl Into<String>) -> Self {
        self.data = Some(description.into());
        self
    }

    /// The options.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// How many steps are done; the number, from 0, of the next one.
    pub fn steps_done(&self) -> usize {
        self.losses.len()
    }

    /// The decoder as it is now, without autodiff.
    pub fn decoder(&self) -> Decoder {
        self.decoder.plain()
    }

    /// One step of the optimizer on these samples, in passes of at most `batch_size` of them. The loss is the mean over
    /// all trained tokens, however they are spread over passes.
    ///
    /// The hook is checked, and called in every pass; calling its `finish` at the end of the run is the caller's part.
    ///
    /// # Errors
    /// Samples that the decoder cannot read, a hook that does not fit, [`Error::BadLoss`], [`Error::BadGradient`]. The
    /// weights are then as before the step.
    pub fn step(&mut self, samples: &[Sample], hook: &mut (impl Hook + ?Sized)) -> Result<StepReport> {
        let started = Instant::now();
        let step = self.losses.len() + 1;
        check(&self.decoder, samples, step)?;
        pv_hooks::check(hook, &self.decoder.shape(), None)?;
        let trained_tokens: usize = samples.iter().map(Sample::trained_count).sum();
        let mut gradients = ParameterGradients::default();
        let mut sum = 0.0;
        for pass in passes(samples, self.options.batch_size) {
            let loss = summed_loss(&self.decoder, collate(&pass)?, hook);
            sum += value(loss.clone())?;
            if !sum.is_finite() {
                return Err(Error::BadLoss { step, loss: sum });
            }
            gradients.accumulate(&self.decoder, (loss / trained_tokens as f64).backward());
        }
        let loss = sum / trained_tokens as f64;
        let norm = gradients.norm()?;
        if !norm.is_finite() {
            return Err(Error::BadGradient { step, norm, loss });
        }
        if let Some(most) = self.options.max_grad_norm.filter(|most| norm > *most) {
            gradients.scale(most / norm);
        }
        let learning_rate = self.options.rate(step - 1, self.steps);
        self.decoder = self.optimizers.step(self.decoder.clone(), gradients, learning_rate);
        self.losses.push(loss);
        Ok(StepReport {
            step,
            steps: self.steps,
            loss,
            learning_rate,
            grad_norm: norm,
            tokens: samples.iter().map(|sample| sample.ids().len()).sum(),
            trained_tokens,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Runs the steps that are left. `source` gives the samples of a step, which is counted from 0; it may make them on
    /// the spot, and for a resumption to be exact they must depend on nothing but that number. Checkpoints are written
    /// where they are asked for, and at the end. `progress` sees every step and may break the run off.
    ///
    /// # Errors
    /// Those of [`step`](Self::step), of `source`, of checkpoints, and what the hook says at the end.
    pub fn run(
        &mut self,
        mut source: impl FnMut(usize) -> Result<Vec<Sample>>,
        hook: &mut (impl Hook + ?Sized),
        checkpoints: Option<&Checkpoints>,
        mut progress: impl FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<TrainReport> {
        pv_hooks::check(hook, &self.decoder.shape(), None)?;
        let (first, mut stopped) = (self.steps_done(), false);
        while self.steps_done() < self.steps && !stopped {
            let samples = source(self.steps_done())?;
            let report = self.step(&samples, hook)?;
            tracing::debug!(step = report.step, loss = report.loss, grad_norm = report.grad_norm, "trained");
            stopped = progress(&report).is_break();
            if let Some(checkpoints) = checkpoints {
                let last = stopped || report.step == self.steps;
                if last || report.step.is_multiple_of(checkpoints.every.max(1)) {
                    self.save(&checkpoints.folder)?;
                }
            }
        }
        if self.steps_done() > first {
            hook.finish()?;
        }
        Ok(TrainReport { losses: self.losses.clone(), stopped })
    }
}
