//! Saving training state and resuming from it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use pv_data::{FileError, RunError};
use pv_model::decoder::Decoder;
use pv_model::{Adapter, DecoderConfig};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::CheckpointDamage;
use crate::optimizer::Moments;
use crate::options::result_options;
use crate::run_hook::RunHook;
use crate::schedule::WarmUp;
use crate::{Error, Result, TrainOptions, Trainer};

const FORMAT: &str = "pv-train-checkpoint/1";
const STATE: &str = "state.json";
const MOMENTS: &str = "optimizer.safetensors";
const LOSSES: &str = "losses";
/// The prefix of incomplete checkpoints' names.
const PARTIAL: &str = ".checkpoint-";
/// The number of checkpoints that are kept.
const KEPT: usize = 2;

/// The folder of the checkpoints, and the interval between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    /// A folder for the checkpoints of one run, of which the last two are kept. Each is a folder `step-…` with
    /// `config.json` and `model.safetensors` of a model, or an adapter's files in PEFT's format.
    pub folder: PathBuf,
    /// A checkpoint is written every `every` steps, and at the end.
    pub every: usize,
}

impl Checkpoints {
    /// The newest checkpoint with its step, if there is one.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read) if the folder exists and cannot be read.
    pub fn newest(&self) -> Result<Option<(usize, PathBuf)>> {
        Ok(list(&self.folder)?.pop())
    }
}

/// Removes the incomplete folders of a killed process: those whose names begin with `prefix`.
pub(crate) fn remove_partial(folder: &Path, prefix: &str) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(FileError::Read { path: folder.to_owned(), source }.into()),
    };
    for entry in entries {
        let path = entry.map_err(|source| FileError::Read { path: folder.to_owned(), source })?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) {
            fs::remove_dir_all(&path).map_err(|source| FileError::Write { path, source })?;
        }
    }
    Ok(())
}

impl Checkpoints {
    /// Removes the incomplete checkpoints of a killed process. No other process may be writing to the folder.
    pub(crate) fn clean(&self) -> Result<()> {
        remove_partial(&self.folder, PARTIAL)
    }

    /// The path of a step's checkpoint.
    pub(crate) fn of_step(&self, step: usize) -> PathBuf {
        self.folder.join(name(step))
    }

    /// Refuses a best step whose checkpoint no longer exists.
    pub(crate) fn check_best(&self, best: Option<usize>) -> Result<()> {
        match best.map(|step| self.of_step(step)) {
            Some(path) if !path.is_dir() => Err(Error::DamagedCheckpoint { path, source: CheckpointDamage::Missing }),
            _ => Ok(()),
        }
    }
}

/// The state of a checkpoint that is not a tensor.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    format: String,
    /// [`TrainOptions`] as they were written; parsing them as numbers may round.
    options: Value,
    data: Option<String>,
    /// The number of updates of each parameter.
    updates: BTreeMap<String, usize>,
    /// The state of the run's hook.
    #[serde(default)]
    hook: Value,
}

impl State {
    /// The number of steps of the run.
    fn steps(&self) -> usize {
        let steps = self.options.pointer("/duration/steps").and_then(Value::as_u64);
        steps.unwrap_or_default() as usize
    }
}

