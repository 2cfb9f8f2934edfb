//! A Parquet value as JSON, for values that are kept.

use ::parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::super::RowProblem;

/// A row by the names of its columns, including nulls.
///
/// Inside structs nulls are removed: they only mean that other rows have the field. A null content is kept.
///
/// # Errors
/// The column and the reason.
pub(super) fn row(row: &Row) -> Result<Map<String, Value>, RowProblem> {
    entries(row, |_| true)
}

fn entries(row: &Row, keeps_null: impl Fn(&str) -> bool) -> Result<Map<String, Value>, RowProblem> {
    let mut entries = Map::new();
    for (name, field) in row.get_column_iter() {
        let value = json(field).map_err(|problem| problem.in_key(name))?;
        if (!value.is_null() || keeps_null(name)) && entries.insert(name.clone(), value).is_some() {
            return Err(RowProblem::Duplicate { key: name.clone() });
        }
    }
    Ok(entries)
}

fn json(field: &Field) -> Result<Value, RowProblem> {
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
            Err(error) => return Err(RowProblem::NotUtf8 { error }),
        },
        Field::Group(row) => entries(row, |name| ["content", "value"].contains(&name))?.into(),
        Field::ListInternal(list) => list.elements().iter().map(json).collect::<Result<Vec<_>, _>>()?.into(),
        Field::MapInternal(map) => {
            let mut entries = Map::new();
            for (key, value) in map.entries() {
                let name = match json(key)? {
                    Value::String(name) => name,
                    other => other.to_string(),
                };
                let value = json(value)?;
                if !value.is_null() && entries.insert(name.clone(), value).is_some() {
                    return Err(RowProblem::Duplicate { key: name.clone() });
                }
            }
            entries.into()
        }
        other => other.to_string().into(),
    })
}

/// A number. A number that JSON cannot represent becomes a text (`NaN`, `inf`), which is more informative than null.
fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}
