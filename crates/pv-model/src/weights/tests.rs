mod stacked;

use std::collections::HashMap;
use std::fs;

use half::{bf16, f16};
use proptest::prelude::*;
use pv_data::FileError;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::config::ExpectedTensor;
use crate::listed::listed;

/// A safetensors file with this header and this many bytes 0, 1, 2, ….
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend((0..data).map(|i| i as u8));
    bytes
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).expect("written");
    }
    folder
}

fn info(dtype: &str, shape: &[usize], start: usize, end: usize) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})
}

/// Opens `bytes` as the only weights file of a folder.
fn open(bytes: &[u8]) -> Result<WeightFiles, WeightsError> {
    WeightFiles::open(folder(&[("model.safetensors", bytes)]).path())
}

fn open_header(header: Value, data: usize) -> Result<WeightFiles, WeightsError> {
    open(&file(&header.to_string(), data))
}

const INDEX: &str = "model.safetensors.index.json";

#[test]
fn reads_what_the_reference_implementation_writes() {
    let values: Vec<u8> = [1.0f32, -2.5, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 3], &values).expect("a view");
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize([("w", view)], Some(metadata)).expect("serialized");
    let files = open(&bytes).expect("a good file");
    assert_eq!(files.names().collect::<Vec<_>>(), ["w"]);
    let tensor = files.get("w").expect("a tensor");
    assert_eq!((tensor.format, tensor.shape.as_slice(), &tensor.bytes[..]), (Format::F32, &[2, 3][..], &values[..]));
    files.release("w");
    assert_eq!(tensor.to_f32(), [1.0, -2.5, 3.0, 4.0, 5.0, 6.0], "released pages come back");
}

#[test]
fn empty_and_scalar_tensors_are_tensors() {
    let files = open_header(json!({"e": info("F32", &[0, 3], 0, 0), "s": info("BF16", &[], 0, 2)}), 2).expect("good");
    assert!(files.get("e").expect("a tensor").to_f32().is_empty());
    files.release("e");
    assert_eq!(files.get("s").expect("a tensor").values(), 1);
}

#[test]
fn hostile_headers_are_refused() {
    let sizes = [0, 1, 9, 100_000_001, u64::MAX / 2, u64::MAX];
    for size in sizes {
        let mut bytes = file("{}", 0);
        bytes[..8].copy_from_slice(&size.to_le_bytes());
        let error = open(&bytes).expect_err("a bad length");
        assert!(
            matches!(error, WeightsError::Header { .. } | WeightsError::Folder(FolderError::Json { .. })),
            "{size}: {error}"
        );
    }
    for length in 0..8 {
        assert!(matches!(open(&vec![1; length]), Err(WeightsError::Header { .. })));
    }
    for header in [
        "[]",
        "{",
        "null",
        "{\"__metadata__\": 3}",
        "{\"w\": {}}",
        "{\"w\": 3}",
        "{} {}",
        "{\"w\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}}",
        "{\"w\": {\"dtype\": \"F32\", \"shape\": [1.5], \"data_offsets\": [0, 4]}}",
        "{\"w\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0]}}",
    ] {
        let error = open(&file(header, 4)).expect_err("a bad header");
        assert!(matches!(error, WeightsError::Folder(FolderError::Json { .. })), "{header}: {error}");
    }
}

