//! The training loop.

mod checkpoint;

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::{DType, Device};
use pv_model::Adapter;
use pv_model::decoder::Decoder;
use pv_model::device::run_on;

use crate::collate::{packed_passes, passes};
use crate::devices::{Replica, Step, passes_on_all};
use crate::gradients::{self, Counts};
use crate::loss::check;
use crate::optimizer::{Optimizers, ParameterGradients};
use crate::{Error, Result, Sample, TrainOptions};

pub use crate::batches::Batches;
pub use crate::loss::mean_loss;
pub use crate::options::Duration;
pub use crate::regimes::Regimes;
pub use crate::run_hook::{LoopShift, RunHook};
pub use crate::schedule::{Decay, WarmUp, learning_rate};
pub use checkpoint::Checkpoints;
pub(crate) use checkpoint::remove_partial;

/// The report on one step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// The step's number, from 1.
    pub step: usize,
    /// The number of steps of the run.
    pub steps: usize,
    /// The mean cross-entropy in nats over the step's trained tokens, weighted if the samples have weights, before the
    /// update.
    pub loss: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// The mean penalty of the run's hook over the answer tokens of the step, which is added to the loss.
    pub penalty: f64,
    /// The Euclidean norm of the gradient over all trained parameters, before clipping.
    pub grad_norm: f64,
    /// The number of tokens that were read, without padding.
    pub tokens: usize,
    /// The number of trained tokens.
    pub trained_tokens: usize,
    /// The duration of the step in seconds.
    pub seconds: f64,
}

impl StepReport {
    /// Tokens read per second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// The report on a run.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TrainReport {
    /// The loss of each step in nats, including those before the run was resumed.
    pub losses: Vec<f64>,
    /// Whether the caller interrupted the run.
    pub stopped: bool,
}

/// Trains all parameters of a decoder, or a low-rank adapter on it.
///
/// The samples may come from any source; [`finetune`](crate::finetune) trains on a list of samples.
pub struct Trainer {
    /// The trained parameters have autodiff, the others do not.
    pub(crate) decoder: Decoder,
    pub(crate) options: TrainOptions,
    pub(crate) steps: usize,
    pub(crate) optimizers: Optimizers,
    pub(crate) losses: Vec<f64>,
    /// The caller's description of the samples; a checkpoint only resumes with the same one.
    pub(crate) data: Option<String>,
    /// The other devices that compute passes of a step.
    replicas: Vec<Replica>,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer").field("options", &self.options).field("step", &self.losses.len()).finish()
    }
}

impl Trainer {
    /// Starts from the weights of `decoder`, which is not changed, and trains a new adapter on top of it if the options
    /// contain one, otherwise all parameters. The duration must be given in steps.
    ///
    /// # Errors
    /// [`Error::BadOption`]; an invalid adapter; [`Error::Dtype`] if all parameters are trained and are not f32 (an
    /// adapter is f32 on weights of any type).
    pub fn new(decoder: &Decoder, options: TrainOptions) -> Result<Self> {
        match &options.adapter {
            None => Self::start(decoder.trainable(), options),
            Some(config) => {
                let adapter = Adapter::init(config.clone(), decoder.config(), options.seed)?;
                Self::on_adapter(decoder, &adapter, options)
            }
        }
    }

    /// Starts from an adapter, which is put on top of `decoder`. The adapter's settings replace those of the options.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), and an adapter that does not fit.
    pub fn on_adapter(decoder: &Decoder, adapter: &Adapter, options: TrainOptions) -> Result<Self> {
        let options = TrainOptions { adapter: Some(adapter.config().clone()), ..options };
        Self::start(decoder.with_adapter(adapter, 1.0)?.trainable_adapter()?, options)
    }

    fn start(decoder: Decoder, options: TrainOptions) -> Result<Self> {
        options.validate()?;
        let steps = options.steps()?;
        if options.adapter.is_none() && decoder.adapters() > 0 {
            return Err(Error::BadOption {
                name: "adapter",
                value: "none".to_owned(),
                expected: "an adapter, or a decoder without adapters: merge those that it has",
            });
        }
        if options.adapter.is_none() && decoder.is_quantized() {
            return Err(Error::BadOption {
                name: "adapter",
                value: "none".to_owned(),
                expected: "an adapter: quantized weights cannot be trained",
            });
        }
        if options.adapter.is_none() && decoder.dtype() != DType::F32 {
            return Err(Error::Dtype { dtype: format!("{:?}", decoder.dtype()) });
        }
        let optimizers = Optimizers::new(&options);
        Ok(Self { decoder, options, steps, optimizers, losses: Vec::new(), data: None, replicas: Vec::new() })
    }

    /// Sets a description of the samples, in any format. A checkpoint records it, and only resumes with the same one.
    #[must_use]
    pub fn with_data(mut self, description: impl Into<String>) -> Self {
        self.data = Some(description.into());
        self
    }

    /// Distributes the passes of every step over these devices and the decoder's own. Each device has a copy of the
    /// model; all compute at the same time, and their gradients are added. The result is that of one device up to
    /// rounding, and bit-identical on the same number of devices of the same kind.
    ///
    /// The run's hook must be the same in every step, and have a replica on each device ([`RunHook::replica`], which
    /// [`Regimes`] implements, also for an empty list); otherwise the devices compute one after the other.
    ///
    /// # Errors
    /// [`Error::BadOption`] for an adapter on top of other adapters.
    pub fn with_devices(mut self, devices: &[Device]) -> Result<Self> {
        if self.decoder.adapters() > 1 {
            let (name, expected) = ("the number of adapters", "one, on several devices: merge those below");
            return Err(Error::BadOption { name, value: self.decoder.adapters().to_string(), expected });
        }
        let adapter = self.options.adapter.is_some();
        self.replicas = devices.iter().map(|device| Replica::new(&self.decoder, device, adapter)).collect();
        Ok(self)
    }

