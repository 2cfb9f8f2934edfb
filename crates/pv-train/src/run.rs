//! A finetuning in a folder: what was trained and how, the metrics of every step, checkpoints, and what came out.

mod best;
mod config;
mod metrics;
mod result;
mod tensorboard;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use pv_data::RunFolder;
use pv_hooks::NoHook;
use pv_model::{CausalLm, Decoder};
use serde_json::{Value, json};

use crate::checkpoint::remove_partial;
use crate::data::{DataSet, MaskSpan, mask_spans};
use crate::finetune::{fingerprint, plan};
use crate::loss::check;
use crate::run_hook::LoopShift;
use crate::schedule::WarmUp;
use crate::{Checkpoints, Error, Probes, Regime, Regimes, Result, RunHook, Sample, TrainOptions, Trainer, mean_loss};

use best::Best;
pub use best::{BestRule, BestStep, Keep};
pub(crate) use config::regimes;
use metrics::MetricsFile;
pub use metrics::{StepMetrics, metrics_csv, read_metrics};
use result::{Ended, PARTIAL};
pub use tensorboard::write_tensorboard;

const CHECKPOINTS: &str = "checkpoints";

/// How a run goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// How the decoder is trained.
    pub train: TrainOptions,
    /// A checkpoint is written after so many steps, and at the end. The last two are kept. A run that goes on may have
    /// another number.
    pub checkpoint_every: usize,
    /// Held-out loss and probes are measured after so many steps, at the end, and before the first.
    pub measure_every: usize,
    /// Which checkpoint is kept for good and becomes the result. `None`: the best one by [`BestRule::default`] of a run that has a
    /// closed loop, may stop early or has grown, where a held-out loss or a shift is measured; the last one of any other.
    pub keep: Option<Keep>,
    /// The run stops early when so many measurements in a row were no better than the best one before them, as its
    /// [`BestRule`] says.
    pub stop_after: Option<usize>,
    /// A folder of a shorter run that is otherwise the same is gone on with, also where that run is finished or has stopped
    /// early: the learning rate is then that of the longer run. Its best checkpoint may be replaced, and so is its result at the
    /// end.
    pub grow: bool,
}

impl Default for RunOptions {
    /// The paper's training, a checkpoint every 100 steps, a measurement every 20, to the end.
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

/// What came of a run.
#[derive(Debug)]
pub struct RunOutcome {
    /// The decoder as it is now, a trained adapter on top of it.
    pub decoder: Decoder,
    /// The loss of each step, those before a resumption included.
    pub losses: Vec<f64>,
    /// The step after which the run went on, if it had been begun before.
    pub resumed_from: Option<usize>,
    /// Where the adapter (PEFT's format) or the model is, of the best step where that is kept; nothing when the caller broke
    /// the run off.
    pub saved: Option<PathBuf>,
    /// The best step so far, where that is kept. Its checkpoint is in the run's folder like the last one.
    pub best: Option<BestStep>,
    /// Whether the run stopped before its end because nothing got better.
    pub stopped_early: bool,
}

/// A finetuning that keeps all it does in a folder:
/// - `config.json`: the model, the data's hashes and counts, options, regimes, probes, and what was read;
/// - `metrics.jsonl`: a line per step ([`StepMetrics`]), each step exactly once;
/// - `checkpoints/`: the last two, and the best one where that is kept ([`RunOptions::keep`]);
/// - `adapter/` or `model/` at the end, and `result.json`, which says of which step it is.
///
/// A run may be stopped or killed at any moment. Started again in the same folder it goes on from the last checkpoint, and on
/// the CPU it ends with the same files, to the byte, as if it had not been interrupted. A folder of another run is refused,
/// and so is one that another process is using.
///
/// ```no_run
/// # use std::ops::ControlFlow;
/// # use burn::tensor::{DType, Device};
/// # use pv_model::CausalLm;
/// # use pv_train::{DataOptions, DataSet, HeldOut, RunOptions, TrainingRun};
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
    /// A run that trains a model on samples.
    pub fn new(model: &'a CausalLm, train: &'a DataSet, options: RunOptions) -> Self {
        Self { model, train, options, held_out: None, probes: None, regimes: Vec::new(), devices: Vec::new() }
    }

