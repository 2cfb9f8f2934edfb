//! The result of a run.

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use pv_data::{FileError, RunFolder};
use pv_model::decoder::Decoder;
use pv_model::{Adapter, CausalLm};
use serde::{Deserialize, Serialize};

use super::best::{BestStep, Keep};
use crate::trainer::Checkpoints;
use crate::{Result, Trainer};

const ADAPTER: &str = "adapter";
const MODEL: &str = "model";
const RESULT: &str = "result.json";
/// The prefix of names of incomplete or outdated results.
pub(super) const PARTIAL: &str = ".unfinished";
const REPLACED: &str = ".unfinished-replaced";

/// The description of a run's result.
#[derive(Debug, Serialize, Deserialize)]
struct RunResult {
    /// The step of the saved weights.
    step: usize,
    /// The last step that was trained.
    last_step: usize,
    /// The number of planned steps.
    steps: usize,
    /// The number of times that the run had been extended.
    grown: usize,
    keep: Keep,
    /// The measurements of the best step, if it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    best: Option<BestStep>,
}

/// The parts of a run that make up its result.
pub(super) struct Ended<'a> {
    pub(super) trainer: &'a Trainer,
    pub(super) checkpoints: &'a Checkpoints,
    pub(super) keep: Keep,
    /// The best step, if it is kept.
    pub(super) best: Option<&'a BestStep>,
    pub(super) steps: usize,
    pub(super) grown: usize,
}

impl Ended<'_> {
    /// Saves the adapter or the model, unless it exists and was saved after the last extension. It is renamed to its
    /// final name when it is complete.
    pub(super) fn save(&self, folder: &RunFolder, model: &CausalLm) -> Result<PathBuf> {
        let adapter = self.trainer.options().adapter.is_some();
        let place = folder.file(if adapter { ADAPTER } else { MODEL });
        let known = folder.read(RESULT)?.and_then(|bytes| serde_json::from_slice::<RunResult>(&bytes).ok());
        let grown = known.as_ref().map(|known| known.grown);
        if place.exists() && grown.unwrap_or(0) == self.grown {
            if grown.is_none() {
                self.describe(folder)?;
            }
            return Ok(place);
        }
        let failed = |source| FileError::Write { path: place.clone(), source };
        let temporary = folder.file(PARTIAL);
        std::fs::create_dir(&temporary).map_err(failed)?;
        self.write(&temporary, model)?;
        if place.exists() {
            let replaced = folder.file(REPLACED);
            std::fs::rename(&place, &replaced).map_err(failed)?;
            std::fs::rename(&temporary, &place).map_err(failed)?;
            std::fs::remove_dir_all(&replaced).map_err(failed)?;
        } else {
            std::fs::rename(&temporary, &place).map_err(failed)?;
        }
        self.describe(folder)?;
        Ok(place)
    }

    /// The step whose weights become the result.
    fn step(&self) -> usize {
        self.best.map_or(self.trainer.steps_done(), |best| best.step)
    }

    fn write(&self, to: &Path, model: &CausalLm) -> Result<()> {
        // The last step's weights are in memory; those of any other step are in its checkpoint.
        let from = (self.step() != self.trainer.steps_done()).then(|| self.checkpoints.of_step(self.step()));
        if self.trainer.options().adapter.is_some() {
            // The name by which PEFT loads the base model: its name on the hub, or its path.
            let name = model.name();
            let path = model.folder();
            let base = match name.contains('/') {
                true => name.to_owned(),
                false => path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string(),
            };
            let adapter = match from {
                Some(from) => Adapter::load(from)?,
                None => self.trainer.adapter()?,
            };
            adapter.with_base(base).save(to)?;
        } else {
            let decoder = match from {
                Some(from) => Decoder::from_folder(from, &model.decoder().device().without_autodiff(), DType::F32)?,
                None => self.trainer.decoder(),
            };
            model.clone().with_decoder(decoder)?.save(to, DType::F32)?;
        }
        Ok(())
    }

    fn describe(&self, folder: &RunFolder) -> Result<()> {
        let result = RunResult {
            step: self.step(),
            last_step: self.trainer.steps_done(),
            steps: self.steps,
            grown: self.grown,
            keep: self.keep,
            best: self.best.cloned(),
        };
        Ok(folder.write(RESULT, |file| Ok(serde_json::to_writer_pretty(file, &result)?))?)
    }
}
