//! Rows put together from all of the columns that matter, whatever their nesting.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::reader::{ReaderIter, TreeBuilder};
use ::parquet::record::{Field, Row};
use ::parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};
use serde_json::{Map, Value};

use super::super::Result;
use super::super::format::Format;
use super::super::reader::{RowOrReason, Rows};
use super::super::row;
use super::{damaged, rows_at_once, survive};

/// The rows of a file.
pub(super) struct NestedRows {
    reader: SerializedFileReader<File>,
    /// The columns that are read.
    columns: SchemaDescPtr,
    forced: Option<Format>,
    next_group: usize,
    rows: Option<ReaderIter>,
    row: u64,
}

impl NestedRows {
    pub(super) fn new(
        path: &Path,
        reader: SerializedFileReader<File>,
        names: &[String],
        forced: Option<Format>,
    ) -> Result<Self> {
        let root = reader.metadata().file_metadata().schema();
        let fields = root.get_fields().iter().filter(|field| names.iter().any(|name| name == field.name())).cloned();
        let columns = Type::group_type_builder(root.name()).with_fields(fields.collect()).build();
        let columns = columns.map_err(|error| damaged(path, 0, &error))?;
        let columns = Arc::new(SchemaDescriptor::new(Arc::new(columns)));
        Ok(Self { reader, columns, forced, next_group: 0, rows: None, row: 0 })
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
            // Values at a time, of which a row has at least one in every column.
            let at_once = metadata.columns().iter().map(|chunk| rows_at_once(rows, chunk)).min().unwrap_or(1);
            self.rows = match rows {
                0 => None,
                _ => Some(TreeBuilder::new().with_batch_size(at_once).as_iter(self.columns.clone(), &*group)?),
            };
        }
    }
}

impl Rows for NestedRows {
    fn next(&mut self) -> std::result::Result<Option<(u64, RowOrReason)>, String> {
        let Some(row) = survive(|| self.read()).map_err(|error| error.to_string())? else { return Ok(None) };
        self.row += 1;
        Ok(Some((self.row, object(&row).and_then(|row| row::conversation(row, self.forced)))))
    }
}

/// A struct without its nulls, which stand for what other rows have. That a content is null says something.
fn object(row: &Row) -> std::result::Result<Map<String, Value>, String> {
    let mut entries = Map::new();
    for (name, field) in row.get_column_iter() {
        let value = json(field).map_err(|reason| format!("`{name}`: {reason}"))?;
        if !value.is_null() || ["content", "value"].contains(&name.as_str()) {
            entries.insert(name.clone(), value);
        }
    }
    Ok(entries)
}

fn json(field: &Field) -> std::result::Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float16(value) => number(f64::from(*value)),
        Field::Float(value) => number(f64::from(*value)),
        Field::Double(value) => number(*value),
        Field::Str(value) => value.as_str().into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(error) => return Err(format!("it is not UTF-8: {error}")),
        },
        Field::Group(row) => object(row)?.into(),
        Field::ListInternal(list) => {
            list.elements().iter().map(json).collect::<std::result::Result<Vec<_>, _>>()?.into()
        }
        Field::MapInternal(map) => {
            let mut entries = Map::new();
            for (key, value) in map.entries() {
                let value = json(value)?;
                if !value.is_null() {
                    entries.insert(json(key)?.as_str().unwrap_or_default().to_owned(), value);
                }
            }
            entries.into()
        }
        other => other.to_string().into(),
    })
}

/// A number; what is none in JSON is told from a null, as text.
fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}
