//! Measurements as text.

use std::io::Write;
use std::path::Path;

use pv_steer::Estimate;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::change::Change;
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

/// Reads what [`json`] wrote.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|source| MeasureError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| MeasureError::Json { path: path.to_owned(), source })
}

/// A result as JSON: numbers and strings, which cannot fail.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// SHA-256 in hex.
pub(crate) fn sha256(bytes: impl IntoIterator<Item = u8>) -> String {
    hex(&Sha256::digest(bytes.into_iter().collect::<Vec<u8>>()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A table that is built up field by field.
pub(crate) struct Csv {
    writer: csv::Writer<Vec<u8>>,
    row: Vec<String>,
}

impl Csv {
    /// A table whose header is the next row.
    pub(crate) fn new() -> Self {
        Self { writer: csv::Writer::from_writer(Vec::new()), row: Vec::new() }
    }

    pub(crate) fn fields<T: ToString>(&mut self, fields: impl IntoIterator<Item = T>) -> &mut Self {
        self.row.extend(fields.into_iter().map(|field| field.to_string()));
        self
    }

    /// Numbers, of which those that are not known are empty fields.
    pub(crate) fn numbers(&mut self, numbers: impl IntoIterator<Item = Option<f64>>) -> &mut Self {
        self.fields(numbers.into_iter().map(|number| number.map_or_else(String::new, |number| number.to_string())))
    }

    pub(crate) fn estimate_header(&mut self, name: &str) -> &mut Self {
        self.fields(["", "_low", "_high", "_questions", "_scored", "_abstained"].map(|part| format!("{name}{part}")))
    }

    pub(crate) fn estimate(&mut self, estimate: &Estimate) -> &mut Self {
        let Estimate { mean, low, high, questions, scored, abstained } = *estimate;
        self.numbers([mean, low, high]).fields([questions, scored, abstained])
    }

    pub(crate) fn change_header(&mut self, name: &str) -> &mut Self {
        self.fields(["", "_low", "_high", "_pairs"].map(|part| format!("{name}{part}")))
    }

    pub(crate) fn change(&mut self, change: Option<&Change>) -> &mut Self {
        let interval = change.and_then(|change| change.interval);
        self.numbers([change.map(|c| c.mean), interval.map(|i| i.low), interval.map(|i| i.high)]);
        self.fields([change.map_or(0, |change| change.pairs)])
    }

    /// Ends the row.
    pub(crate) fn end(&mut self) -> Result<()> {
        let row = std::mem::take(&mut self.row);
        self.writer.write_record(row).map_err(failed)
    }

    pub(crate) fn finish(self) -> Result<String> {
        let bytes = self.writer.into_inner().map_err(|error| failed(error.into_error().into()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn failed(error: csv::Error) -> MeasureError {
    MeasureError::bad(format!("the table cannot be written: {error}"))
}