    /// The options.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// The number of steps that are done, which is the index, from 0, of the next one.
    pub fn steps_done(&self) -> usize {
        self.losses.len()
    }

    /// The decoder in its current state, without autodiff; a trained adapter is on top of it.
    pub fn decoder(&self) -> Decoder {
        self.decoder.plain()
    }

    /// The trained adapter in its current state.
    ///
    /// # Errors
    /// [`Error::Model`] if no adapter is trained, or its values are not finite.
    pub fn adapter(&self) -> Result<Adapter> {
        Ok(self.decoder.adapter(self.decoder.adapters().saturating_sub(1))?)
    }

    /// Does one step of the optimizer on these samples, in passes of at most `batch_size` samples or `pack_tokens`
    /// tokens. The loss is the mean over all trained tokens, whatever their distribution over passes: Σ weight ·
    /// cross-entropy / Σ weight.
    ///
    /// `run` is any [`Hook`](pv_hooks::Hook), or a [`RunHook`], which changes from step to step. It is checked, and
    /// called in every pass. At the end of the run, the caller must call its hook's `finish`.
    ///
    /// # Errors
    /// Samples that the decoder cannot read, or that are too long for a packed pass; a hook that does not fit;
    /// [`Error::BadLoss`]; [`Error::BadGradient`]. The weights are then those before the step.
    pub fn step(&mut self, samples: &[Sample], run: &mut (impl RunHook + ?Sized)) -> Result<StepReport> {
        let started = Instant::now();
        let step = self.losses.len() + 1;
        check(&self.decoder, samples, step)?;
        run.before_step(step - 1, &self.decoder.plain())?;
        gradients::check(run, &self.decoder)?;
        let lengths = samples.iter().map(|sample| sample.ids().len());
        self.options.check_lengths(lengths.clone())?;
        let tokens = lengths.sum::<usize>();
        let trained_tokens: usize = samples.iter().map(Sample::trained_count).sum();
        let weight = samples.iter().map(Sample::total_weight).sum::<f64>();
        let counts = Counts::new(samples, self.decoder.dtype());
        // With more devices than passes, the passes are made smaller.
        let devices = self.replicas.len() + 1;
        let passes = match self.options.pack_tokens {
            None => passes(samples, self.options.batch_size.min(samples.len().div_ceil(devices))),
            Some(most) => packed_passes(samples, most.min(tokens.div_ceil(devices))),
        };
        let passes: Vec<_> = passes.into_iter().enumerate().collect();
        let work = Step { options: &self.options, number: step, counts };
        let (sums, gradients) = match self.replicas.as_mut_slice() {
            // One pool for all passes, forward and backward.
            [] => run_on(&self.decoder.device(), || work.passes(&self.decoder, &passes, run))?,
            replicas => passes_on_all(&work, &self.decoder, replicas, passes, run)?,
        };
        let (sum, penalty) = (sums.loss, sums.penalty);
        let loss = sum / weight;
        let learning_rate = self.options.rate(step - 1, self.steps);
        let norm = run_on(&self.decoder.device(), || self.update(gradients, counts.scale, learning_rate))?;
        if !norm.is_finite() {
            return Err(Error::BadGradient { step, norm, loss });
        }
        self.losses.push(loss);
        Ok(StepReport {
            step,
            steps: self.steps,
            loss,
            penalty: penalty / counts.answers.max(1) as f64,
            learning_rate,
            grad_norm: norm,
            tokens,
            trained_tokens,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Updates the decoder with gradients that were multiplied by `scale`, and returns their norm before clipping. If that
    /// is not finite, nothing is updated.
    fn update(&mut self, mut gradients: ParameterGradients, scale: f64, learning_rate: f64) -> Result<f64> {
        if scale != 1.0 {
            gradients.scale(scale.recip());
        }
        let norm = gradients.norm()?;
        if norm.is_finite() {
            if let Some(most) = self.options.max_grad_norm.filter(|most| norm > *most) {
                gradients.scale(most / norm);
            }
            self.decoder = self.optimizers.step(self.decoder.clone(), gradients, learning_rate);
        }
        Ok(norm)
    }

    /// Runs the remaining steps. `source` returns the samples of a step, counted from 0. It may generate them; for an
    /// exact resume they must depend only on the step's index. Checkpoints are written at their interval and at the
    /// end. `progress` receives the report on every step and may interrupt the run.
    ///
    /// # Errors
    /// Those of [`step`](Self::step), of `source`, of checkpoints, and of the hook's `finish`.
    pub fn run(
        &mut self,
        mut source: impl FnMut(usize) -> Result<Vec<Sample>>,
        run: &mut (impl RunHook + ?Sized),
        checkpoints: Option<&Checkpoints>,
        mut progress: impl FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<TrainReport> {
        gradients::check(run, &self.decoder)?;
        let (first, mut stopped) = (self.steps_done(), false);
        while self.steps_done() < self.steps && !stopped {
            let samples = source(self.steps_done())?;
            let report = self.step(&samples, run)?;
            tracing::debug!(step = report.step, loss = report.loss, grad_norm = report.grad_norm, "trained");
            stopped = progress(&report).is_break();
            if let Some(checkpoints) = checkpoints {
                let last = stopped || report.step == self.steps;
                if last || report.step.is_multiple_of(checkpoints.every.max(1)) {
                    self.save_with(&checkpoints.folder, run.state(), None)?;
                }
            }
        }
        if self.steps_done() > first {
            run.hook().finish()?;
        }
        Ok(TrainReport { losses: self.losses.clone(), stopped })
    }
}
