//! A finetuning run in a folder: its settings, the metrics of every step, checkpoints, and the result.

mod best;
mod config;
mod execute;
mod metrics;
mod result;
mod tensorboard;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use pv_model::CausalLm;
use pv_model::decoder::Decoder;
use serde_json::Value;

use crate::data::{DataSet, MaskSpan, mask_spans};
use crate::finetune::plan;
use crate::regimes::Regimes;
use crate::run_hook::RunHook;
use crate::{Error, Regime, Result, TrainOptions};

pub use crate::probes::Probes;
pub use best::{BestRule, BestStep, Keep};
pub use metrics::{StepMetrics, metrics_csv, read_metrics};
pub use tensorboard::write_tensorboard;

/// The options of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// The options of training.
    pub train: TrainOptions,
    /// The number of steps between checkpoints; another one is written at the end. The last two are kept. A resumed run
    /// may have another value.
    pub checkpoint_every: usize,
    /// The number of steps between measurements of the held-out loss and the probes; these are also measured before the
    /// first step and at the end. A resumed run may have another value if it keeps its last checkpoint; otherwise the
    /// measurements determine the result.
    pub measure_every: usize,
    /// The checkpoint that is kept permanently and becomes the result. `None` keeps the best one by
    /// [`BestRule::default`] if a held-out loss or a shift is measured and the run has a closed loop, may stop early or
    /// was extended by [`grow`](Self::grow); otherwise the last one.
    pub keep: Option<Keep>,
    /// The run stops early when this many measurements in a row are no better, by its [`BestRule`], than the best one
    /// before them.
    pub stop_after: Option<usize>,
    /// Whether to extend the shorter run in the folder although the longer run's schedule differs from the beginning
    /// on, or to continue a run that stopped early. From its last checkpoint on, the learning rate follows the schedule
    /// of the longer run, and measurements without improvement are counted anew. Its best checkpoint may be replaced,
    /// and its result is replaced at the end.
    ///
    /// Not needed if the learning rate does not depend on the number of steps ([`Decay::Constant`](crate::trainer::Decay)):
    /// a run with more steps or epochs then continues a shorter one that is otherwise the same, and its weights are those
    /// of a run that had this length from the start (to the bit on the CPU; projection penalties are computed up to
    /// rounding if samples did not repeat before).
    pub grow: bool,
}

impl Default for RunOptions {
    /// The paper's training options, a checkpoint every 100 steps, a measurement every 20, without early stopping.
    fn default() -> Self {
        Self {
            train: TrainOptions::paper(),
            checkpoint_every: 100,
            measure_every: 20,
            keep: None,
            stop_after: None,
            grow: false,
        }
    }
}

/// The outcome of a run.
#[derive(Debug)]
#[non_exhaustive]
pub struct RunOutcome {
    /// The decoder in its current state, with a trained adapter on top.
    pub decoder: Decoder,
    /// The loss of each step, including those before the run was resumed, in nats.
    pub losses: Vec<f64>,
    /// The step after which the run was resumed, if it had been started before.
    pub resumed_from: Option<usize>,
    /// The path of the saved adapter (PEFT's format) or model, of the best step if that is kept. `None` if the caller
    /// interrupted the run.
    pub saved: Option<PathBuf>,
    /// The best step so far, if it is kept. Its checkpoint is in the run's folder beside the last ones.
    pub best: Option<BestStep>,
    /// Whether the run stopped before its last step because no measurement improved.
    pub stopped_early: bool,
}

/// A finetuning run that writes everything to a folder:
/// - `config.json`: the model, the data's hashes and counts, options, regimes, probes, and the report on the data;
/// - `metrics.jsonl`: a line per step ([`StepMetrics`]), each step exactly once;
/// - `checkpoints/`: the last two, and the best one if it is kept ([`RunOptions::keep`]);
/// - `adapter/` or `model/` at the end, and `result.json`, which names the step of the result.
///
/// A run may be stopped or killed at any time. A run that is started again in the same folder resumes from the last
/// checkpoint. On the CPU its final files are byte-identical to those of an uninterrupted run. A folder of another run
/// is refused, as is one that another process is using.
///
/// What determines the result must be the same when a run resumes; how it is executed may change: devices, intervals
/// between checkpoints, activation checkpointing, and the division of a step into passes ([`TrainOptions`] states which
/// options these are). A run may also become longer ([`RunOptions::grow`]).
///
/// ```no_run
/// # use std::ops::ControlFlow;
/// # use burn::tensor::{DType, Device};
/// # use pv_model::CausalLm;
/// # use pv_train::data::HeldOut;
/// # use pv_train::{DataOptions, DataSet, RunOptions, TrainingRun};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let model = CausalLm::from_folder("models/smollm2", &Device::flex(), DType::F32)?;
/// let held_out = HeldOut { fraction: 0.05, seed: 0 };
/// let (train, held_out) = DataSet::read_split(&model, ["data.jsonl"], &DataOptions::default(), &[], held_out)?;
/// let run = TrainingRun::new(&model, &train, RunOptions::default()).with_held_out(&held_out);
/// let outcome = run.run("runs/first", |step| {
///     println!("{} of {}: {:?}, held out {:?}", step.step, step.steps, step.loss, step.held_out_loss);
///     ControlFlow::Continue(())
/// })?;
/// println!("{:?}", outcome.saved);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TrainingRun<'a> {
    model: &'a CausalLm,
    train: &'a DataSet,
    options: RunOptions,
    held_out: Option<&'a DataSet>,
    probes: Option<&'a Probes>,
    regimes: Vec<Regime>,
    devices: Vec<Device>,
}

