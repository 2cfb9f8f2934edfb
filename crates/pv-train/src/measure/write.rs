//! Measurements as text.

use std::io::Write;
use std::path::Path;

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::error::{MeasureError, Result};

/// Writes a file as a whole.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let failed = |source| MeasureError::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(content.as_ref()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Reads what [`pretty_json`](pv_vectors::pretty_json) wrote.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|source| MeasureError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| MeasureError::Json { path: path.to_owned(), source })
}

/// SHA-256 in hex.
pub(crate) fn sha256(bytes: impl IntoIterator<Item = u8>) -> String {
    hex::encode(Sha256::digest(bytes.into_iter().collect::<Vec<u8>>()))
}
