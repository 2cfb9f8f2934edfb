//! Files, read and written whole.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{MonitorError, Result};

/// Writes a file: into a temporary file first, which then takes the name, so that no half-written file is ever seen.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |source| MonitorError::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let failed = |error| MonitorError::Write { path: path.to_owned(), source: std::io::Error::other(error) };
    let mut bytes = serde_json::to_vec_pretty(value).map_err(failed)?;
    bytes.push(b'\n');
    write(path, &bytes)
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|source| MonitorError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|error| bad(path, what, error))
}

pub(super) fn bad(path: &Path, what: &'static str, reason: impl ToString) -> MonitorError {
    MonitorError::BadFile { path: path.to_owned(), what, reason: reason.to_string() }
}
