//! What a run's folder says of the run.

use pv_vectors::{RunFolder, first_difference, through_text};
use serde_json::{Value, json};

use crate::data::DataSet;
use crate::finetune::fingerprint;
use crate::probes::Probes;
use crate::{Error, Result};
use sha2::{Digest, Sha256};

pub(super) const CONFIG: &str = "config.json";
const FORMAT: &str = "pv-train-run/1";

/// Writes what the run is into a folder that does not say so yet, or refuses a folder of another run. `run` decides the
/// result; `environment` is for the record, and may change between one start and the next.
pub(super) fn claim(folder: &RunFolder, run: &Value, environment: &Value) -> Result<()> {
    let given = json!({ "format": FORMAT, "run": through_text(run) });
    let Some(bytes) = folder.read(CONFIG)? else {
        let mut all = given;
        all["environment"] = environment.clone();
        let write = |file: &mut std::io::BufWriter<&std::fs::File>| Ok(serde_json::to_writer_pretty(file, &all)?);
        return Ok(folder.write(CONFIG, write)?);
    };
    let damaged = |reason: String| Error::DamagedRun { path: folder.path().to_owned(), reason };
    let saved: Value = serde_json::from_slice(&bytes).map_err(|error| damaged(format!("{CONFIG}: {error}")))?;
    for part in ["format", "run"] {
        if let Some((what, saved, given)) = first_difference(&saved[part], &given[part]) {
            let what = if what.is_empty() { part.to_owned() } else { what };
            return Err(Error::OtherRun { path: folder.path().to_owned(), what, saved, given });
        }
    }
    let version = |all: &Value| all["version"].as_str().unwrap_or("unknown").to_owned();
    let (then, now) = (version(&saved["environment"]), version(environment));
    if then != now {
        tracing::warn!(then, now, "the run was begun by another version; it may not end the same to the bit");
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
