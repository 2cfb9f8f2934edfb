//! The description of a run in its folder.

use std::path::Path;

use pv_data::runs::first_difference;
use pv_data::{FileError, RunError, RunFolder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::RunOptions;
use super::best::Keep;
use crate::data::DataSet;
use crate::finetune::fingerprint;
use crate::options::result_options;
use crate::probes::Probes;
use crate::schedule::WarmUp;
use crate::{Error, Regime, Result};

pub(super) const CONFIG: &str = "config.json";
const FORMAT: &str = "pv-train-run/1";
const WARMUP: &str = "warmup";
const REGIMES: &str = "regimes";
/// The key of an extension that did not change the schedule.
const SAME_SCHEDULE: &str = "same_schedule";

impl Regime {
    /// The regimes of the run in a folder, for use in another run. `None` if the folder contains no run, or a run of a
    /// version that did not store regimes, or a run with a hook other than regimes.
    ///
    /// # Errors
    /// A folder that cannot be read, [`RunError::Json`].
    pub fn of_run(folder: impl AsRef<Path>) -> Result<Option<Vec<Self>>> {
        let folder = folder.as_ref();
        let path = folder.join(CONFIG);
        let bytes = match pv_data::files::read_file(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FileError::Read { path: path.clone(), source }.into()),
        };
        let damaged = |source| RunError::Json { path: path.clone(), source };
        let mut all: Value = serde_json::from_slice(&bytes).map_err(damaged)?;
        let found = all.get_mut(REGIMES).map(Value::take).filter(|found| !found.is_null());
        Ok(found.map(|found| serde_json::from_value(found).map_err(damaged)).transpose()?)
    }
}

/// The stored description of a folder's run.
pub(super) struct Saved(Value);

/// How a run extends the shorter one in its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extension {
    /// The learning rate does not depend on the number of steps: the shorter run is the beginning of the longer one.
    SameSchedule,
    /// [`RunOptions::grow`] requests an extension with another schedule, or after an early stop.
    Requested,
    /// The learning rates of the longer run differ from the beginning on, and no extension was requested.
    OtherSchedule,
}

/// A folder that was checked and may be used by a run.
pub(super) struct Claimed {
    /// The number of times that the run was extended.
    pub(super) extended: usize,
    /// The step after which measurements without improvement are counted: that of the last requested extension, or 0.
    pub(super) counted_from: usize,
    /// The step from which on the best checkpoint was kept.
    pub(super) best_from: usize,
}

impl Saved {
    /// Loads the description, if the folder has one. Values that older versions did not store are set to what those
    /// versions did.
    pub(super) fn read(folder: &RunFolder) -> Result<Option<Self>> {
        let Some(bytes) = folder.read(CONFIG)? else { return Ok(None) };
        let mut all: Value =
            serde_json::from_slice(&bytes).map_err(|source| RunError::Json { path: folder.file(CONFIG), source })?;
        if let Some(run) = all.get_mut("run").and_then(Value::as_object_mut) {
            run.entry("keep").or_insert(json!(Keep::Last));
            run.entry("stop_after").or_insert(Value::Null);
            if let Some(train) = run.get_mut("train").and_then(Value::as_object_mut) {
                train.entry(WARMUP).or_insert(json!(WarmUp::AboveZero));
            }
        }
        Ok(Some(Self(all)))
    }

    /// The warm-up rule of the run.
    pub(super) fn warmup(&self) -> WarmUp {
        serde_json::from_value(self.0["run"]["train"][WARMUP].clone()).unwrap_or_default()
    }

    /// The checkpoint that the run keeps.
    pub(super) fn keep(&self) -> Option<Keep> {
        serde_json::from_value(self.0["run"]["keep"].clone()).ok()
    }

    fn steps(&self) -> usize {
        self.0["run"]["steps"].as_u64().unwrap_or_default() as usize
    }

    /// How a run of this many steps extends the one in the folder; `None` if it does not. Other differences are not
    /// considered.
    pub(super) fn extension(&self, steps: usize, options: &RunOptions) -> Option<Extension> {
        let (run, longer) = (&self.0["run"], steps > self.steps());
        let other_stop = steps == self.steps() && run["stop_after"] != json!(options.stop_after);
        match options.grow {
            _ if !run["train"].is_object() => None,
            true => (longer || other_stop).then_some(Extension::Requested),
            false if !longer => None,
            false if options.train.decay.depends_on_steps() => Some(Extension::OtherSchedule),
            false => Some(Extension::SameSchedule),
        }
    }
}

