//! Other tools' vectors, written by the Python packages (tests/golden/vector_files.py).

mod python;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pv_data::FileError;
use pv_data::error::with_causes;
use pv_hooks::{Layer, LayerSet};
use pv_model::DecoderConfig;
use pv_tests::root;
use pv_vectors::files::{CappingConfig, Format, ImportOptions, import, import_files};
use pv_vectors::vector::{Pooling, RowMark};
use pv_vectors::{Error, PersonaVector};
use serde_json::Value;

const BLOCKS: usize = 4;
const WIDTH: usize = 8;

fn folder() -> PathBuf {
    root().join("tests/golden/vector_files")
}

fn file(name: &str) -> PathBuf {
    folder().join(name)
}

fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn expected() -> Value {
    json(&folder().join("expected.json"))
}

fn floats(values: &Value) -> Vec<f32> {
    let values = values.as_array().expect("numbers");
    values.iter().map(|value| value.as_f64().expect("a number") as f32).collect()
}

/// The rows of a tensor in expected.json.
fn rows(expected: &Value, name: &str) -> Vec<Vec<f32>> {
    let values = floats(&expected[name]["values"]);
    let width = expected[name]["shape"].as_array().and_then(|shape| shape.last()?.as_u64()).expect("a shape");
    values.chunks(width as usize).map(<[f32]>::to_vec).collect()
}

fn layer(index: usize) -> Layer {
    Layer::hidden_state(index)
}

fn guessed(name: &str) -> Result<PersonaVector, Error> {
    import(file(name), &ImportOptions::default())
}

fn options(format: Format) -> ImportOptions {
    ImportOptions { format: Some(format), ..ImportOptions::default() }
}

/// The rows that a vector has, by layer.
fn held(vector: &PersonaVector, pooling: Pooling) -> BTreeMap<usize, Vec<f32>> {
    let table = vector.table(pooling).unwrap_or_else(|| panic!("no {}", pooling.name()));
    (0..table.layers()).filter_map(|index| Some((index, table.get(layer(index))?.to_vec()))).collect()
}

fn numbered(first: usize, rows: Vec<Vec<f32>>) -> BTreeMap<usize, Vec<f32>> {
    rows.into_iter().enumerate().map(|(r, row)| (first + r, row)).collect()
}

#[test]
fn the_papers_files_have_every_layer_and_their_last_row_does_not_steer() {
    let expected = expected();
    let names = ["evil_response_avg_diff.pt", "evil_prompt_avg_diff.pt", "evil_prompt_last_diff.pt"];
    let vector = import_files(&names.map(file), &ImportOptions::default()).expect("three poolings");
    for (name, pooling) in names.into_iter().zip(Pooling::ALL) {
        assert_eq!(held(&vector, pooling), numbered(0, rows(&expected, name)), "{name}");
    }
    let provenance = vector.provenance();
    assert_eq!(provenance.trait_name, "evil");
    assert_eq!((provenance.config_hash.as_ref(), provenance.kept_positive, provenance.seed), (None, None, None));
    let imported = provenance.imported.as_ref().expect("it was imported");
    assert_eq!((imported.format, imported.depth_known), (Format::PaperDiff, true));
    assert_eq!(imported.files, names);
    assert!(imported.remarks[0].contains("after the final norm"), "{:?}", imported.remarks);

    for pooling in Pooling::ALL {
        assert!(vector.direction_of(pooling, layer(BLOCKS - 1)).is_ok());
        let error = vector.direction_of(pooling, layer(BLOCKS)).expect_err("the last row");
        assert!(matches!(error, Error::AfterFinalNorm { .. }), "{error}");
        assert!(error.to_string().contains("taken after the final norm, but steering acts before it"), "{error}");
    }
    let one = guessed(names[2]).expect("one pooling");
    assert_eq!(one.table(Pooling::PromptLast), vector.table(Pooling::PromptLast));
    assert!(matches!(one.direction(layer(1)), Err(Error::NoSuchPooling { .. })));
}

#[test]
fn views_parameters_and_half_precision_equal_torch() {
    let expected = expected();
    for (name, pooling) in [
        ("strided_response_avg_diff.pt", Pooling::ResponseMean),
        ("parameter_prompt_last_diff.pt", Pooling::PromptLast),
    ] {
        let vector = guessed(name).expect(name);
        assert_eq!(held(&vector, pooling), numbered(0, rows(&expected, name)), "{name}");
    }
    for name in ["axis.pt", "assistant_axis.pt"] {
        let vector = guessed(name).expect(name);
        assert_eq!(held(&vector, Pooling::ResponseMean), numbered(1, rows(&expected, name)), "{name}");
        assert_eq!(vector.shape(), (BLOCKS + 1, WIDTH));
        let error = vector.direction(layer(0)).expect_err("no row for the embeddings");
        assert!(matches!(error, Error::AbsentLayer { .. }), "{error}");
        assert!(error.to_string().contains("has no row for layer 0"), "{error}");
    }
}

