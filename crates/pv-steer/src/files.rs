//! Atomic writing of files.

use std::path::Path;

use pv_data::files::write_whole;

use crate::Result;

/// Writes a file atomically.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(write_whole(path, bytes)?)
}