/// Writes a run's description to a folder that has none, or refuses a folder of another run. `run` determines the
/// result. `regimes` are stored in full, so that they can be used again; `run` contains their identities. `environment`
/// is informative, and may change between starts. `extension` states how this run extends the folder's, and the step of
/// the last checkpoint.
pub(super) fn claim(
    folder: &RunFolder,
    saved: Option<Saved>,
    run: &Value,
    regimes: Option<&[Regime]>,
    environment: &Value,
    extension: Option<(Extension, usize)>,
) -> Result<Claimed> {
    let mut given = json!({ "format": FORMAT, "run": run });
    let write = |all: &Value| -> Result<()> {
        let write = |file: &mut std::io::BufWriter<&std::fs::File>| Ok(serde_json::to_writer_pretty(file, all)?);
        Ok(folder.write(CONFIG, write)?)
    };
    let Some(Saved(mut saved)) = saved else {
        given["environment"] = environment.clone();
        if let Some(regimes) = regimes {
            given[REGIMES] = json!(regimes);
        }
        write(&given)?;
        return Ok(Claimed { extended: 0, counted_from: 0, best_from: 0 });
    };
    if let Some((extension, done)) = extension {
        let before = saved["run"].clone();
        let changed: &[&str] =
            if extension == Extension::Requested { &["steps", "keep", "stop_after"] } else { &["steps"] };
        for changed in changed {
            saved["run"][*changed] = given["run"][*changed].clone();
        }
        saved["run"]["train"]["duration"] = given["run"]["train"]["duration"].clone();
        refuse(folder, &saved, &given)?;
        if extension == Extension::OtherSchedule {
            let decay = serde_json::from_value(given["run"]["train"]["decay"].clone()).unwrap_or_default();
            let (saved, requested) = (number(&before["steps"]), number(&given["run"]["steps"]));
            let path = folder.path().to_owned();
            return Err(Error::ScheduleDependsOnSteps { path, decay, saved, requested });
        }
        let kept_best = before["keep"].get("best").is_some();
        let mut grown = saved["grown"].as_array().cloned().unwrap_or_default();
        let mut entry = json!({ "after_step": done, "steps": before["steps"] });
        if extension == Extension::SameSchedule {
            entry[SAME_SCHEDULE] = json!(true);
        }
        grown.push(entry);
        saved["grown"] = grown.into();
        if extension == Extension::Requested && !kept_best {
            saved["best_from"] = json!(done);
        }
        write(&saved)?;
    } else {
        refuse(folder, &saved, &given)?;
    }
    let version = |all: &Value| all["version"].as_str().unwrap_or("unknown").to_owned();
    let (then, now) = (version(&saved["environment"]), version(environment));
    if then != now {
        tracing::warn!(then, now, "another version started the run; the result may differ in the last bits");
    }
    let extensions = saved["grown"].as_array().map_or(&[][..], Vec::as_slice);
    let requested = extensions.iter().rfind(|extension| extension[SAME_SCHEDULE] != json!(true));
    let counted_from = requested.map_or(0, |last| number(&last["after_step"]));
    Ok(Claimed { extended: extensions.len(), counted_from, best_from: number(&saved["best_from"]) })
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap_or_default() as usize
}

/// Refuses a folder of another run.
fn refuse(folder: &RunFolder, saved: &Value, given: &Value) -> Result<()> {
    let other =
        |what, saved, given| Err(RunError::OtherRun { path: folder.path().to_owned(), what, saved, given }.into());
    if let Some((_, saved, given)) = first_difference(&saved["format"], &given["format"]) {
        return other("format".to_owned(), saved, given);
    }
    if let Some((what, saved, given)) =
        first_difference(&result_settings(&saved["run"]), &result_settings(&given["run"]))
    {
        let what = if what.is_empty() { "run".to_owned() } else { what };
        return other(what, saved, given);
    }
    if let Some((what, saved, given)) = first_difference(&saved["run"], &given["run"]) {
        tracing::info!(what, saved, given, "a setting that does not determine the result has changed");
    }
    Ok(())
}

/// The settings of a description that determine the result by more than rounding.
fn result_settings(run: &Value) -> Value {
    let mut run = run.clone();
    if let Some(train) = run.get_mut("train") {
        *train = result_options(train);
    }
    // Without a best checkpoint, measurements only inform.
    if run["keep"] == json!(Keep::Last)
        && let Some(run) = run.as_object_mut()
    {
        run.retain(|name, _| name != "measure_every");
    }
    run
}

/// Identifies a data set.
pub(super) fn data(set: &DataSet) -> Value {
    let report = set.report();
    json!({
        "files": report.files.iter().map(|file| json!({ "sha256": file.sha256, "bytes": file.bytes })).collect::<Vec<_>>(),
        "samples": report.samples,
        "tokens": report.tokens,
        "trained_tokens": report.trained_tokens,
        "fingerprint": fingerprint(set.samples()),
    })
}

/// Identifies probes.
pub(super) fn probes(probes: &Probes) -> Value {
    let mut hash = Sha256::new();
    for prompt in probes.prompts() {
        hash.update((prompt.len() as u64).to_le_bytes());
        prompt.iter().for_each(|id| hash.update(id.to_le_bytes()));
    }
    json!({
        "prompts": { "count": probes.prompts().len(), "sha256": hex::encode(hash.finalize()) },
        "directions": probes.directions().iter().map(crate::measure::shift::stamp).collect::<Vec<_>>(),
    })
}
