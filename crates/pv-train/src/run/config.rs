//! What a run's folder says of the run.

use std::path::Path;

use pv_data::runs::first_difference;
use pv_data::{FileError, RunError, RunFolder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::best::Keep;
use crate::data::DataSet;
use crate::finetune::fingerprint;
use crate::probes::Probes;
use crate::schedule::WarmUp;
use crate::{Regime, Result};

pub(super) const CONFIG: &str = "config.json";
const FORMAT: &str = "pv-train-run/1";
const WARMUP: &str = "warmup";
const REGIMES: &str = "regimes";

/// The regimes that a folder's run was begun with, where they are written down.
pub(crate) fn regimes(folder: &Path) -> Result<Option<Vec<Regime>>> {
    let path = folder.join(CONFIG);
    let bytes = match pv_data::read_file(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FileError::Read { path, source }.into()),
    };
    let damaged =
        |error: serde_json::Error| RunError::Damaged { path: folder.to_owned(), reason: format!("{CONFIG}: {error}") };
    let mut all: Value = serde_json::from_slice(&bytes).map_err(damaged)?;
    let found = all.get_mut(REGIMES).map(Value::take).filter(|found| !found.is_null());
    Ok(found.map(|found| serde_json::from_value(found).map_err(damaged)).transpose()?)
}

/// What a folder says of the run in it.
pub(super) struct Saved(Value);

/// A folder that a run may use.
pub(super) struct Claimed {
    /// How often the run has grown.
    pub(super) grown: usize,
    /// The step after which it grew last, 0 where it never did.
    pub(super) begun: usize,
    /// From which step on the best checkpoint was kept.
    pub(super) best_from: usize,
}

impl Saved {
    /// Reads it, where the folder says something. What older versions did not write is filled in as they did it.
    pub(super) fn read(folder: &RunFolder) -> Result<Option<Self>> {
        let Some(bytes) = folder.read(CONFIG)? else { return Ok(None) };
        let damaged = |reason: String| RunError::Damaged { path: folder.path().to_owned(), reason };
        let mut all: Value = serde_json::from_slice(&bytes).map_err(|error| damaged(format!("{CONFIG}: {error}")))?;
        if let Some(run) = all.get_mut("run").and_then(Value::as_object_mut) {
            run.entry("keep").or_insert(json!(Keep::Last));
            run.entry("stop_after").or_insert(Value::Null);
            if let Some(train) = run.get_mut("train").and_then(Value::as_object_mut) {
                train.entry(WARMUP).or_insert(json!(WarmUp::AboveZero));
            }
        }
        Ok(Some(Self(all)))
    }

    /// How the run's learning rate rises.
    pub(super) fn warmup(&self) -> WarmUp {
        serde_json::from_value(self.0["run"]["train"][WARMUP].clone()).unwrap_or_default()
    }

    /// Which checkpoint it keeps.
    pub(super) fn keep(&self) -> Option<Keep> {
        serde_json::from_value(self.0["run"]["keep"].clone()).ok()
    }

    fn steps(&self) -> usize {
        self.0["run"]["steps"].as_u64().unwrap_or_default() as usize
    }

    /// Whether a run of so many steps, which may grow, would be a longer one, or go on after it was stopped early.
    pub(super) fn grows(&self, steps: usize, stop_after: Option<usize>) -> bool {
        let run = &self.0["run"];
        // Anything else is refused by what differs.
        run["train"].is_object()
            && (steps > self.steps() || steps == self.steps() && run["stop_after"] != json!(stop_after))
    }
}

/// Writes what the run is into a folder that does not say so yet, or refuses a folder of another run. `run` decides the
/// result; `regimes` are written down in full, to be run again, and `run` has what tells them from others; `environment` is
/// for the record, and may change between one start and the next. `grow` is the last step that has a checkpoint, where a
/// longer run than the folder's may go on there.
pub(super) fn claim(
    folder: &RunFolder,
    saved: Option<Saved>,
    run: &Value,
    regimes: Option<&[Regime]>,
    environment: &Value,
    grow: Option<usize>,
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
        return Ok(Claimed { grown: 0, begun: 0, best_from: 0 });
    };
    if let Some(done) = grow {
        let before = saved["run"].clone();
        for changed in ["steps", "keep", "stop_after"] {
            saved["run"][changed] = given["run"][changed].clone();
        }
        saved["run"]["train"]["duration"] = given["run"]["train"]["duration"].clone();
        refuse(folder, &saved, &given)?;
        let kept_best = before["keep"].get("best").is_some();
        let mut grown = saved["grown"].as_array().cloned().unwrap_or_default();
        grown.push(json!({ "after_step": done, "steps": before["steps"] }));
        saved["grown"] = grown.into();
        if !kept_best {
            saved["best_from"] = json!(done);
        }
        write(&saved)?;
    } else {
        refuse(folder, &saved, &given)?;
    }
    let version = |all: &Value| all["version"].as_str().unwrap_or("unknown").to_owned();
    let (then, now) = (version(&saved["environment"]), version(environment));
    if then != now {
        tracing::warn!(then, now, "the run was begun by another version; it may not end the same to the bit");
    }
    let number = |value: &Value| value.as_u64().unwrap_or_default() as usize;
    let grown = saved["grown"].as_array().map_or(&[][..], Vec::as_slice);
    let begun = grown.last().map_or(0, |last| number(&last["after_step"]));
    Ok(Claimed { grown: grown.len(), begun, best_from: number(&saved["best_from"]) })
}

/// Refuses a folder of another run.
fn refuse(folder: &RunFolder, saved: &Value, given: &Value) -> Result<()> {
    for part in ["format", "run"] {
        if let Some((what, saved, given)) = first_difference(&saved[part], &given[part]) {
            let what = if what.is_empty() { part.to_owned() } else { what };
            return Err(RunError::OtherRun { path: folder.path().to_owned(), what, saved, given }.into());
        }
    }
    Ok(())
}

/// What tells one data set from another.
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

/// What tells some probes from others.
pub(super) fn probes(probes: &Probes) -> Value {
    let mut hash = Sha256::new();
    for prompt in probes.prompts() {
        hash.update((prompt.len() as u64).to_le_bytes());
        prompt.iter().for_each(|id| hash.update(id.to_le_bytes()));
    }
    json!({
        "prompts": { "count": probes.prompts().len(), "sha256": hex::encode(hash.finalize()) },
        "directions": probes.directions().iter().map(crate::shift::stamp).collect::<Vec<_>>(),
    })
}
