//! Files, written whole.

use std::path::Path;

use pv_data::write_whole;

use crate::Result;

/// Writes a file, whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(write_whole(path, bytes)?)
}
