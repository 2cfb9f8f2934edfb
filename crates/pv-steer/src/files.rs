//! Files, written whole.

use std::path::Path;

use pv_model::write_whole;

use crate::{Error, Result};

/// Writes a file, whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, bytes).map_err(|source| Error::Write { path: path.to_owned(), source })
}
