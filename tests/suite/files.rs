//! Model folders in all forms, and damaged ones: the same model, or a clear error.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device};
use half::{bf16, f16};
use pv_hooks::NoHook;
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::weights::WeightsError;
use pv_model::{CausalLm, Error};
use pv_tests::{compare, root};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

const NAME: &str = "llama";

type Stored = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn stored() -> Stored {
    let bytes = std::fs::read(root().join("tests/golden").join(NAME).join("model.safetensors")).expect("weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("whole");
    tensors.iter().map(|(name, t)| (name.to_owned(), (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn write(path: &Path, tensors: &Stored) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), data).expect("a view"))
    });
    std::fs::write(path, safetensors::serialize(views, None).expect("a file")).expect("a writable folder");
}

/// A folder with the model's configuration and nothing else.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let config = root().join("tests/golden").join(NAME).join("config.json");
    std::fs::copy(config, folder.path().join("config.json")).expect("a writable folder");
    folder
}

fn load(folder: &Path) -> Result<CausalLm, Error> {
    CausalLm::from_folder(folder, &Device::flex(), DType::F32)
}

fn logits(model: &CausalLm) -> Vec<f32> {
    let ids: Vec<u32> = (3..20).collect();
    let batch = Batch::whole(&[Sequence { prompt: &ids, ..Sequence::default() }]).expect("a sequence");
    let options = ForwardOptions { stop_at: None, logits: Logits::All };
    to_f32(model.forward(&batch, options, &mut NoHook).expect("a pass").logits.expect("asked for")).expect("values")
}

/// Two shards with an index, as for large models.
fn shard(folder: &Path, tensors: &Stored) {
    let (mut first, mut second, mut map) = (Stored::new(), Stored::new(), serde_json::Map::new());
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        let (shard, file) = match i % 2 {
            0 => (&mut first, "model-00001-of-00002.safetensors"),
            _ => (&mut second, "model-00002-of-00002.safetensors"),
        };
        shard.insert(name.clone(), tensor.clone());
        map.insert(name.clone(), file.into());
    }
    write(&folder.join("model-00001-of-00002.safetensors"), &first);
    write(&folder.join("model-00002-of-00002.safetensors"), &second);
    let index = json!({ "metadata": {}, "weight_map": map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).expect("a writable folder");
}

#[test]
fn shards_load_as_the_same_model() {
    let whole = load(&root().join("tests/golden").join(NAME)).expect("the model");
    let folder = folder();
    shard(folder.path(), &stored());
    let sharded = load(folder.path()).expect("the model in shards");
    assert_eq!(logits(&sharded), logits(&whole));
    assert_eq!(sharded.config().hash(), whole.config().hash());
}

#[test]
fn half_precision_files_load_as_the_rounded_model() {
    let reference = logits(&load(&root().join("tests/golden").join(NAME)).expect("the model"));
    type Round = fn(f32) -> [u8; 2];
    let kinds: [(Dtype, Round, f32); 2] = [
        (Dtype::F16, |v| f16::from_f32(v).to_le_bytes(), 0.02),
        (Dtype::BF16, |v| bf16::from_f32(v).to_le_bytes(), 0.15),
    ];
    for (dtype, round, tolerance) in kinds {
        let folder = folder();
        let halves = stored().into_iter().map(|(name, (_, shape, data))| {
            let floats = data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")));
            (name, (dtype, shape, floats.flat_map(round).collect()))
        });
        write(&folder.path().join("model.safetensors"), &halves.collect());
        let found = compare(format!("{dtype:?}"), &logits(&load(folder.path()).expect("the model")), &reference);
        assert!(found.max_abs > 0.0 && found.max_abs < tolerance, "{found}");
    }
}

/// The error or model after a change to the folder's tensors.
fn refusal(change: impl FnOnce(&mut Stored)) -> Error {
    let folder = folder();
    let mut tensors = stored();
    change(&mut tensors);
    write(&folder.path().join("model.safetensors"), &tensors);
    load(folder.path()).expect_err("a damaged folder")
}