impl Trainer {
    /// Writes a checkpoint `step-…` into the folder, which is created if it does not exist, and removes all but the
    /// last two. The checkpoint is renamed to its final name when it is complete.
    ///
    /// # Errors
    /// [`FileError::Write`], and those of [`Decoder::save`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<PathBuf> {
        self.save_with(folder.as_ref(), Value::Null, None)
    }

    /// Like [`save`](Self::save), with the state of the run's hook, and a step whose checkpoint is not removed.
    pub(crate) fn save_with(&self, folder: &Path, hook: Value, kept: Option<usize>) -> Result<PathBuf> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FileError::Write { path, source }
        };
        fs::create_dir_all(folder).map_err(failed(folder))?;
        let temporary = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(folder).map_err(failed(folder))?;
        match self.options.adapter {
            None => self.decoder.save(temporary.path(), DType::F32)?,
            Some(_) => self.adapter()?.save(temporary.path())?,
        }
        let moments = self.optimizers.moments(&self.decoder)?;
        let state = State {
            format: FORMAT.to_owned(),
            options: json(&self.options),
            data: self.data.clone(),
            updates: moments.iter().map(|(name, moments)| (name.clone(), moments.updates)).collect(),
            hook,
        };
        let path = temporary.path().join(MOMENTS);
        write_tensors(&path, &moments, &self.losses).map_err(failed(&path))?;
        let path = temporary.path().join(STATE);
        let written = serde_json::to_vec_pretty(&state).map_err(std::io::Error::from);
        written.and_then(|json| fs::write(&path, json)).and_then(|()| sync(&path)).map_err(failed(&path))?;

        let place = folder.join(name(self.steps_done()));
        if place.exists() {
            fs::remove_dir_all(&place).map_err(failed(&place))?;
        }
        fs::rename(temporary.path(), &place).map_err(failed(&place))?;
        // Its content was moved; there is nothing left to remove.
        let _ = temporary.keep();
        let mut all = list(folder)?;
        all.truncate(all.len().saturating_sub(KEPT));
        for (_, old) in all.into_iter().filter(|(step, _)| kept != Some(*step)) {
            fs::remove_dir_all(&old).map_err(failed(&old))?;
        }
        Ok(place)
    }

    /// Resumes from the newest checkpoint in a folder, with options that give the same result (see [`TrainOptions`], which
    /// states what may change) and, if `data` is given, the same description of the data
    /// ([`with_data`](Self::with_data)). An adapter is put on `decoder`. If all parameters are trained, `decoder` provides
    /// the architecture and the device, and its weights are not used. The state of `run` is restored. A run that an older
    /// version started under [`WarmUp::AboveZero`] keeps this rule.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`]; [`RunError::OtherRun`] with the first difference; [`Error::ScheduleDependsOnSteps`] for a
    /// longer run whose learning rates differ; [`Error::DamagedCheckpoint`]; files that cannot be read.
    pub fn resume(
        decoder: &Decoder,
        options: TrainOptions,
        folder: impl AsRef<Path>,
        data: Option<&str>,
        run: &mut (impl RunHook + ?Sized),
    ) -> Result<Self> {
        Self::resume_extended(decoder, options, folder.as_ref(), data, run, false)
    }

    /// Like [`resume`](Self::resume). With `extended`, the run may be longer than the checkpoint's whatever its schedule.
    pub(crate) fn resume_extended(
        decoder: &Decoder,
        options: TrainOptions,
        folder: &Path,
        data: Option<&str>,
        run: &mut (impl RunHook + ?Sized),
        extended: bool,
    ) -> Result<Self> {
        let Some((step, path)) = list(folder)?.pop() else {
            return Err(Error::NoCheckpoint { path: folder.to_owned() });
        };
        let damaged = |source: CheckpointDamage| Error::DamagedCheckpoint { path: path.clone(), source };
        let other = |what: String, saved: String, given: String| {
            Err(RunError::OtherRun { path: path.clone(), what, saved, given }.into())
        };

        let bytes = read(&path.join(STATE))?;
        let mut state: State =
            serde_json::from_slice(&bytes).map_err(|error| damaged(CheckpointDamage::State(error)))?;
        if state.format != FORMAT {
            return other("format".to_owned(), state.format, FORMAT.to_owned());
        }
        if let Some(saved) = state.options.as_object_mut() {
            // Older versions had no other rule.
            saved.entry("warmup").or_insert(serde_json::json!(WarmUp::AboveZero));
        }
        let started = state.options.get("warmup").and_then(|started| serde_json::from_value(started.clone()).ok());
        let options = TrainOptions { warmup: options.warmup.resumed(started), ..options };
        if let Some((option, saved, given)) = differing(&state.options, &options) {
            return other(option, saved, given);
        }
        let (saved, requested) = (state.steps(), options.steps()?);
        if requested < saved {
            return other("steps".to_owned(), saved.to_string(), requested.to_string());
        }
        if requested > saved && options.decay.depends_on_steps() && !extended {
            let (path, decay) = (path.clone(), options.decay);
            return Err(Error::ScheduleDependsOnSteps { path, decay, saved, requested });
        }
        if let Some(data) = data.filter(|data| state.data.as_deref() != Some(data)) {
            return other("data".to_owned(), state.data.unwrap_or_else(|| "unknown".to_owned()), data.to_owned());
        }
        let (moments, losses) = read_tensors(&read(&path.join(MOMENTS))?, &state.updates).map_err(damaged)?;
        if losses.len() != step {
            return Err(damaged(CheckpointDamage::LossCount { step, losses: losses.len() }));
        }
        let mut trainer = match options.adapter {
            Some(_) => Self::on_adapter(decoder, &Adapter::load(&path)?, options)?,
            None => {
                let config = DecoderConfig::from_folder(&path)?;
                if let Some((key, saved, given)) = config.difference(decoder.config()) {
                    return other(key, saved, given);
                }
                let device = decoder.device().without_autodiff();
                Self::new(&Decoder::from_folder(&path, &device, DType::F32)?, options)?
            }
        };
        trainer.optimizers.restore(&trainer.decoder, moments).map_err(damaged)?;
        trainer.losses = losses;
        trainer.data = state.data;
        run.restore(&state.hook)?;
        Ok(trainer)
    }
}

