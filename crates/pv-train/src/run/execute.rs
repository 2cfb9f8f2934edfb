//! The execution of a run in its folder.

use std::ops::ControlFlow;
use std::path::Path;

use pv_data::RunFolder;
use pv_data::error::with_causes;
use pv_hooks::NoHook;
use pv_model::decoder::Decoder;
use serde_json::{Value, json};

use super::best::{self, Best, BestRule, Keep};
use super::config::{self, Extension, Saved};
use super::metrics::{MetricsFile, StepMetrics, read_metrics};
use super::result::{Ended, PARTIAL};
use super::{RunOutcome, TrainingRun};
use crate::data::DataSet;
use crate::finetune::{fingerprint, plan};
use crate::loss::{check, mean_loss};
use crate::run_hook::{LoopShift, RunHook};
use crate::schedule::WarmUp;
use crate::trainer::{Checkpoints, remove_partial};
use crate::{Error, Regime, Result, Sample, TrainOptions, Trainer};

const CHECKPOINTS: &str = "checkpoints";

impl TrainingRun<'_> {
    /// Trains in a folder with a hook. `regimes` are stored if the hook is made of them.
    pub(super) fn run_as(
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
                ("the measurement for the best checkpoint", "held-out samples, probes, or a closed loop");
            return Err(Error::BadOption { name, value: "missing".to_owned(), expected });
        }
        let samples = self.train.samples();
        let (mut batches, options) = plan(samples, &self.options.train)?;
        let steps = options.steps()?;
        let folder = RunFolder::lock(folder.as_ref())?;
        let saved = Saved::read(&folder)?;
        let warmup = options.warmup.resumed(saved.as_ref().map(Saved::warmup));
        let options = TrainOptions { warmup, ..options };
        let extension = saved.as_ref().and_then(|saved| saved.extension(steps, &self.options));
        let requested = extension == Some(Extension::Requested);
        let keep = match (self.options.keep, saved.as_ref().and_then(Saved::keep)) {
            (Some(keep), _) => keep,
            (None, Some(kept)) if !requested || kept != Keep::Last => kept,
            _ if measures && (requested || self.options.stop_after.is_some() || !loops.is_empty()) => {
                Keep::Best(BestRule::default())
            }
            _ => Keep::Last,
        };
        let checkpoints = Checkpoints { folder: folder.file(CHECKPOINTS), every: self.options.checkpoint_every };
        let newest = checkpoints.newest()?.map(|(step, _)| step);
        let run = self.describe(warmup, keep, steps, description)?;
        let extension = extension.map(|extension| (extension, newest.unwrap_or(0)));
        let claimed = config::claim(&folder, saved, &run, regimes, &self.environment(), extension)?;
        remove_partial(folder.path(), PARTIAL)?;
        checkpoints.clean()?;

        let data = fingerprint(samples);
        hook.samples_repeat(steps > batches.steps_per_epoch());
        let trainer = match newest {
            Some(_) => {
                let (decoder, extended) = (self.model.decoder(), claimed.extended > 0);
                Trainer::resume_extended(decoder, options, &checkpoints.folder, Some(&data), hook, extended)?
            }
            None => Trainer::new(self.model.decoder(), options)?.with_data(data),
        };
        let mut trainer = trainer.with_devices(&self.devices)?;
        // A closed loop's shifts are only measured if they affect the choice of the best checkpoint.
        let followed = matches!(keep, Keep::Best(_)) && !loops.is_empty();
        let measured = self.held_out.is_some() || self.probes.is_some() || followed;
        let mut metrics = MetricsFile::open(&folder, usize::from(!measured), trainer.steps_done())?;
        let mut best = match keep {
            Keep::Best(rule) => Some(Best::new(rule, &loops, claimed.best_from, claimed.counted_from)),
            Keep::Last => None,
        };
        if let Some(best) = &mut best {
            for line in &read_metrics(folder.path())? {
                best.add(line);
            }
            checkpoints.check_best(best.best().map(|best| best.step))?;
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
                tracing::error!(error = with_causes(error), samples = ?places, "the step failed");
            })?;
            let last = report.step == steps;
            let mut line = StepMetrics::of(&report, report.step as f64 / per_epoch, hook.metrics());
            if measured && (last || report.step.is_multiple_of(self.options.measure_every)) {
                let decoder = trainer.decoder();
                let now = if followed { Some(hook.shifts(&decoder)?) } else { None };
                self.measure(&decoder, &base, now.as_deref(), &mut line)?;
            }
            metrics.append(&line)?;
            let better = best.as_mut().is_some_and(|best| best.add(&line));
            early = enough(&best);
            let last = last || early;
            stopped = progress(&line).is_break() && !last;
            if last || stopped || better || report.step.is_multiple_of(self.options.checkpoint_every) {
                // The metrics always contain all steps of a checkpoint.
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
            Ended { trainer: &trainer, checkpoints: &checkpoints, keep, best: chosen, steps, grown: claimed.extended };
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
        // Checked before anything is written, so that the run cannot fail for these reasons later.
        check(self.model.decoder(), self.train.samples(), 1)?;
        self.held_out.map_or(Ok(()), |held_out| check(self.model.decoder(), held_out.samples(), 0))
    }

    /// Everything that determines the result.
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

    /// Takes the configured measurements of the decoder. `base` are the probes' projections before training, `loops`
    /// the closed loops' shifts.
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
