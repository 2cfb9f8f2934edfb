//! The container against the package gguf.

use pv_data::gguf::{Gguf, TensorType, Value, ValueType};
use serde_json::{Value as Json, json};

use super::{own_file, script, text};

fn to_json(value: Value<'_>) -> Json {
    match value {
        Value::F32(number) => json!(f64::from(number)),
        Value::F64(number) => json!(number),
        Value::Bool(flag) => json!(flag),
        Value::String(text) => json!(text),
        // The package makes one list of arrays in arrays.
        Value::Array(array) if array.kind() == ValueType::Array => {
            array.values().flat_map(|inner| to_json(inner).as_array().cloned().unwrap_or_default()).collect()
        }
        Value::Array(array) => array.values().map(to_json).collect(),
        Value::U64(number) => json!(number),
        integer => json!(i64::try_from(integer.integer().expect("an integer")).expect("of 64 bits")),
    }
}

#[test]
fn metadata_and_tensors_are_those_of_the_package() {
    let place = tempfile::tempdir().expect("a folder");
    let Some(names) = script(&["write", text(place.path())], "") else { return };
    let names: Vec<String> = serde_json::from_value(names).expect("names");
    assert_eq!(names.len(), 5, "{names:?}");
    let mut paths: Vec<_> = names.iter().map(|name| place.path().join(name)).collect();
    paths.push(own_file());
    let arguments: Vec<&str> = ["describe"].into_iter().chain(paths.iter().map(|path| text(path))).collect();
    let found = script(&arguments, "").expect("PV_PYTHON is set");
    let mut tensors = 0;
    for path in &paths {
        let bytes = std::fs::read(path).expect("a file");
        let file = Gguf::parse(&bytes).expect("the package's file");
        let theirs = &found["files"][text(path)];
        let ours: Json = file
            .metadata()
            .map(|(key, value)| (key.to_owned(), to_json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        assert!(ours == theirs["metadata"], "{}: {ours:.1000}", path.display());
        let ours: Json = file
            .tensors()
            .iter()
            .map(|tensor| {
                let hash = pv_data::files::sha256(tensor.bytes);
                (tensor.name.to_owned(), json!([tensor.kind.name(), tensor.shape, tensor.range.start, hash]))
            })
            .collect::<serde_json::Map<_, _>>()
            .into();
        assert_eq!(ours, theirs["tensors"], "{}", path.display());
        tensors += file.tensors().len();
        let split = file.split().expect("consistent");
        assert_eq!(split.is_some(), path.to_string_lossy().contains("-of-"));
        if let Some(split) = split {
            assert_eq!((split.count, split.tensors), (4, Some(8)));
            assert_eq!(split.paths(path).expect("a part's name"), paths[..4]);
        }
    }
    assert_eq!(tensors, 272 + 2 * 8);
    // Blocks of the types; Q8_1 exists in memory only, and the package counts its scales in f32.
    for kind in TensorType::all().iter().filter(|kind| kind.name() != "Q8_1") {
        let block = kind.block_elements();
        assert_eq!(found["kinds"][kind.name()], json!([kind.number(), block, kind.bytes(block)]), "{kind}");
    }
}
