//! The description of a run that is stored in its folder.

use pv_data::runs::through_text;
use pv_data::{Damage, FileError, RunError, RunFolder};
use pv_model::{CausalLm, ModelIdentity};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Plan;
use super::store::Layout;
use crate::{Error, Result};

pub(super) const HEADER: &str = "run.json";
const FORMAT: &str = "pv-rollouts/1";

/// Everything that determines the results of a run. The batch size does not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) format: String,
    pub(super) model: ModelIdentity,
    pub(super) plan: Plan,
}

impl Header {
    pub(super) fn new(model: &CausalLm, plan: Plan) -> Result<Self> {
        Ok(Self { format: FORMAT.to_owned(), model: model.identity()?, plan })
    }

    pub(super) fn layout(&self) -> Layout {
        let ModelIdentity { layers, d_model, .. } = self.model;
        Layout { layers, d_model, precision: self.plan.options.precision }
    }

    /// As JSON, without the settings that may change between starts.
    fn json(&self) -> Value {
        let mut value = through_text(self);
        if let Some(options) = value.pointer_mut("/plan/options").and_then(Value::as_object_mut) {
            options.shift_remove("batch_size");
        }
        value
    }

    /// Writes the header of a new folder, or refuses a folder with a different header. If this run extends the one in
    /// the folder, returns the stored header, which [`replace`](Self::replace) overwrites later.
    pub(super) fn claim(&self, folder: &RunFolder) -> Result<Option<Self>> {
        let saved = folder.read_json(HEADER)?;
        let smaller = saved.clone().map(|saved| Self::parse(folder, saved)).transpose()?;
        let smaller = smaller.filter(|saved| self.plan.grows_from(&saved.plan));
        let given = match &smaller {
            // Everything but the size must be equal.
            Some(saved) => {
                let mut plan = saved.plan.clone();
                plan.options.batch_size = self.plan.options.batch_size;
                Self { plan, ..self.clone() }.json()
            }
            None => self.json(),
        };
        folder.claim_read(HEADER, saved, &given, &["/model/weights"])?;
        Ok(smaller)
    }

    /// Overwrites the header of the smaller run that this one extends.
    pub(super) fn replace(&self, folder: &RunFolder) -> Result<()> {
        Ok(folder.write(HEADER, |file| Ok(serde_json::to_writer_pretty(file, &self.json())?))?)
    }

    /// Reads a folder's header.
    pub(super) fn read(folder: &RunFolder) -> Result<Self> {
        let value = folder.read_json(HEADER)?.ok_or_else(|| FileError::Read {
            path: folder.file(HEADER),
            source: std::io::Error::new(std::io::ErrorKind::NotFound, "the folder contains no run"),
        })?;
        Self::parse(folder, value)
    }

    fn parse(folder: &RunFolder, value: Value) -> Result<Self> {
        match value.get("format").and_then(Value::as_str) {
            Some(FORMAT) => {}
            other => {
                let (found, expected) = (format!("{other:?}"), format!("{FORMAT:?}"));
                return Err(damaged(folder, Damage::unexpected("its format", found, expected)));
            }
        }
        let invalid = |source| RunError::Json { path: folder.file(HEADER), source };
        let header: Self = serde_json::from_value(value).map_err(invalid)?;
        header.plan.check().map_err(|error| damaged(folder, Damage::Content(error.into())))?;
        let Layout { layers, d_model, .. } = header.layout();
        if layers == 0 || d_model == 0 || layers.checked_mul(d_model).is_none_or(|size| size > 1 << 30) {
            let found = format!("{layers} layers of width {d_model}");
            return Err(damaged(
                folder,
                Damage::unexpected("its model", found, "1 layer or more, of at most 2^30 values"),
            ));
        }
        Ok(header)
    }
}

fn damaged(folder: &RunFolder, source: Damage) -> Error {
    RunError::Damaged { path: folder.file(HEADER), source }.into()
}