#[test]
fn ranges_are_checked_against_file_type_and_shape() {
    type Test = fn(&WeightsError) -> bool;
    let cases: [(Value, usize, Test); 11] = [
        (json!({"w": info("F32", &[2], 0, 8)}), 7, |e| {
            matches!(e, WeightsError::TensorOffsets { end: 8, available: 7, .. })
        }),
        (json!({"w": info("F32", &[2], 8, 0)}), 8, |e| matches!(e, WeightsError::TensorOffsets { .. })),
        (json!({"w": {"dtype": "F32", "shape": [1], "data_offsets": [u64::MAX - 3, u64::MAX]}}), 8, |e| {
            matches!(e, WeightsError::TensorOffsets { .. })
        }),
        (json!({"w": info("F32", &[3], 0, 8)}), 8, |e| matches!(e, WeightsError::TensorBytes { found: 8, .. })),
        (json!({"w": info("F4", &[1], 0, 1)}), 1, |e| matches!(e, WeightsError::TensorBytes { .. })),
        (json!({"w": info("F32", &[1 << 40, 1 << 40], 0, 8)}), 8, |e| matches!(e, WeightsError::TensorBytes { .. })),
        (json!({"w": info("F32", &[usize::MAX, 0, 2], 0, 0)}), 0, |e| matches!(e, WeightsError::TensorBytes { .. })),
        (json!({"a": info("F32", &[2], 0, 8), "b": info("F32", &[2], 4, 12)}), 12, |e| {
            matches!(e, WeightsError::TensorOverlap { at: 4, .. })
        }),
        (json!({"a": info("F32", &[1], 4, 8)}), 8, |e| {
            matches!(e, WeightsError::UnclaimedBytes { start: 0, end: 4, .. })
        }),
        (json!({"a": info("F32", &[1], 0, 4)}), 9, |e| {
            matches!(e, WeightsError::UnclaimedBytes { start: 4, end: 9, .. })
        }),
        (json!({"a": info("F3", &[1], 0, 4)}), 4, |e| matches!(e, WeightsError::TensorDtype { .. })),
    ];
    for (header, data, test) in cases {
        let error = open_header(header, data).expect_err("a bad header");
        assert!(test(&error), "{error}");
    }
    let twice = "{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\
                  \"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    assert!(matches!(open(&file(twice, 1)), Err(WeightsError::DuplicateTensor { .. })));
}

#[test]
fn other_types_are_refused_when_asked_for() {
    let files = open_header(json!({"w": info("I64", &[1], 0, 8)}), 8).expect("a good file");
    let message = files.get("w").expect_err("not a weight").to_string();
    assert!(message.contains("`w`") && message.contains("I64"), "{message}");
}

