//! Control vectors in GGUF: EasySteer's, quantised ones, and rows that are not directions of the residual stream.

use std::collections::BTreeMap;

use pv_data::error::with_causes;
use pv_hooks::{Layer, LayerSet};
use pv_model::DecoderConfig;
use pv_vectors::files::{ImportOptions, import};
use pv_vectors::vector::Pooling;
use pv_vectors::{Error, PersonaVector};
use serde_json::Value;

use super::file;

fn guessed(name: &str) -> Result<PersonaVector, Error> {
    import(file(name), &ImportOptions::default())
}

fn refused(name: &str, options: &ImportOptions) -> String {
    with_causes(&import(file(name), options).expect_err(name))
}

fn remarks(vector: &PersonaVector) -> String {
    vector.provenance().imported.as_ref().expect("it was imported").remarks.join("\n")
}

/// The rows by layer, and the gguf package's rows by block.
fn compare(name: &str, vector: &PersonaVector) {
    let expected: Value = serde_json::from_slice(&std::fs::read(file("expected.json")).expect("a file")).expect("JSON");
    let rows: BTreeMap<usize, Vec<f32>> = expected[name]
        .as_object()
        .expect("rows")
        .iter()
        .map(|(tensor, values)| {
            let block: usize = tensor.strip_prefix("direction.").expect("a direction").parse().expect("a block");
            let values =
                values.as_array().expect("numbers").iter().map(|value| value.as_f64().expect("a number") as f32);
            (block + 1, values.collect())
        })
        .collect();
    let table = vector.table(Pooling::ResponseMean).expect("a table");
    let held: BTreeMap<usize, Vec<f32>> = (0..table.layers())
        .filter_map(|layer| Some((layer, table.get(Layer::hidden_state(layer))?.to_vec())))
        .collect();
    assert_eq!(held, rows, "{name}");
}

/// The reference file: `direction.{b}` is the residual after block `b`, from block 0 on.
#[test]
fn easysteers_first_direction_is_that_of_the_first_block() {
    let vector = guessed("easysteer.gguf").expect("EasySteer's file");
    assert_eq!(vector.shape(), (9, 128));
    // First numbers and norms as read by the gguf package.
    for (layer, first, norm) in [
        (1, 0.799_209_058_284_759_5, 10.382_711_467_752_87),
        (2, 0.939_544_022_083_282_5, 11.289_842_029_621_301),
        (8, 0.055_136_170_238_256_454, 13.329_222_975_510_238),
    ] {
        let direction = vector.direction(Layer::hidden_state(layer)).expect("a row");
        assert_eq!(f64::from(direction.values[0]), first, "layer {layer}");
        assert!((direction.norm() - norm).abs() < 1e-9, "layer {layer}: {}", direction.norm());
    }
    assert!(matches!(vector.direction(Layer::EMBEDDINGS), Err(Error::AbsentLayer { .. })));
    assert_eq!(vector.provenance().model, "qwen2");
    let said = remarks(&vector);
    assert!(said.contains("DiffMean") && said.contains("8 layers") && said.contains("mapping"), "{said}");
    // Exactly eight blocks.
    let model = |model_type: &str, layers| DecoderConfig {
        model_type: model_type.into(),
        layers,
        d_model: 128,
        ..pv_tests::decoder_config()
    };
    assert!(vector.check_model(&model("qwen2", 8)).is_ok());
    assert!(vector.check_model(&model("qwen2", 7)).is_err());
    // The file names its model's architecture.
    let error = vector.check_model(&model("llama", 8)).expect_err("another architecture");
    let said = error.to_string();
    assert!(said.contains("model_hint") && said.contains("qwen2") && said.contains("llama"), "{said}");
}

#[test]
fn files_of_easysteer_and_others_are_read() {
    for name in [
        "easysteer_tagged.gguf",
        "easysteer_sparse.gguf",
        "easysteer_legacy.gguf",
        "f16.gguf",
        "bf16.gguf",
        "q8_0.gguf",
        "counts_more.gguf",
        "zero_row.gguf",
    ] {
        let vector = guessed(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        compare(name, &vector);
        // And saved in our own format with its gaps.
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("vector.safetensors");
        vector.save(&path).expect("a file");
        assert_eq!(PersonaVector::load(&path).expect("our own file"), vector, "{name}");
    }
    assert!(remarks(&guessed("easysteer_tagged.gguf").expect("a vector")).contains("normalize"));
    assert!(remarks(&guessed("easysteer_sparse.gguf").expect("a vector")).contains("SAE"));
    assert!(remarks(&guessed("counts_more.gguf").expect("a vector")).contains("counts 27 layers, but contains 3"));
}

#[test]
fn a_direction_of_zeros_is_named_and_steers_nothing() {
    let vector = guessed("zero_row.gguf").expect("a vector");
    assert!(remarks(&vector).contains("direction.2"), "{}", remarks(&vector));
    assert!(matches!(vector.direction(Layer::hidden_state(3)), Err(Error::Degenerate { .. })));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.gguf");
    vector.export_control_vector(&path, "qwen2", Pooling::ResponseMean, &LayerSet::All).expect("the other rows");
    let again = import(&path, &ImportOptions::default()).expect("our own file");
    assert!(again.direction(Layer::hidden_state(2)).is_ok() && again.direction(Layer::hidden_state(4)).is_ok());
    assert!(matches!(again.direction(Layer::hidden_state(3)), Err(Error::AbsentLayer { .. })));
}

#[test]
fn rows_that_are_not_residuals_are_refused() {
    let residual = ImportOptions { residual_stream: true, ..ImportOptions::default() };
    for (name, part) in [("heads.gguf", "attention_heads"), ("router.gguf", "router_logits")] {
        for options in [&ImportOptions::default(), &residual] {
            let said = refused(name, options);
            assert!(said.contains(part) && said.contains("residual"), "{name}: {said}");
        }
    }
    // Their meaning is unknown, unless the caller states it.
    for name in ["unknown_component.gguf", "legacy_iti.gguf"] {
        let said = refused(name, &ImportOptions::default());
        assert!(said.contains("residual_stream"), "{name}: {said}");
        assert!(import(file(name), &residual).is_ok(), "{name}");
    }
    for (name, part) in [
        ("later_version.gguf", "version 2"),
        ("broken_notes.gguf", "controlvector.easysteer"),
        ("zero_without_method.gguf", "direction.0"),
        ("all_zero.gguf", "zero"),
        ("q4_0.gguf", "Q4_0"),
        ("nan.gguf", "direction.2 contains values that are not finite"),
    ] {
        let said = refused(name, &residual);
        assert!(said.contains(part), "{name}: {said}");
    }
    // llama.cpp's own generator is one block late; EasySteer is not.
    let late = ImportOptions { one_block_late: true, ..ImportOptions::default() };
    assert!(refused("easysteer.gguf", &late).contains("EasySteer"));
    assert!(refused("easysteer_legacy.gguf", &late).contains("EasySteer"));
    assert!(import(file("f16.gguf"), &late).is_ok());
}
