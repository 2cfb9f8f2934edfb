//! What a run's folder belongs to.

use pv_data::runs::through_text;
use pv_data::{FileError, RunError, RunFolder};
use pv_model::{CausalLm, ModelIdentity};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Plan;
use super::store::Layout;
use crate::{Error, Result};

pub(super) const HEADER: &str = "run.json";
const FORMAT: &str = "pv-rollouts/1";

/// What decides a run's results. Another batch size does not.
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

    /// As JSON, without what may change from one start to the next.
    fn json(&self) -> Value {
        let mut value = through_text(self);
        if let Some(options) = value.pointer_mut("/plan/options").and_then(Value::as_object_mut) {
            options.shift_remove("batch_size");
        }
        value
    }

    /// Writes the header of a folder that has none, or refuses a folder whose header is another.
    pub(super) fn claim(&self, folder: &RunFolder) -> Result<()> {
        Ok(folder.claim_with(HEADER, &self.json(), &["/model/weights"])?)
    }

    /// Reads a folder's header.
    pub(super) fn read(folder: &RunFolder) -> Result<Self> {
        let path = folder.file(HEADER);
        let bytes = folder.read(HEADER)?.ok_or_else(|| FileError::Read {
            path,
            source: std::io::Error::new(std::io::ErrorKind::NotFound, "the folder holds no run"),
        })?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| damaged(folder, error))?;
        match value.get("format").and_then(Value::as_str) {
            Some(FORMAT) => {}
            other => {
                return Err(damaged(folder, format!("its format is {other:?}, but {FORMAT:?} is what can be read")));
            }
        }
        let header: Self = serde_json::from_value(value).map_err(|error| damaged(folder, error))?;
        header.plan.check().map_err(|error| damaged(folder, error))?;
        let Layout { layers, d_model, .. } = header.layout();
        if layers == 0 || d_model == 0 || layers.checked_mul(d_model).is_none_or(|size| size > 1 << 30) {
            return Err(damaged(folder, format!("its model has {layers} layers of width {d_model}")));
        }
        Ok(header)
    }
}

fn damaged(folder: &RunFolder, reason: impl ToString) -> Error {
    RunError::Damaged { path: folder.file(HEADER), reason: reason.to_string() }.into()
}
