//! The files that vectors are kept in: ours, and those of other tools.

mod capping;
mod export;
mod format;
mod gguf;
mod import;
mod names;
mod pt;
mod safetensors;

use std::path::Path;

pub use capping::{Cap, CappingConfig, CappingExperiment};
pub use format::{Format, Imported};
pub use import::{ImportOptions, import, import_files};

use pv_data::write_whole;

use crate::Result;

/// Writes a file, whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(write_whole(path, bytes)?)
}
