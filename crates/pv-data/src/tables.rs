//! Results as JSON and CSV text.

use serde::Serialize;

/// A table whose rows have different lengths.
#[derive(Debug, thiserror::Error)]
#[error("the rows of a table differ in length")]
pub struct TableError(#[from] csv::Error);

/// A result as indented JSON with a final line feed. For values whose serialisation cannot fail: numbers, strings,
/// lists, and maps with string keys.
pub fn pretty_json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// A number as a field of a table; an unknown number is an empty field.
pub fn number_field(number: Option<f64>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

/// A CSV table that is built field by field. Its first row is the header.
#[derive(Debug)]
pub struct CsvTable {
    writer: csv::Writer<Vec<u8>>,
    row: Vec<String>,
    failure: Option<csv::Error>,
}

impl Default for CsvTable {
    fn default() -> Self {
        Self { writer: csv::Writer::from_writer(Vec::new()), row: Vec::new(), failure: None }
    }
}

impl CsvTable {
    /// Adds fields to the current row.
    pub fn fields<T: ToString>(&mut self, fields: impl IntoIterator<Item = T>) -> &mut Self {
        self.row.extend(fields.into_iter().map(|field| field.to_string()));
        self
    }

    /// Adds numbers to the current row, in the format of [`number_field`].
    pub fn numbers(&mut self, numbers: impl IntoIterator<Item = Option<f64>>) -> &mut Self {
        self.fields(numbers.into_iter().map(number_field))
    }

    /// Ends the row.
    pub fn end(&mut self) {
        let written = self.writer.write_record(&self.row);
        self.failure = self.failure.take().or(written.err());
        self.row.clear();
    }

    /// The finished table.
    ///
    /// # Errors
    /// Rows of different lengths.
    pub fn finish(self) -> Result<String, TableError> {
        if let Some(error) = self.failure {
            return Err(error.into());
        }
        let written = self.writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
        Ok(String::from_utf8_lossy(&written).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_they_went_in() {
        let mut table = CsvTable::default();
        table.fields(["a, b", "say \"c\"", "d"]).end();
        table.numbers([Some(0.1), None]).fields([3]).end();
        let text = table.finish().unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap(), vec!["a, b", "say \"c\"", "d"]);
        let rows: Vec<_> = reader.records().map(|row| row.unwrap()).collect();
        assert_eq!(rows, [vec!["0.1", "", "3"]]);
    }

    #[test]
    fn rows_of_different_lengths_are_refused() {
        let mut table = CsvTable::default();
        table.fields(["a", "b"]).end();
        table.fields([1]).end();
        table.fields([1, 2]).end();
        assert!(table.finish().unwrap_err().to_string().contains("differ in length"));
    }
}
