//! Values in JSON files.

use std::path::Path;

use pv_data::FileError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::FileFault;
use crate::files::write;
use crate::{Error, Result};

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let failed = |error| FileError::Write { path: path.to_owned(), source: std::io::Error::other(error) };
    let mut bytes = serde_json::to_vec_pretty(value).map_err(failed)?;
    bytes.push(b'\n');
    write(path, &bytes)
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<T> {
    let bytes = pv_data::files::read_file(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|error| bad(path, what, error))
}

pub(super) fn bad(path: &Path, what: &'static str, fault: impl Into<FileFault>) -> Error {
    Error::BadFile { path: path.to_owned(), what, source: fault.into() }
}