    /// Measures the loss on these samples too, without interventions.
    #[must_use]
    pub fn with_held_out(self, held_out: &'a DataSet) -> Self {
        Self { held_out: Some(held_out), ..self }
    }

    /// Measures the finetuning shift on these probes too, without interventions.
    #[must_use]
    pub fn with_probes(self, probes: &'a Probes) -> Self {
        Self { probes: Some(probes), ..self }
    }

    /// Keeps the model's character by these regimes. The data must have been read with the same.
    #[must_use]
    pub fn with_regimes(self, regimes: impl IntoIterator<Item = Regime>) -> Self {
        Self { regimes: regimes.into_iter().collect(), ..self }
    }

    /// Shares every step with these devices, beside the model's own ([`Trainer::with_devices`]). Going on with another number
    /// of them gives the same up to rounding.
    #[must_use]
    pub fn with_devices(self, devices: impl IntoIterator<Item = Device>) -> Self {
        Self { devices: devices.into_iter().collect(), ..self }
    }

    /// The samples of the first step, each in pieces of text that are trained or not.
    ///
    /// # Errors
    /// A model without a tokenizer, ids that it does not have.
    pub fn show_mask(&self) -> Result<Vec<Vec<MaskSpan>>> {
        let samples = self.train.samples();
        let (mut batches, _) = plan(samples, &self.options.train)?;
        let tokenizer = self.model.tokenizer()?;
        batches.step(0).iter().map(|&index| mask_spans(tokenizer, &samples[index])).collect()
    }

    /// Trains, or goes on training, in a folder. `progress` sees every step, and may break the run off; a checkpoint is
    /// written then.
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

    /// As [`run`](Self::run), with another hook than the regimes, which are not looked at. `description` is what tells it
    /// from others: a folder is not continued with another one.
    ///
    /// # Errors
    /// [`RunError::OtherRun`](pv_data::RunError::OtherRun) names what has changed since the run was begun; [`RunError::Locked`](pv_data::RunError::Locked) while another
    /// process uses the folder; [`Error::BadLoss`] and [`Error::BadGradient`] stop the run, whose last checkpoint stays as it
    /// is, and so does everything that cannot be written; samples, probes or a hook that do not fit the model.
    pub fn run_with(
        &self,
        folder: impl AsRef<Path>,
        hook: &mut (impl RunHook + ?Sized),
        description: &Value,
        progress: impl FnMut(&StepMetrics) -> ControlFlow<()>,
    ) -> Result<RunOutcome> {
        self.run_as(folder, hook, description, None, progress)
    }