/// The name of a step's checkpoint.
fn name(step: usize) -> String {
    format!("step-{step:08}")
}

/// The checkpoints in a folder with their steps, in ascending order.
fn list(folder: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let failed = |source| FileError::Read { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source).into()),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

fn json(options: &TrainOptions) -> Value {
    serde_json::to_value(options).unwrap_or_default()
}

/// The first option that changes the result and differs, with its saved and its given value.
fn differing(saved: &Value, given: &TrainOptions) -> Option<(String, String, String)> {
    let (saved, given) = (result_options(saved), result_options(&json(given)));
    let name = given.as_object()?.keys().find(|name| saved.get(name) != given.get(name))?;
    let shown = |all: &Value| all.get(name).map_or_else(|| "absent".to_owned(), Value::to_string);
    Some((name.clone(), shown(&saved), shown(&given)))
}

fn write_tensors(path: &Path, moments: &BTreeMap<String, Moments>, losses: &[f64]) -> std::io::Result<()> {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = vec![(
        LOSSES.to_owned(),
        Dtype::F64,
        losses.len(),
        losses.iter().flat_map(|loss| loss.to_le_bytes()).collect(),
    )];
    for (name, Moments { first, second, .. }) in moments {
        tensors.push((format!("{name}.first"), Dtype::F32, first.len(), bytes(first)));
        tensors.push((format!("{name}.second"), Dtype::F32, second.len(), bytes(second)));
    }
    let views = tensors.iter().map(|(name, dtype, len, bytes)| Ok((name, TensorView::new(*dtype, vec![*len], bytes)?)));
    let views = views.collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>();
    let metadata = HashMap::from([("format".to_owned(), FORMAT.to_owned())]);
    views
        .and_then(|views| safetensors::serialize_to_file(views, Some(metadata), path))
        .map_err(std::io::Error::other)?;
    sync(path)
}

/// The moments and the losses.
type Stored = (BTreeMap<String, Moments>, Vec<f64>);

fn read_tensors(bytes: &[u8], updates: &BTreeMap<String, usize>) -> Result<Stored, CheckpointDamage> {
    let tensors = SafeTensors::deserialize(bytes).map_err(CheckpointDamage::Tensors)?;
    let view = |name: &str, dtype: Dtype| {
        let view = tensors.tensor(name).map_err(CheckpointDamage::Tensors)?;
        match view.dtype() == dtype {
            true => Ok(view),
            false => Err(CheckpointDamage::TensorType {
                name: name.to_owned(),
                expected: format!("{dtype:?}"),
                found: format!("{:?}", view.dtype()),
            }),
        }
    };
    let values = |name: String| {
        let (numbers, _) = view(&name, Dtype::F32)?.data().as_chunks::<4>();
        Ok::<_, CheckpointDamage>(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };
    let moments = updates.iter().map(|(name, &updates)| {
        let (first, second) = (values(format!("{name}.first"))?, values(format!("{name}.second"))?);
        Ok((name.clone(), Moments { updates, first, second }))
    });
    let (losses, _) = view(LOSSES, Dtype::F64)?.data().as_chunks::<8>();
    let losses = losses.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    Ok((moments.collect::<Result<_, CheckpointDamage>>()?, losses))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| FileError::Read { path: path.to_owned(), source }.into())
}

fn sync(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}
