//! Assembles rows from the requested columns, whatever their nesting.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::Row;
use ::parquet::record::reader::{ReaderIter, TreeBuilder};
use ::parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};

use super::super::error::Fault;
use super::super::format::Format;
use super::super::rows::{Found, RowOrProblem, Rows, Source};
use super::super::{Result, row};
use super::{catch_panic, damaged, fault, open, rows_at_once, value};

/// The rows of some columns.
pub(in crate::conversations) struct TableRows {
    reader: SerializedFileReader<File>,
    /// The columns that are read.
    columns: SchemaDescPtr,
    next_group: usize,
    rows: Option<ReaderIter>,
    row: u64,
}

impl TableRows {
    /// The rows of the columns that `keep` selects, and the names of all columns of the file.
    pub(in crate::conversations) fn open(path: &Path, keep: impl Fn(&str) -> bool) -> Result<(Self, Vec<String>)> {
        let reader = open(path)?;
        let schema = reader.metadata().file_metadata().schema();
        let names = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
        Ok((Self::new(path, reader, keep)?, names))
    }

    pub(super) fn new(path: &Path, reader: SerializedFileReader<File>, keep: impl Fn(&str) -> bool) -> Result<Self> {
        let root = reader.metadata().file_metadata().schema();
        let fields = root.get_fields().iter().filter(|field| keep(field.name())).cloned();
        let columns = Type::group_type_builder(root.name()).with_fields(fields.collect()).build();
        let columns = columns.map_err(|error| damaged(path, 0, error))?;
        let columns = Arc::new(SchemaDescriptor::new(Arc::new(columns)));
        Ok(Self { reader, columns, next_group: 0, rows: None, row: 0 })
    }

    fn read(&mut self) -> std::result::Result<Option<Row>, ParquetError> {
        loop {
            if let Some(row) = self.rows.as_mut().and_then(Iterator::next) {
                return row.map(Some);
            }
            if self.next_group == self.reader.metadata().num_row_groups() {
                return Ok(None);
            }
            let group = self.reader.get_row_group(self.next_group)?;
            self.next_group += 1;
            let metadata = group.metadata();
            let rows = usize::try_from(metadata.num_rows()).unwrap_or_default();
            // The number of values read at a time; a row has at least one in every column.
            let at_once = metadata.columns().iter().map(|chunk| rows_at_once(rows, chunk)).min().unwrap_or(1);
            self.rows = match rows {
                0 => None,
                _ => Some(TreeBuilder::new().with_batch_size(at_once).as_iter(self.columns.clone(), &*group)?),
            };
        }
    }
}

impl Source for TableRows {
    fn next(&mut self) -> std::result::Result<Option<(u64, Found)>, Fault> {
        let Some(row) = catch_panic(|| self.read()).map_err(fault)? else { return Ok(None) };
        self.row += 1;
        Ok(Some((self.row, value::row(&row))))
    }
}

/// The conversations of a file.
pub(super) struct NestedRows {
    pub(super) rows: TableRows,
    pub(super) forced: Option<Format>,
}

impl Rows for NestedRows {
    fn next(&mut self) -> std::result::Result<Option<(u64, RowOrProblem)>, Fault> {
        let row = self.rows.next()?;
        Ok(row.map(|(number, row)| (number, row.and_then(|row| row::conversation(row, self.forced)))))
    }
}
