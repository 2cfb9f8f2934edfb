//! Results as text.

use serde::Serialize;

use super::estimate::Estimate;
use crate::{Error, Result};

/// A result as JSON: numbers and strings, which cannot fail.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
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

    /// The columns of an estimate.
    pub(crate) fn estimate_header(&mut self, name: &str) -> &mut Self {
        self.fields(["", "_low", "_high", "_questions", "_scored", "_abstained"].map(|part| format!("{name}{part}")))
    }

    pub(crate) fn estimate(&mut self, estimate: &Estimate) -> &mut Self {
        let Estimate { mean, low, high, questions, scored, abstained } = *estimate;
        // What is not known is an empty field, not a number.
        self.fields([mean, low, high].map(|value| value.map_or_else(String::new, |value| value.to_string())));
        self.fields([questions, scored, abstained])
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

fn failed(error: csv::Error) -> Error {
    Error::BadSetting { reason: format!("the table cannot be written: {error}") }
}