#[test]
fn shards_are_joined_and_checked_against_the_index() {
    let first = file(&json!({"a": info("F16", &[1], 0, 2)}).to_string(), 2);
    let second = file(&json!({"b": info("F16", &[1], 0, 2)}).to_string(), 2);
    let open = |map: Value| {
        let index = json!({"metadata": {"total_size": 4}, "weight_map": map}).to_string();
        WeightFiles::open(
            folder(&[("1.safetensors", &first), ("2.safetensors", &second), (INDEX, index.as_bytes())]).path(),
        )
    };
    let files = open(json!({"a": "1.safetensors", "b": "2.safetensors"})).expect("good shards");
    assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(files.paths().count(), 2);
    assert!(matches!(open(json!({"a": "3.safetensors"})), Err(WeightsError::ShardMissing { .. })));
    assert!(matches!(open(json!({"c": "1.safetensors"})), Err(WeightsError::ShardLacksTensor { .. })));
    assert!(matches!(
        open(json!({"a": "2.safetensors", "b": "1.safetensors"})),
        Err(WeightsError::ShardLacksTensor { .. })
    ));
    assert!(matches!(open(json!({"a": 3})), Err(WeightsError::Folder(FolderError::Json { .. }))));
    for name in ["", ".", "..", "../1.safetensors", "/etc/passwd", "a/b", "a\\b", "C:1.safetensors", "a..b", "a\0b"] {
        assert!(matches!(open(json!({"a": name})), Err(WeightsError::ShardName { .. })), "{name:?}");
    }
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let shard = file(&json!({"a": info("F16", &[1], 0, 2)}).to_string(), 2);
    let other = file(&json!({"a": info("F16", &[1], 0, 2), "b": info("F16", &[1], 2, 4)}).to_string(), 4);
    let index = json!({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).to_string();
    let folder = folder(&[("1.safetensors", &shard), ("2.safetensors", &other), (INDEX, index.as_bytes())]);
    let error = WeightFiles::open(folder.path()).expect_err("a duplicate");
    assert!(matches!(&error, WeightsError::DuplicateTensor { tensor, .. } if tensor == "a"), "{error}");
}

#[test]
fn other_folders_are_told_apart() {
    for (name, part) in [
        ("adapter_model.safetensors", "PEFT"),
        ("pytorch_model.bin", "safe_serialization"),
        ("model.gguf", "GGUF"),
        ("consolidated.safetensors", "consolidated.safetensors"),
        ("notes.txt", "notes.txt"),
    ] {
        let message = WeightFiles::open(folder(&[(name, b"x")]).path()).expect_err("no weights").to_string();
        assert!(message.contains(part), "{message}");
    }
    assert!(matches!(
        WeightFiles::open("/no/such/folder"),
        Err(WeightsError::Folder(FolderError::File(FileError::Read { .. })))
    ));
}

#[test]
fn missing_unused_and_misshapen_tensors_are_listed() {
    let header = json!({
        "model.embed_tokens.weight": info("U8", &[1], 0, 1), "x": info("F16", &[1], 1, 3),
        "model.layers.0.self_attn.rotary_emb.inv_freq": info("F32", &[1], 3, 7),
    });
    let files = open_header(header, 7).expect("a good file");
    let expected = |name: &str, shape: &[usize]| ExpectedTensor { name: name.into(), shape: shape.into() };
    let missing = files.check(&[expected("p", &[1]), expected("q", &[1]), expected("x", &[1])]);
    assert!(matches!(missing, Err(WeightsError::MissingTensors { names, .. }) if names == ["p", "q"]));
    assert!(matches!(files.check(&[expected("x", &[2])]), Err(WeightsError::TensorShape { .. })));
    let unused = files.check(&[expected("x", &[1])]);
    assert!(matches!(unused, Err(WeightsError::UnusedTensors { names, .. }) if names == ["model.embed_tokens.weight"]));
    let names: Vec<String> = (0..13).map(|i| format!("t{i}")).collect();
    assert!(listed(&names).ends_with("t9 and 3 more"));
}

#[test]
fn a_tied_head_is_tolerated_only_where_it_equals_the_embedding() {
    let names = TensorNames::HUGGING_FACE;
    let header = json!({names.embedding: info("F16", &[2], 0, 4), names.output_head: info("F16", &[2], 4, 8)});
    let expected = [ExpectedTensor { name: names.embedding.into(), shape: vec![2] }];
    for (copy, head) in [(true, OutputHead::Tied), (false, OutputHead::Untied)] {
        let mut bytes = file(&header.to_string(), 8);
        if copy {
            let start = bytes.len() - 8;
            bytes.copy_within(start..start + 4, start + 4);
        }
        let files = open(&bytes).expect("a good file");
        assert_eq!(files.output_head(OutputHead::Tied, &names).expect("comparable"), head);
        assert_eq!(files.check(&expected).is_ok(), copy);
    }
}

fn tensor(format: Format, bytes: &[u8]) -> RawTensor<'_> {
    let shape = vec![bytes.len() / format.block_bytes()];
    RawTensor { name: "w", format, shape, bytes: Cow::Borrowed(bytes), pages: None }
}

#[test]
fn rounding_is_to_the_nearest_even() {
    // 1 + 2⁻⁸ lies between the bf16 neighbours 1 and 1 + 2⁻⁷, 1 + 3·2⁻⁸ between 1 + 2⁻⁷ and 1 + 2⁻⁶.
    let values = [1.0f32 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1e30, f32::NAN];
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let rounded = tensor(Format::F32, &bytes).to_bf16();
    assert_eq!(rounded[..2], [bf16::from_f32(1.0), bf16::from_f32(1.0 + 1.0 / 64.0)]);
    assert!(rounded[3].is_nan());
    assert_eq!(tensor(Format::F32, &bytes).to_f16()[2], f16::INFINITY);
}