    fn run_as(
        &self,
        folder: impl AsRef<Path>,
        hook: &mut (impl RunHook + ?Sized),
        description: &Value,
        regimes: Option<&[Regime]>,
        mut progress: impl FnMut(&StepMetrics) -> ControlFlow<()>,
    ) -> Result<RunOutcome> {
        self.validate()?;
        let loops = hook.shifts(self.model.decoder())?;
        let measures = self.held_out.is_some() || self.probes.is_some() || !loops.is_empty();
        if !measures && (matches!(self.options.keep, Some(Keep::Best(_))) || self.options.stop_after.is_some()) {
            let (name, expected) =
                ("what a best checkpoint is chosen by", "held-out samples, probes, or a closed loop");
            return Err(Error::BadOption { name, value: "nothing".to_owned(), expected });
        }
        let samples = self.train.samples();
        let (mut batches, options) = plan(samples, &self.options.train)?;
        let steps = options.steps()?;
        let folder = RunFolder::lock(folder.as_ref())?;
        let saved = config::Saved::read(&folder)?;
        let warmup = options.warmup.going_on(saved.as_ref().map(config::Saved::warmup));
        let options = TrainOptions { warmup, ..options };
        let grows =
            self.options.grow && saved.as_ref().is_some_and(|saved| saved.grows(steps, self.options.stop_after));
        let keep = match (self.options.keep, saved.as_ref().and_then(config::Saved::keep)) {
            (Some(keep), _) => keep,
            (None, Some(kept)) if !grows || kept != Keep::Last => kept,
            _ if measures && (grows || self.options.stop_after.is_some() || !loops.is_empty()) => {
                Keep::Best(BestRule::default())
            }
            _ => Keep::Last,
        };
        let checkpoints = Checkpoints { folder: folder.file(CHECKPOINTS), every: self.options.checkpoint_every };
        let newest = checkpoints.newest()?.map(|(step, _)| step);
        let grow = grows.then_some(newest.unwrap_or(0));
        let run = self.describe(warmup, keep, steps, description)?;
        let claimed = config::claim(&folder, saved, &run, regimes, &self.environment(), grow)?;
        remove_partial(folder.path(), PARTIAL)?;
        checkpoints.clean()?;

        let data = fingerprint(samples);
        hook.samples_repeat(steps > batches.steps_per_epoch());
        let trainer = match newest {
            Some(_) => {
                let (decoder, grown) = (self.model.decoder(), claimed.grown > 0);
                Trainer::resume_grown(decoder, options, &checkpoints.folder, Some(&data), hook, grown)?
            }
            None => Trainer::new(self.model.decoder(), options)?.with_data(data),
        };
        let mut trainer = trainer.with_devices(&self.devices)?;
        // A closed loop's shifts are looked at where they decide something.
        let followed = matches!(keep, Keep::Best(_)) && !loops.is_empty();
        let measured = self.held_out.is_some() || self.probes.is_some() || followed;
        let mut metrics = MetricsFile::open(&folder, usize::from(!measured), trainer.steps_done())?;
        let mut best = match keep {
            Keep::Best(rule) => Some(Best::new(rule, &loops, claimed.best_from, claimed.begun)),
            Keep::Last => None,
        };
        if let Some(best) = &mut best {
            for line in &read_metrics(folder.path())? {
                best.see(line);
            }
            checkpoints.holds(best.best())?;
        }
        let base = self.probes.map(|probes| probes.measure(self.model.decoder())).transpose()?;
        let base = base.unwrap_or_default();
        let enough = |best: &Option<Best>| {
            let since = best.as_ref().map_or(0, Best::since);
            self.options.stop_after.is_some_and(|patience| since >= patience)
        };

        let mut stopped = false;
        if metrics.next == 0 {
            let mut line = StepMetrics { steps, ..StepMetrics::default() };
            self.measure(&trainer.decoder(), &base, followed.then_some(loops.as_slice()), &mut line)?;
            metrics.append(&line)?;
            stopped = progress(&line).is_break();
        }
        let first = trainer.steps_done();
        let per_epoch = batches.steps_per_epoch().max(1) as f64;
        let mut early = enough(&best);
        while trainer.steps_done() < steps && !stopped && !early {
            let chosen = batches.step(trainer.steps_done());
            let batch: Vec<Sample> = chosen.iter().map(|&index| samples[index].clone()).collect();
            let report = trainer.step(&batch, hook).inspect_err(|error| {
                let places = chosen.iter().filter_map(|&index| self.train.place(index));
                let places: Vec<String> = places.map(ToString::to_string).collect();
                tracing::error!(%error, samples = ?places, "the step failed");
            })?;
            let last = report.step == steps;
            let mut line = StepMetrics::of(&report, report.step as f64 / per_epoch, hook.metrics());
            if measured && (last || report.step.is_multiple_of(self.options.measure_every)) {
                let decoder = trainer.decoder();
                let now = if followed { Some(hook.shifts(&decoder)?) } else { None };
                self.measure(&decoder, &base, now.as_deref(), &mut line)?;
            }
            metrics.append(&line)?;
            let better = best.as_mut().is_some_and(|best| best.see(&line));
            early = enough(&best);
            let last = last || early;
            stopped = progress(&line).is_break() && !last;
            if last || stopped || better || report.step.is_multiple_of(self.options.checkpoint_every) {
                // A checkpoint's steps are in the metrics, whatever happens.
                metrics.sync()?;
                let kept = best.as_ref().and_then(Best::best).map(|best| best.step);
                trainer.save_with(&checkpoints.folder, hook.state(), kept)?;
            }
        }
        let finished = trainer.steps_done() == steps || early;
        if trainer.steps_done() > first {
            hook.hook().finish()?;
        }
        let chosen = best.as_ref().and_then(Best::best);
        let ended =
            Ended { trainer: &trainer, checkpoints: &checkpoints, keep, best: chosen, steps, grown: claimed.grown };
        let saved = if finished { Some(ended.save(&folder, self.model)?) } else { None };
        Ok(RunOutcome {
            decoder: trainer.decoder(),
            losses: trainer.losses.clone(),
            resumed_from: newest,
            saved,
            best: chosen.cloned(),
            stopped_early: early && trainer.steps_done() < steps,
        })
    }

