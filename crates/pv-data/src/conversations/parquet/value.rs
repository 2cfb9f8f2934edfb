//! A Parquet value as JSON, for whatever is read.

use ::parquet::record::{Field, Row};
use serde_json::{Map, Value};

/// A row by its columns' names, nulls among them.
///
/// Inside structs nulls are left out: they stand for what other rows have. That a content is null says something.
///
/// # Errors
/// The column and what is wrong with it.
pub(super) fn row(row: &Row) -> Result<Map<String, Value>, String> {
    entries(row, |_| true)
}

fn entries(row: &Row, keeps_null: impl Fn(&str) -> bool) -> Result<Map<String, Value>, String> {
    let mut entries = Map::new();
    for (name, field) in row.get_column_iter() {
        let value = json(field).map_err(|reason| format!("`{name}`: {reason}"))?;
        if (!value.is_null() || keeps_null(name)) && entries.insert(name.clone(), value).is_some() {
            return Err(format!("there are two `{name}`"));
        }
    }
    Ok(entries)
}

fn json(field: &Field) -> Result<Value, String> {
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
                    return Err(format!("there are two `{name}`"));
                }
            }
            entries.into()
        }
        other => other.to_string().into(),
    })
}

/// A number. One that JSON cannot write is a text (`NaN`, `inf`), which says more than a null.
fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}