#[test]
fn large_tensors_are_converted_whole() {
    const VALUES: usize = (1 << 20) + 5;
    let mut bytes = file(&json!({"w": info("BF16", &[VALUES], 0, 2 * VALUES)}).to_string(), 0);
    bytes.extend((0..VALUES).flat_map(|i| bf16::from_f32((i % 251) as f32).to_le_bytes()));
    let files = open(&bytes).expect("a good file");
    let values = files.get("w").expect("a tensor").to_f32();
    assert!(values.iter().enumerate().all(|(i, value)| *value == (i % 251) as f32));
}

#[test]
fn a_buffer_of_another_length_is_refused() {
    let error = tensor(Format::F16, &[0; 4]).to_f32_into(&mut [0.0; 3]).expect_err("no room");
    assert!(matches!(error, WeightsError::TensorLength { expected: 2, found: 3, .. }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn conversions_equal_the_ones_of_single_values(
        bits in proptest::collection::vec(any::<u16>(), 0..5000), shift in 0usize..4,
    ) {
        // A shifted copy, because a file's tensors may start at any byte.
        let mut bytes = vec![0; shift];
        bytes.extend(bits.iter().flat_map(|bits| bits.to_le_bytes()));
        let bytes = &bytes[shift..];
        let half = tensor(Format::F16, bytes);
        let brain = tensor(Format::Bf16, bytes);
        let single = tensor(Format::F32, &bytes[..bytes.len() / 4 * 4]);
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        for (i, bits) in bits.iter().enumerate() {
            let (h, b) = (f16::from_bits(*bits).to_f32(), bf16::from_bits(*bits).to_f32());
            if i == 0 || i == 2047 || i == 2048 || i + 1 == half.values() {
                prop_assert!(same(half.to_f32()[i], h) && same(brain.to_f32()[i], b));
                prop_assert!(same(half.to_bf16()[i].to_f32(), bf16::from_f32(h).to_f32()));
                prop_assert!(same(brain.to_f16()[i].to_f32(), f16::from_f32(b).to_f32()));
                prop_assert!(same(half.to_f16()[i].to_f32(), h) && same(brain.to_bf16()[i].to_f32(), b));
            }
        }
        let singles = single.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (copied, halves, brains) = (single.to_f32(), single.to_f16(), single.to_bf16());
        for (i, value) in singles.enumerate() {
            prop_assert!(same(copied[i], value) && same(halves[i].to_f32(), f16::from_f32(value).to_f32()));
            prop_assert!(same(brains[i].to_f32(), bf16::from_f32(value).to_f32()));
        }
    }

    #[test]
    fn random_bytes_are_never_weights(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(open(&bytes).is_err());
    }

    #[test]
    fn what_is_accepted_after_a_mutation_the_reference_accepts_too(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in 0usize..3,
    ) {
        let header = json!({"a": info("F16", &[2, 2], 0, 8), "b": info("BF16", &[3], 8, 14)}).to_string();
        let mut bytes = file(&header, 14);
        let length = bytes.len();
        bytes[at.index(8 + header.len())] = byte;
        bytes.truncate(length - cut);
        if let Ok(files) = open(&bytes) {
            let reference = safetensors::SafeTensors::deserialize(&bytes).expect("the reference accepts it");
            prop_assert_eq!(cut, 0);
            for name in files.names() {
                if let Ok(tensor) = files.get(name) {
                    let view = reference.tensor(name).expect("the reference has it");
                    prop_assert_eq!((view.shape(), view.data()), (tensor.shape.as_slice(), &tensor.bytes[..]));
                }
            }
        }
    }

    #[test]
    fn mutated_indexes_never_panic_nor_leave_the_folder(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let shard = file(&json!({"a": info("F16", &[1], 0, 2)}).to_string(), 2);
        let mut index = json!({"weight_map": {"a": "1.safetensors"}}).to_string().into_bytes();
        let at = at.index(index.len());
        index[at] = byte;
        let folder = folder(&[("1.safetensors", &shard), (INDEX, &index)]);
        if let Ok(files) = WeightFiles::open(folder.path()) {
            prop_assert!(files.paths().all(|path| path.parent() == Some(folder.path())));
            prop_assert_eq!(files.get("a").is_ok(), files.paths().count() == 1);
        }
    }
}