    fn validate(&self) -> Result<()> {
        self.options.train.validate()?;
        for (name, value) in
            [("checkpoint_every", self.options.checkpoint_every), ("measure_every", self.options.measure_every)]
        {
            if value == 0 {
                return Err(Error::BadOption { name, value: "0".to_owned(), expected: "at least 1" });
            }
        }
        best::validate(self.options.keep, self.options.stop_after)?;
        // Before anything is written, and not first in the middle of the run.
        check(self.model.decoder(), self.train.samples(), 1)?;
        self.held_out.map_or(Ok(()), |held_out| check(self.model.decoder(), held_out.samples(), 0))
    }

    /// What decides the result.
    fn describe(&self, warmup: WarmUp, keep: Keep, steps: usize, hook: &Value) -> Result<Value> {
        let model = self.model.identity()?;
        Ok(json!({
            "model": model,
            "data": config::data(self.train),
            "held_out": self.held_out.map(config::data),
            "train": TrainOptions { warmup, ..self.options.train.clone() },
            "steps": steps,
            "regimes": hook,
            "probes": self.probes.map(config::probes),
            "measure_every": self.options.measure_every,
            "keep": keep,
            "stop_after": self.options.stop_after,
        }))
    }

    fn environment(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model_folder": self.model.folder(),
            "device": format!("{:?}", self.model.decoder().device()),
            "other_devices": self.devices.iter().map(|device| format!("{device:?}")).collect::<Vec<_>>(),
            "checkpoint_every": self.options.checkpoint_every,
            "data": self.train.report(),
            "held_out": self.held_out.map(DataSet::report),
        })
    }

    /// Measures what was asked for on the decoder as it is. `base` are the probes' projections before training, `loops` the
    /// closed loops' shifts.
    fn measure(
        &self,
        decoder: &Decoder,
        base: &[f64],
        loops: Option<&[LoopShift]>,
        line: &mut StepMetrics,
    ) -> Result<()> {
        let finite = |value: f64| match value.is_finite() {
            true => Ok(value),
            false => Err(Error::BadLoss { step: line.step, loss: value }),
        };
        let held_out = self.held_out.map(|held_out| {
            let loss = mean_loss(decoder, held_out.samples(), self.options.train.batch_size, &mut NoHook)?;
            finite(loss)
        });
        let mut projections = Vec::new();
        if let Some(probes) = self.probes {
            for (name, value) in probes.names().into_iter().zip(probes.measure(decoder)?) {
                projections.push((name, finite(value)?));
            }
        }
        line.held_out_loss = held_out.transpose()?;
        line.shifts = projections.iter().zip(base).map(|((name, now), base)| (name.clone(), now - base)).collect();
        line.projections = projections.into_iter().collect();
        for LoopShift { name, shift, .. } in loops.unwrap_or_default() {
            line.shifts.insert(name.clone(), finite(*shift)?);
        }
        Ok(())
    }
}
