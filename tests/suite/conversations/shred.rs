//! JSON rows as a Parquet file, with Dremel's repetition and definition levels.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{ConvertedType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::Type;
use serde_json::Value;

#[derive(Default)]
struct Leaf {
    defined: Vec<i16>,
    repeated: Vec<i16>,
    values: Vec<Value>,
}

fn leaves(field: &Type) -> usize {
    if field.is_primitive() { 1 } else { field.get_fields().iter().map(|field| leaves(field)).sum() }
}

/// The place of a value: its first leaf, its levels, and its depth in lists.
#[derive(Clone, Copy)]
struct At {
    leaf: usize,
    defined: i16,
    repeated: i16,
    depth: i16,
}

fn put(field: &Type, value: Option<&Value>, at: At, out: &mut [Leaf]) {
    let value = value.filter(|value| !value.is_null());
    let nothing = |out: &mut [Leaf]| {
        for leaf in &mut out[at.leaf..at.leaf + leaves(field)] {
            leaf.defined.push(at.defined);
            leaf.repeated.push(at.repeated);
        }
    };
    match (field.get_basic_info().repetition(), value) {
        (Repetition::REQUIRED, Some(value)) => present(field, value, at, out),
        (Repetition::OPTIONAL, Some(value)) => present(field, value, At { defined: at.defined + 1, ..at }, out),
        (Repetition::REPEATED, Some(Value::Array(items))) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                let repeated = if index == 0 { at.repeated } else { at.depth + 1 };
                let at = At { defined: at.defined + 1, repeated, depth: at.depth + 1, ..at };
                present(field, item, at, out);
            }
        }
        (Repetition::REQUIRED, None) => panic!("{} is required", field.name()),
        _ => nothing(out),
    }
}

fn present(field: &Type, value: &Value, at: At, out: &mut [Leaf]) {
    if field.is_primitive() {
        let leaf = &mut out[at.leaf];
        leaf.defined.push(at.defined);
        leaf.repeated.push(at.repeated);
        leaf.values.push(value.clone());
        return;
    }
    let mut next = at.leaf;
    for inner in field.get_fields() {
        let list = field.get_basic_info().converted_type() == ConvertedType::LIST;
        let element = inner.get_basic_info().repetition() == Repetition::REPEATED && inner.name() == "list";
        let at = At { leaf: next, ..at };
        match (list, field.name()) {
            (true, _) if element => {
                // The repeated group has one field, the element.
                let wrapped = value.as_array().map(|items| {
                    let name = inner.get_fields()[0].name();
                    items.iter().map(|item| serde_json::json!({ name: item })).collect::<Value>()
                });
                put(inner, wrapped.as_ref(), at, out);
            }
            _ => put(inner, value.get(inner.name()), at, out),
        }
        next += leaves(inner);
    }
}

/// Writes rows of a schema in groups of two.
pub(super) fn write(path: &Path, schema: &str, rows: &[Value]) {
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let file = File::create(path).expect("a writable folder");
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, Arc::clone(&schema), properties).expect("a writer");
    for rows in rows.chunks(2) {
        let mut out: Vec<Leaf> = (0..leaves(&schema)).map(|_| Leaf::default()).collect();
        for row in rows {
            present(&schema, row, At { leaf: 0, defined: 0, repeated: 0, depth: 0 }, &mut out);
        }
        let mut group = writer.next_row_group().expect("a row group");
        let mut index = 0;
        while let Some(mut column) = group.next_column().expect("a file") {
            let Leaf { defined, repeated, values } = &out[index];
            let (defined, repeated) = (Some(defined.as_slice()), Some(repeated.as_slice()));
            let physical = writer_type(&schema, index);
            match physical {
                Physical::BYTE_ARRAY => {
                    let text = |value: &Value| ByteArray::from(value.as_str().expect("text").as_bytes().to_vec());
                    let values: Vec<ByteArray> = values.iter().map(text).collect();
                    column.typed::<ByteArrayType>().write_batch(&values, defined, repeated)
                }
                Physical::DOUBLE => {
                    // JSON has no NaN.
                    let values: Vec<f64> = values.iter().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect();
                    column.typed::<DoubleType>().write_batch(&values, defined, repeated)
                }
                Physical::BOOLEAN => {
                    let values: Vec<bool> =
                        values.iter().map(|value| value.as_bool().expect("a truth value")).collect();
                    column.typed::<BoolType>().write_batch(&values, defined, repeated)
                }
                Physical::INT64 => {
                    let values: Vec<i64> = values.iter().map(|value| value.as_i64().expect("a number")).collect();
                    column.typed::<Int64Type>().write_batch(&values, defined, repeated)
                }
                other => panic!("{other}"),
            }
            .expect("values");
            column.close().expect("a column");
            index += 1;
        }
        group.close().expect("a row group");
    }
    writer.close().expect("a file");
}

/// The type of a leaf.
fn writer_type(field: &Type, mut index: usize) -> Physical {
    if field.is_primitive() {
        return field.get_physical_type();
    }
    for inner in field.get_fields() {
        let count = leaves(inner);
        if index < count {
            return writer_type(inner, index);
        }
        index -= count;
    }
    panic!("no such leaf")
}
