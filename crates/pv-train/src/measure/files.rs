//! Files of measurements.

use std::path::Path;

use pv_data::FileError;
use serde::de::DeserializeOwned;

use super::error::{MeasureError, Result};

/// Reads a file that [`pretty_json`](pv_data::tables::pretty_json) wrote.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| MeasureError::Json { path: path.to_owned(), source })
}