impl<'a> TrainingRun<'a> {
    /// Creates a run that trains a model on samples.
    pub fn new(model: &'a CausalLm, train: &'a DataSet, options: RunOptions) -> Self {
        Self { model, train, options, held_out: None, probes: None, regimes: Vec::new(), devices: Vec::new() }
    }

    /// Also measures the loss on these held-out samples, without interventions.
    #[must_use]
    pub fn with_held_out(self, held_out: &'a DataSet) -> Self {
        Self { held_out: Some(held_out), ..self }
    }

    /// Also measures the finetuning shift on these probes, without interventions.
    #[must_use]
    pub fn with_probes(self, probes: &'a Probes) -> Self {
        Self { probes: Some(probes), ..self }
    }

    /// Sets the mitigations that act in training. The data must have been read with the same regimes.
    #[must_use]
    pub fn with_regimes(self, regimes: impl IntoIterator<Item = Regime>) -> Self {
        Self { regimes: regimes.into_iter().collect(), ..self }
    }

    /// Distributes the passes of every step over these devices and the model's own ([`Trainer::with_devices`](crate::Trainer::with_devices)). A run
    /// that is resumed on another number of devices gives the same result up to rounding; with dropout, more devices than
    /// passes in a step change which inputs are dropped.
    #[must_use]
    pub fn with_devices(self, devices: impl IntoIterator<Item = Device>) -> Self {
        Self { devices: devices.into_iter().collect(), ..self }
    }

    /// The samples of the first step, each split into trained and untrained pieces of text.
    ///
    /// # Errors
    /// A model without a tokenizer, ids that the tokenizer does not have.
    pub fn show_mask(&self) -> Result<Vec<Vec<MaskSpan>>> {
        let samples = self.train.samples();
        let (mut batches, _) = plan(samples, &self.options.train)?;
        let tokenizer = self.model.tokenizer()?;
        batches.step(0).iter().map(|&index| mask_spans(tokenizer, &samples[index])).collect()
    }

    /// Trains in a folder, or resumes the run in it. `progress` receives the metrics of every step and may interrupt
    /// the run, which then writes a checkpoint.
    ///
    /// # Errors
    /// Those of [`Regimes::new`] and of [`run_with`](Self::run_with); [`Error::BadOption`] for data that was read with
    /// another inoculation than the regimes'.
    pub fn run(
        &self,
        folder: impl AsRef<Path>,
        progress: impl FnMut(&StepMetrics) -> ControlFlow<()>,
    ) -> Result<RunOutcome> {
        let wanted = Regime::inoculation(&self.regimes);
        if let Some(found) = self.train.inoculation().filter(|found| *found != wanted) {
            let (name, expected) = ("the data's inoculation", "that of the run's regimes: read the data with them");
            return Err(Error::BadOption { name, value: format!("{found:?}"), expected });
        }
        let mut regimes = Regimes::new(self.model.decoder(), self.regimes.iter().cloned())?;
        let description = regimes.describe();
        self.run_as(folder, &mut regimes, &description, Some(&self.regimes), progress)
    }

    /// Like [`run`](Self::run), with another hook instead of the regimes, which are ignored. `description` identifies
    /// the hook: a run only resumes with the same description.
    ///
    /// # Errors
    /// [`RunError::OtherRun`](pv_data::RunError::OtherRun) names the setting that changed since the run was started.
    /// [`RunError::Locked`](pv_data::RunError::Locked), if another process uses the folder. [`Error::BadLoss`] and
    /// [`Error::BadGradient`] stop the run and leave its last checkpoint unchanged, as does every file that cannot be
    /// written. Samples, probes or a hook that do not fit the model.
    pub fn run_with(
        &self,
        folder: impl AsRef<Path>,
        hook: &mut (impl RunHook + ?Sized),
        description: &Value,
        progress: impl FnMut(&StepMetrics) -> ControlFlow<()>,
    ) -> Result<RunOutcome> {
        self.run_as(folder, hook, description, None, progress)
    }
}
