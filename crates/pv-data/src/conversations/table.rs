//! Rows of any Parquet file.

use std::ops::ControlFlow;
use std::path::Path;

use ::parquet::file::reader::FileReader;
use ::parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::Result;
use super::parquet::{damaged, open, survive};

/// Reads a Parquet file row by row, each as a JSON object of its columns, and gives it to `take` with its number, from 1, until that
/// breaks off. Text, numbers, truth values, lists and structs are taken over; what JSON has no form for is `null`. Data sets of
/// conversations are read by [`ConversationReader`](crate::ConversationReader), which holds less in memory.
///
/// # Errors
/// [`FileError::Read`](crate::FileError::Read) and [`ConversationError::Damaged`](crate::ConversationError::Damaged).
pub fn read_table(
    path: impl AsRef<Path>,
    mut take: impl FnMut(u64, Map<String, Value>) -> ControlFlow<()>,
) -> Result<()> {
    let path = path.as_ref();
    let reader = open(path)?;
    let mut rows = survive(|| reader.get_row_iter(None)).map_err(|error| damaged(path, 0, &error))?;
    let mut number = 0;
    while let Some(row) = survive(|| rows.next().transpose()).map_err(|error| damaged(path, number, &error))? {
        number += 1;
        if take(number, object(&row)).is_break() {
            break;
        }
    }
    Ok(())
}

fn object(row: &Row) -> Map<String, Value> {
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float(value) => (*value).into(),
        Field::Double(value) => (*value).into(),
        Field::Str(value) => value.clone().into(),
        Field::Group(row) => object(row).into(),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        _ => Value::Null,
    }
}
