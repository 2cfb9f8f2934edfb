//! Export of vectors for other tools.

use std::collections::BTreeMap;
use std::path::Path;

use pv_hooks::LayerSet;

use super::{gguf, write};
use crate::vector::{Pooling, RowMark};
use crate::{Error, PersonaVector, Result};

impl PersonaVector {
    /// Writes a control vector for llama.cpp (`--control-vector`) and repeng: a GGUF file with `direction.{k}` for
    /// layer `k + 1`. The values are the raw ones, so that the strength given to those tools is a raw coefficient.
    ///
    /// `model_hint` is llama.cpp's name for the model's architecture, such as `qwen2` or `llama`. [`LayerSet::All`]
    /// writes every row that can steer and that the format can represent: from layer 2 on, without rows that are
    /// missing, zero or taken after the final norm.
    ///
    /// # Errors
    /// [`Error::ControlVectorLayer`] for layers 0 and 1, which the format cannot represent; those of
    /// [`direction_of`](Self::direction_of) for requested layers that cannot steer; [`Error::NothingToExport`];
    /// [`FileError::Write`](pv_data::FileError::Write).
    pub fn export_control_vector(
        &self,
        path: impl AsRef<Path>,
        model_hint: &str,
        pooling: Pooling,
        layers: &LayerSet,
    ) -> Result<()> {
        let trait_name = || self.provenance().trait_name.clone();
        let table = self
            .table(pooling)
            .ok_or_else(|| Error::NoSuchPooling { trait_name: trait_name(), pooling: pooling.name() })?;
        let mut directions = BTreeMap::new();
        for layer in layers.resolve(table.layers() - 1) {
            let number = gguf::direction_number(layer);
            let marked = matches!(table.mark(layer), Some(RowMark::Absent | RowMark::AfterFinalNorm));
            let zero = || table.get(layer).is_none_or(|row| row.iter().all(|value| *value == 0.0));
            let steers = number.is_some() && !marked && !zero();
            if *layers == LayerSet::All && !steers {
                continue;
            }
            let number = number.ok_or(Error::ControlVectorLayer { layer })?;
            directions.insert(number, self.direction_of(pooling, layer)?.values);
        }
        if directions.is_empty() {
            return Err(Error::NothingToExport { trait_name: trait_name() });
        }
        let rows = directions.iter().map(|(number, values)| (*number, values.as_slice())).collect();
        write(path.as_ref(), &gguf::write(model_hint, &rows))
    }
}