#[test]
fn one_position_of_a_refusal_direction_is_chosen() {
    let expected = expected();
    let all = rows(&expected, "mean_diffs.pt");
    let error = guessed("mean_diffs.pt").expect_err("no position");
    assert!(with_causes(&error).contains("3 positions"), "{error}");
    for (position, index) in [(0, 0), (2, 2), (-1, 2), (-3, 0)] {
        let options = ImportOptions { position: Some(position), ..ImportOptions::default() };
        let vector = import(file("mean_diffs.pt"), &options).expect("a position");
        let chosen = all[index * BLOCKS..][..BLOCKS].to_vec();
        assert_eq!(held(&vector, Pooling::PromptLast), numbered(0, chosen), "position {position}");
        assert_eq!(vector.shape().0, BLOCKS + 1, "inputs of {BLOCKS} blocks");
        assert!(matches!(vector.direction_of(Pooling::PromptLast, layer(BLOCKS)), Err(Error::AbsentLayer { .. })));
    }
    for position in [3, -4, i64::MIN, i64::MAX] {
        let options = ImportOptions { position: Some(position), ..ImportOptions::default() };
        assert!(import(file("mean_diffs.pt"), &options).is_err(), "accepted position {position}");
    }
}

#[test]
fn single_layers_become_one_vector_with_gaps() {
    let expected = expected();
    let names = ["vec_layer_2_Tiny-Chat.pt", "vec_layer_1.pt"];
    let vector = import_files(&names.map(file), &ImportOptions::default()).expect("two layers");
    let wanted = BTreeMap::from([(3, rows(&expected, names[0]).remove(0)), (2, rows(&expected, names[1]).remove(0))]);
    assert_eq!(held(&vector, Pooling::ResponseMean), wanted);
    assert!(matches!(vector.direction(layer(1)), Err(Error::AbsentLayer { .. })));
    assert!(matches!(vector.direction(layer(4)), Err(Error::NoSuchLayer { .. })));
    let at = ImportOptions { layer: Some(layer(4)), ..options(Format::CaaLayer) };
    let elsewhere = import(file("vec_layer_1.pt"), &at).expect("a layer that was given");
    assert_eq!(held(&elsewhere, Pooling::ResponseMean).keys().copied().collect::<Vec<_>>(), [4]);
    let twice = import_files(&[file(names[1]), file(names[1])], &ImportOptions::default());
    assert!(twice.is_err_and(|error| with_causes(&error).contains("second file of layer 2")));
}

#[test]
fn control_vectors_are_read_with_both_layer_conventions() {
    let expected = expected();
    for name in ["repeng.gguf", "generator.gguf"] {
        for late in [false, true] {
            let options = ImportOptions { one_block_late: late, ..ImportOptions::default() };
            let vector = import(file(name), &options).expect(name);
            let directions = expected[name].as_object().expect("directions").iter();
            let first = if late { 0 } else { 1 };
            let wanted =
                directions.map(|(k, values)| (k.parse::<usize>().expect("a number") + first, floats(values))).collect();
            assert_eq!(held(&vector, Pooling::ResponseMean), wanted, "{name}");
            assert_eq!(vector.provenance().model, "qwen2");
            let imported = vector.provenance().imported.as_ref().expect("it was imported");
            assert!(!imported.depth_known);
            assert_eq!(imported.remarks.len(), 1 + usize::from(late), "{:?}", imported.remarks);
        }
    }
}

#[test]
fn capping_configurations_have_directions_and_caps() {
    let expected = expected();
    let config = CappingConfig::load(file("capping_config.pt")).expect("a configuration");
    let all = rows(&expected, "capping_config.pt");
    assert_eq!(config.vectors.len(), BLOCKS);
    for (block, row) in all.iter().enumerate() {
        let direction = &config.vectors[&format!("layer_{block}/contrast")];
        assert_eq!((direction.layer, &direction.values), (Layer::after_block(block), row));
    }
    let caps = |id: &str| {
        let experiment = config.experiment(id).unwrap_or_else(|| panic!("no {id}"));
        experiment.caps.iter().map(|cap| (cap.vector.as_str(), cap.cap)).collect::<Vec<_>>()
    };
    assert_eq!(caps("layers_1:3-p0.25"), [("layer_1/contrast", Some(-1.25)), ("layer_2/contrast", Some(3.0))]);
    assert_eq!(caps("none"), [("layer_0/contrast", None)]);
    assert_eq!(config.experiments.len(), 2);
    assert_eq!(config.experiment("other"), None);
    let error = guessed("capping_config.pt").expect_err("not a vector");
    assert!(with_causes(&error).contains("CappingConfig::load"), "{error}");
    for name in ["axis.pt", "mean_diffs.pt", "repeng.gguf"] {
        assert!(CappingConfig::load(file(name)).is_err(), "{name} was taken for a configuration");
    }
}