#[test]
fn damaged_weights_are_refused_by_name() {
    let norm = "model.norm.weight";
    let missing = refusal(|tensors| drop(tensors.remove(norm)));
    assert!(
        matches!(&missing, Error::Weights(WeightsError::MissingTensors { names, .. }) if names == &[norm]),
        "{missing}"
    );
    let surplus = refusal(|tensors| {
        tensors.insert("model.extra.weight".into(), tensors[norm].clone());
    });
    assert!(
        matches!(&surplus, Error::Weights(WeightsError::UnusedTensors { names, .. }) if names == &["model.extra.weight"]),
        "{surplus}"
    );
    let shape = refusal(|tensors| tensors.get_mut(norm).expect("there").1 = vec![6, 8]);
    assert!(matches!(&shape, Error::Weights(WeightsError::TensorShape { tensor, .. }) if tensor == norm), "{shape}");
    let dtype = refusal(|tensors| tensors.get_mut(norm).expect("there").0 = Dtype::I32);
    assert!(matches!(&dtype, Error::Weights(WeightsError::TensorDtype { tensor, .. }) if tensor == norm), "{dtype}");

    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let whole = std::fs::read(root().join("tests/golden").join(NAME).join("model.safetensors")).expect("weights");
    for cut in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).expect("a writable folder");
        assert!(load(folder.path()).is_err(), "accepted {cut} of {} bytes", whole.len());
    }
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, lying).expect("a writable folder");
    assert!(matches!(load(folder.path()), Err(Error::Weights(WeightsError::Header { .. }))));
}

#[test]
fn shards_outside_the_folder_are_refused() {
    for name in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "a\\b", ""] {
        let folder = folder();
        shard(folder.path(), &stored());
        let path = folder.path().join("model.safetensors.index.json");
        let mut index: Value = serde_json::from_slice(&std::fs::read(&path).expect("the index")).expect("JSON");
        index["weight_map"]["model.norm.weight"] = name.into();
        std::fs::write(&path, index.to_string()).expect("a writable folder");
        let error = load(folder.path()).expect_err("a shard elsewhere");
        assert!(
            matches!(&error, Error::Weights(WeightsError::ShardName { shard, .. }) if shard == name),
            "{name:?}: {error}"
        );
    }
}

#[test]
fn unsupported_configurations_are_refused_by_name() {
    let config: Value =
        serde_json::from_slice(&std::fs::read(folder().path().join("config.json")).expect("read")).expect("JSON");
    for (key, value, named) in [
        ("model_type", json!("gpt_neox"), "gpt_neox"),
        ("hidden_act", json!("gelu"), "gelu"),
        ("rope_parameters", json!({"rope_type": "longrope", "rope_theta": 1e4}), "longrope"),
        ("quantization_config", json!({"quant_method": "gptq"}), "quantization_config"),
        ("num_attention_heads", json!(7), "7"),
        ("head_dim", json!(-1), "head_dim"),
    ] {
        let folder = folder();
        let mut changed = config.clone();
        changed[key] = value;
        std::fs::write(folder.path().join("config.json"), changed.to_string()).expect("a writable folder");
        let error = load(folder.path()).expect_err(key).to_string();
        assert!(error.contains(named), "{key}: {error}");
    }
}

/// Scores, sums and settings are read back exactly, so that resumed work ends with the same bits.
#[test]
fn json_numbers_are_read_exactly() {
    let mut random = pv_tests::Random(17);
    let mut word = || random.below(1 << 16);
    let mut checked = [0, 0];
    while checked != [10_000, 10_000] {
        let bits = (word() << 48) | (word() << 32) | (word() << 16) | word();
        let (wide, narrow) = (f64::from_bits(bits), f32::from_bits(bits as u32));
        if wide.is_finite() && checked[0] < 10_000 {
            let text = serde_json::to_string(&wide).expect("JSON");
            let typed: f64 = serde_json::from_str(&text).expect("a number");
            let value: Value = serde_json::from_str(&text).expect("a number");
            assert_eq!(typed.to_bits(), bits, "{text}");
            assert_eq!(value.as_f64().map(f64::to_bits), Some(bits), "{text}");
            checked[0] += 1;
        }
        if narrow.is_finite() && checked[1] < 10_000 {
            let text = serde_json::to_string(&narrow).expect("JSON");
            let typed: f32 = serde_json::from_str(&text).expect("a number");
            assert_eq!(typed.to_bits(), narrow.to_bits(), "{text}");
            checked[1] += 1;
        }
    }
}
