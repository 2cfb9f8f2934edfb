//! Python packages read our files, and we read theirs, if `PV_PYTHON` names a Python with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use pv_hooks::{Layer, LayerSet};
use pv_tests::root;
use pv_vectors::files::{ImportOptions, import};
use pv_vectors::vector::Pooling;
use serde_json::Value;

use super::{floats, guessed, held, json, layer, numbered, rows};

/// Python with torch and gguf, if `PV_PYTHON` names one.
fn python() -> Option<PathBuf> {
    std::env::var_os("PV_PYTHON").map(PathBuf::from)
}

/// The output of our script; a named Python that does not work is an error.
fn script(python: &Path, arguments: &[&str]) -> String {
    let output = Command::new(python)
        .arg(root().join("tests/golden/vector_files.py"))
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("PV_PYTHON={}: {error}", python.display()));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "PV_PYTHON={} {arguments:?}: {errors}", python.display());
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_gguf_package_reads_our_files() {
    let Some(python) = python() else {
        println!("PV_PYTHON names no Python with gguf: NOT CHECKED");
        return;
    };
    let out = tempfile::tempdir().expect("a folder");
    for (name, layers) in [("evil_response_avg_diff.pt", LayerSet::All), ("repeng.gguf", LayerSet::from(layer(3)))] {
        let vector = guessed(name).expect(name);
        let path = out.path().join("vector.gguf");
        vector.export_control_vector(&path, "qwen2", Pooling::ResponseMean, &layers).expect("a writable folder");
        let shown: Value =
            serde_json::from_str(&script(&python, &["gguf", path.to_str().expect("UTF-8")])).expect("JSON");
        let directions = shown["directions"].as_object().expect("directions");
        let read: BTreeMap<usize, Vec<f32>> = directions
            .iter()
            .map(|(name, values)| {
                let k: usize = name.strip_prefix("direction.").and_then(|k| k.parse().ok()).expect("a direction");
                (Layer::after_block(k).index(), floats(values))
            })
            .collect();
        let all = held(&vector, Pooling::ResponseMean).into_iter();
        let written: BTreeMap<_, _> = all
            .filter(|(index, _)| {
                layers.contains(layer(*index)) && vector.direction(layer(*index)).is_ok() && *index > 1
            })
            .collect();
        assert!(!written.is_empty());
        assert_eq!(read, written, "{name}");
        assert_eq!(shown["architecture"], "controlvector");
        assert_eq!(shown["model_hint"], "qwen2");
        assert_eq!(shown["layer_count"], written.len());
        assert_eq!(shown["types"], serde_json::json!(["F32"]));
    }
}

#[test]
fn tensors_of_all_types_and_strides_are_read_like_in_torch() {
    let Some(python) = python() else {
        println!("PV_PYTHON names no Python with torch: NOT CHECKED");
        return;
    };
    for seed in ["1", "2"] {
        let out = tempfile::tempdir().expect("a folder");
        script(&python, &["variants", out.path().to_str().expect("UTF-8"), seed]);
        let expected = json(&out.path().join("expected.json"));
        let names: Vec<&String> = expected.as_object().expect("tensors").keys().collect();
        assert!(names.len() >= 50);
        for name in names {
            let vector = import(out.path().join(name), &ImportOptions::default()).expect(name);
            assert_eq!(held(&vector, Pooling::ResponseMean), numbered(0, rows(&expected, name)), "{name}, seed {seed}");
        }
    }
}
