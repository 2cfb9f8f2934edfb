//! The files of vectors: this crate's format and those of other tools.

mod capping;
mod export;
mod gguf;
mod import;
mod names;
mod pt;
mod safetensors;

use std::path::Path;

pub use capping::{Cap, CappingConfig, CappingExperiment};
pub use import::{ImportOptions, import, import_files};

use pv_data::files::write_whole;

use crate::Result;
pub use crate::provenance::{Format, Imported};

/// Writes a file atomically.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(write_whole(path, bytes)?)
}