#[test]
fn ambiguous_and_inconsistent_files_are_refused() {
    let error = guessed("unnamed.pt").expect_err("axis or paper");
    assert!(matches!(error, Error::AmbiguousFormat { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("paper_diff") && said.contains("assistant_axis"), "{said}");
    let axis = import(file("unnamed.pt"), &options(Format::AssistantAxis)).expect("an axis");
    assert_eq!(held(&axis, Pooling::ResponseMean), numbered(1, rows(&expected(), "unnamed.pt")));
    let error = import(file("unnamed.pt"), &options(Format::PaperDiff)).expect_err("no pooling");
    assert!(with_causes(&error).contains("pooling"), "{error}");

    let several = |names: &[&str], options: &ImportOptions| {
        let files: Vec<PathBuf> = names.iter().map(|name| file(name)).collect();
        with_causes(&import_files(&files, options).expect_err("files that do not belong together"))
    };
    let evil = "evil_response_avg_diff.pt";
    assert!(several(&[evil, "axis.pt"], &ImportOptions::default()).contains("assistant_axis"));
    assert!(several(&[evil, evil], &ImportOptions::default()).contains("second file"));
    assert!(several(&[evil, "parameter_prompt_last_diff.pt"], &ImportOptions::default()).contains("evil"));
    assert!(several(&["repeng.gguf", "generator.gguf"], &ImportOptions::default()).contains("in one file"));
    assert!(several(&[], &ImportOptions::default()).contains("no file"));
    for (name, format) in [
        ("repeng.gguf", Format::PaperDiff),
        ("axis.pt", Format::ControlVector),
        ("axis.pt", Format::PaperDiff),
        ("mean_diffs.pt", Format::AssistantAxis),
        ("mean_diffs.pt", Format::PersonaVector),
        ("vec_layer_1.pt", Format::MeanDiffs),
        (evil, Format::CaaLayer),
    ] {
        let options = ImportOptions { layer: Some(layer(1)), position: Some(0), ..options(format) };
        assert!(import(file(name), &options).is_err(), "{name} was taken for {format}");
    }
    assert!(matches!(guessed("absent.pt"), Err(Error::File(FileError::Read { .. }))));
}

#[test]
fn an_imported_vector_is_saved_with_its_gaps() {
    let out = tempfile::tempdir().expect("a folder");
    for (name, position) in
        [("evil_response_avg_diff.pt", None), ("axis.pt", None), ("mean_diffs.pt", Some(-1)), ("repeng.gguf", None)]
    {
        let vector = import(file(name), &ImportOptions { position, ..ImportOptions::default() }).expect(name);
        let path = out.path().join("vector.safetensors");
        vector.save(&path).expect("a writable folder");
        assert_eq!(PersonaVector::load(&path).expect("our own file"), vector, "{name}");
        assert_eq!(import(&path, &ImportOptions::default()).expect("our own file"), vector, "{name}");
    }
    let vector = guessed("evil_response_avg_diff.pt").expect("a vector");
    let table = vector.table(Pooling::ResponseMean).expect("a table");
    assert_eq!(table.mark(layer(BLOCKS)), Some(RowMark::AfterFinalNorm));
}

#[test]
fn a_model_must_match_the_file() {
    let check = |vector: &PersonaVector, layers, d_model| {
        vector.check_model(&DecoderConfig { model_type: "qwen2".into(), layers, d_model, ..pv_tests::decoder_config() })
    };
    let whole = guessed("evil_response_avg_diff.pt").expect("a vector");
    assert!(check(&whole, BLOCKS, WIDTH).is_ok());
    for (blocks, width, named) in
        [(BLOCKS + 1, WIDTH, "blocks"), (BLOCKS - 1, WIDTH, "blocks"), (BLOCKS, WIDTH + 1, "width")]
    {
        let error = check(&whole, blocks, width).expect_err(named);
        assert!(matches!(error, Error::ModelMismatch { .. }) && error.to_string().contains(named), "{error}");
    }
    // Directions 1 to 3: at least four blocks.
    let control = guessed("repeng.gguf").expect("a vector");
    assert!(check(&control, 4, WIDTH + 2).is_ok());
    assert!(check(&control, 40, WIDTH + 2).is_ok());
    assert!(check(&control, 4, WIDTH).is_err());
    let error = check(&control, 3, WIDTH + 2).expect_err("too few blocks");
    assert!(error.to_string().contains("at least 4"), "{error}");

    let given =
        |name: &str, blocks| import(file(name), &ImportOptions { blocks: Some(blocks), ..ImportOptions::default() });
    let control = given("repeng.gguf", 6).expect("a vector");
    assert_eq!(control.shape().0, 7);
    assert!(matches!(control.direction(layer(6)), Err(Error::AbsentLayer { .. })));
    assert!(check(&control, 6, WIDTH + 2).is_ok());
    assert!(check(&control, 7, WIDTH + 2).is_err());
    assert!(given("repeng.gguf", 3).is_err());
    assert!(given("repeng.gguf", usize::MAX).is_err());
    assert!(given("axis.pt", BLOCKS).is_ok());
    assert!(given("axis.pt", BLOCKS + 1).is_err());
}

#[test]
fn control_vectors_are_written_without_unused_rows() {
    let out = tempfile::tempdir().expect("a folder");
    let path = out.path().join("evil.gguf");
    let vector = guessed("evil_response_avg_diff.pt").expect("a vector");
    let write = |layers: &LayerSet| vector.export_control_vector(&path, "llama", Pooling::ResponseMean, layers);
    write(&LayerSet::All).expect("a writable folder");
    let read = import(&path, &ImportOptions::default()).expect("our own file");
    let wanted: BTreeMap<_, _> =
        held(&vector, Pooling::ResponseMean).into_iter().filter(|(index, _)| (2..BLOCKS).contains(index)).collect();
    assert_eq!(held(&read, Pooling::ResponseMean), wanted);
    assert_eq!(read.provenance().model, "llama");
    write(&layer(3).into()).expect("a writable folder");
    let read = import(&path, &ImportOptions::default()).expect("our own file");
    assert_eq!(held(&read, Pooling::ResponseMean), BTreeMap::from([(3, wanted[&3].clone())]));

    // The gguf package's own file, byte for byte.
    let control = guessed("repeng.gguf").expect("a vector");
    control.export_control_vector(&path, "qwen2", Pooling::ResponseMean, &LayerSet::All).expect("a writable folder");
    assert_eq!(std::fs::read(&path).expect("ours"), std::fs::read(file("repeng.gguf")).expect("theirs"));

    for index in [0, 1] {
        let error = write(&layer(index).into()).expect_err("no place for it");
        assert!(matches!(error, Error::ControlVectorLayer { .. }), "{error}");
        assert!(error.to_string().contains(&format!("cannot contain layer {index}")), "{error}");
    }
    assert!(matches!(write(&layer(BLOCKS).into()), Err(Error::AfterFinalNorm { .. })));
    assert!(matches!(write(&layer(BLOCKS + 1).into()), Err(Error::NoSuchLayer { .. })));
    let axis = guessed("axis.pt").expect("an axis");
    let other = axis.export_control_vector(&path, "llama", Pooling::PromptMean, &LayerSet::All);
    assert!(matches!(other, Err(Error::NoSuchPooling { .. })));
    let low = import(file("vec_layer_1.pt"), &ImportOptions { layer: Some(layer(1)), ..options(Format::CaaLayer) });
    let low = low.expect("a vector").export_control_vector(&path, "llama", Pooling::ResponseMean, &LayerSet::All);
    assert!(matches!(low, Err(Error::NothingToExport { .. })));
    // The existing file is unchanged after a failure.
    assert!(import(&path, &ImportOptions::default()).is_ok());
}

#[test]
fn hostile_files_are_refused_by_name() {
    let expected = expected();
    let said = expected["hostile"].as_object().expect("what is said of them");
    assert!(said.len() >= 50, "only {} files", said.len());
    let files = std::fs::read_dir(folder().join("hostile")).expect("the folder").count();
    assert_eq!(files, said.len(), "every file has its part of a message");
    for (name, part) in said {
        let format = if name.contains("_diff") { Format::PaperDiff } else { Format::CaaLayer };
        let options = ImportOptions { layer: Some(layer(2)), ..options(format) };
        let error = import(folder().join("hostile").join(name), &options).expect_err(name);
        let part = part.as_str().expect("a part");
        let said = with_causes(&error);
        assert!(said.contains(part), "{name}: {said} (not {part:?})");
    }
    let error = |name: &str| import(folder().join("hostile").join(name), &options(Format::CaaLayer)).expect_err(name);
    assert!(matches!(error("os_system.pt"), Error::PickleGlobal { name, .. } if name.ends_with("system")));
    assert!(matches!(error("inst.pt"), Error::PickleOpcode { opcode, .. } if opcode == "INST"));
    let old = error("old_format_response_avg_diff.pt");
    assert!(matches!(old, Error::OldTorchFile { .. }) && old.to_string().contains("torch.save(torch.load("), "{old}");
}
