//! Files made here from folders, by the rules of llama.cpp's converter: every family, mixed formats, and parts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use pv_data::gguf::{TensorType, Value, Writer};
use pv_kernels::kept::{Format, Kept};
use pv_model::config::DecoderConfig;
use pv_model::decoder::{Block, Decoder};
use pv_model::weights::{WeightFiles, WeightType};
use pv_model::{CausalLm, LoadOptions, LoraConfig};
use pv_tests::{compare, golden_folders};
use serde_json::{Value as Json, json};

use super::logits;
use super::refused::refused;

const FAMILIES: [(&str, &str); 6] = [
    ("llama", "llama"),
    ("mistral", "llama"),
    ("mixtral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("qwen3_moe", "qwen3moe"),
];

/// The settings of a folder, as llama.cpp's converter writes them.
fn settings(config: &Json, architecture: &str, file: &mut Writer) {
    file.set("general.architecture", Value::String(architecture));
    let mut set = |name: &str, value: Value<'_>| {
        file.set(&format!("{architecture}.{name}"), value);
    };
    let size = |key: &str| config[key].as_u64().unwrap_or_else(|| panic!("{key}")) as u32;
    set("embedding_length", Value::U32(size("hidden_size")));
    set("block_count", Value::U32(size("num_hidden_layers")));
    set("feed_forward_length", Value::U32(size("intermediate_size")));
    set("attention.head_count", Value::U32(size("num_attention_heads")));
    set("attention.head_count_kv", Value::U32(size("num_key_value_heads")));
    set("context_length", Value::U32(size("max_position_embeddings")));
    set("attention.layer_norm_rms_epsilon", Value::F32(config["rms_norm_eps"].as_f64().expect("a number") as f32));
    if config["head_dim"].is_u64() {
        set("attention.key_length", Value::U32(size("head_dim")));
        set("attention.value_length", Value::U32(size("head_dim")));
    }
    if config["sliding_window"].is_u64() && config["use_sliding_window"] != json!(false) {
        set("attention.sliding_window", Value::U32(size("sliding_window")));
    }
    for (key, name) in [
        ("num_local_experts", "expert_count"),
        ("num_experts_per_tok", "expert_used_count"),
        ("moe_intermediate_size", "expert_feed_forward_length"),
    ] {
        // Version 5 of transformers gives all families the first name.
        let value = if config[key].is_null() && name == "expert_count" { &config["num_experts"] } else { &config[key] };
        if let Some(value) = value.as_u64() {
            set(name, Value::U32(value as u32));
        }
    }
    let rope = &config["rope_parameters"];
    let number = |key: &str| rope[key].as_f64().unwrap_or_else(|| panic!("{key}"));
    set("rope.freq_base", Value::F32(number("rope_theta") as f32));
    let kind = rope["rope_type"].as_str().expect("a type");
    if ["linear", "yarn"].contains(&kind) {
        set("rope.scaling.type", Value::String(kind));
        set("rope.scaling.factor", Value::F32(number("factor") as f32));
    }
    if kind == "yarn" {
        set("rope.scaling.original_context_length", Value::U32(number("original_max_position_embeddings") as u32));
    }
    if kind == "llama3" {
        let (factor, low, high) = (number("factor"), number("low_freq_factor"), number("high_freq_factor"));
        let (head_dim, positions) = (size("head_dim"), number("original_max_position_embeddings"));
        let factors: Vec<u8> = (0..head_dim / 2)
            .flat_map(|i| {
                let wavelength =
                    std::f64::consts::TAU * number("rope_theta").powf(f64::from(2 * i) / f64::from(head_dim));
                let smooth = (positions / wavelength - low) / (high - low);
                let value = if wavelength < positions / high {
                    1.0
                } else if wavelength > positions / low {
                    factor
                } else {
                    1.0 / ((1.0 - smooth) / factor + smooth)
                };
                (value as f32).to_le_bytes()
            })
            .collect();
        file.tensor("rope_freqs.weight", &[head_dim as usize / 2], TensorType::F32, &factors);
    }
    for (key, name) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        if config[key].is_u64() {
            file.set(&format!("tokenizer.ggml.{name}_token_id"), Value::U32(size(key)));
        }
    }
}

/// The name of a checkpoint's tensor in files.
fn theirs(name: &str) -> String {
    let parts = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("block_sparse_moe.gate", "ffn_gate_inp"),
        ("mlp.gate.", "ffn_gate_inp."),
        ("block_sparse_moe.experts.w1", "ffn_gate_exps"),
        ("block_sparse_moe.experts.w3", "ffn_up_exps"),
        ("block_sparse_moe.experts.w2", "ffn_down_exps"),
        ("mlp.experts.gate_proj", "ffn_gate_exps"),
        ("mlp.experts.up_proj", "ffn_up_exps"),
        ("mlp.experts.down_proj", "ffn_down_exps"),
    ];
    parts.into_iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// The order of rows in files: of each head's two halves, one row of each in turn.
fn permuted(values: &[f32], heads: usize, rows: usize) -> Vec<f32> {
    let (width, half) = (values.len() / rows, rows / heads / 2);
    let row = |at: usize| &values[at * width..(at + 1) * width];
    (0..rows)
        .flat_map(|at| {
            let (head, within) = (at / (2 * half), at % (2 * half));
            row(head * 2 * half + within % 2 * half + within / 2)
        })
        .copied()
        .collect()
}

/// The name of an expert's tensor without its number, and the number.
fn without_number(name: &str) -> Option<(String, usize)> {
    let (before, rest) = name.split_once(".experts.")?;
    let (number, after) = rest.split_once('.')?;
    Some((format!("{before}.experts.{after}"), number.parse().ok()?))
}

/// A folder's model as files, with the tensors of each in the formats of `format`; the tensors are dealt out to `parts` files.
/// Those of experts are in the last one, all of a block in one tensor.
pub(super) fn converted(folder: &Path, parts: usize, format: impl Fn(&str) -> Format) -> Vec<Vec<u8>> {
    let config: Json =
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).expect("a file")).expect("JSON");
    let family = config["model_type"].as_str().expect("a family");
    let (_, architecture) = FAMILIES.into_iter().find(|(known, _)| *known == family).expect("a known family");
    let mut files = vec![Writer::default(); parts];
    settings(&config, architecture, &mut files[0]);
    let weights = WeightFiles::open(folder).expect("weights");
    let mut tensors = usize::from(config["rope_parameters"]["rope_type"] == "llama3");
    let mut experts: BTreeMap<String, BTreeMap<usize, (Vec<usize>, Kept)>> = BTreeMap::new();
    for (i, name) in weights.names().enumerate() {
        let tensor = weights.get(name).expect("a tensor");
        let mut values = tensor.to_f32();
        let heads = |key: &str| config[key].as_u64().expect("a count") as usize;
        if architecture == "llama" && name.contains(".q_proj") {
            values = permuted(&values, heads("num_attention_heads"), tensor.shape[0]);
        } else if architecture == "llama" && name.contains(".k_proj") {
            values = permuted(&values, heads("num_key_value_heads"), tensor.shape[0]);
        }
        let format = if tensor.shape.len() == 2 { format(name) } else { Format::F32 };
        let kept = Kept::quantize(format, &values);
        let shape: Vec<usize> = tensor.shape.iter().rev().copied().collect();
        if let Some((all, number)) = without_number(name) {
            experts.entry(all).or_default().insert(number, (shape, kept));
            continue;
        }
        let kind = TensorType::from_name(format.name()).expect("a type of the same name");
        files[i * parts / weights.names().count()].tensor(&theirs(name), &shape, kind, kept.bytes());
        tensors += 1;
    }
    for (name, all) in &experts {
        let (shape, first) = &all[&0];
        let kind = TensorType::from_name(first.format().name()).expect("a type of the same name");
        let bytes: Vec<u8> = all.values().flat_map(|(_, kept)| kept.bytes()).copied().collect();
        let shape: Vec<usize> = shape.iter().copied().chain([all.len()]).collect();
        files[parts - 1].tensor(&theirs(name), &shape, kind, &bytes);
        tensors += 1;
    }
    if parts > 1 {
        for (number, file) in files.iter_mut().enumerate() {
            file.set("split.count", Value::U16(parts as u16)).set("split.no", Value::U16(number as u16));
            file.set("split.tensors.count", Value::I32(tensors as i32));
        }
    }
    files.iter().map(Writer::finish).collect()
}

pub(super) fn load(path: &Path, weights: Option<WeightType>) -> pv_model::Result<CausalLm> {
    CausalLm::from_folder_with(path, &Device::flex(), DType::F32, &LoadOptions { weights, ..LoadOptions::default() })
}

pub(super) fn prompt(vocab: usize) -> Vec<u32> {
    (0..40u32).map(|i| (i * 31 + i * i * 7 + 3) % vocab as u32).collect()
}

/// The folder, or with Llama 3.1's scaling a copy for more positions: a file has the divisors only, from which the number of
/// positions follows if one is between 1 and the greatest.
fn with_divisors_between(folder: PathBuf, place: &Path) -> PathBuf {
    let mut config: Json =
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).expect("a file")).expect("JSON");
    if config["rope_parameters"]["rope_type"] != "llama3" {
        return folder;
    }
    config["rope_parameters"]["original_max_position_embeddings"] = json!(600);
    let copy = place.join("llama3");
    std::fs::create_dir_all(&copy).expect("a folder");
    std::fs::write(copy.join("config.json"), config.to_string()).expect("a file");
    std::fs::copy(folder.join("model.safetensors"), copy.join("model.safetensors")).expect("a file");
    copy
}

#[test]
fn every_family_is_that_of_its_folder() {
    let place = tempfile::tempdir().expect("a folder");
    let mut compared = 0;
    for folder in golden_folders() {
        let folder = with_divisors_between(folder, place.path());
        let config = DecoderConfig::from_folder(&folder).expect("a configuration");
        if !FAMILIES.iter().any(|(known, _)| *known == config.model_type) {
            continue;
        }
        let [bytes] = &converted(&folder, 1, |_| Format::F32)[..] else { panic!("one file") };
        if config.experts.as_ref().is_some_and(|experts| !experts.dense_blocks.is_empty()) {
            // llama.cpp has no such models either.
            assert!(refused(bytes).contains("model.layers.1.mlp.experts"));
            continue;
        }
        if config.model_type.starts_with("qwen") && config.windows.iter().any(Option::is_some) {
            // Such files do not say which blocks have the window.
            assert!(refused(bytes).contains("attention.sliding_window"));
            continue;
        }
        let path = place.path().join("m.gguf");
        std::fs::write(&path, bytes).expect("a file");
        let read = DecoderConfig::from_folder(&path).expect("a configuration");
        // Without a window, a Mistral is a Llama.
        let expected = match config.windows[0] {
            None if config.model_type == "mistral" => {
                DecoderConfig { model_type: "llama".to_owned(), ..config.clone() }
            }
            _ => config.clone(),
        };
        assert_eq!(read.difference(&expected), None, "{}", folder.display());
        let (ours, theirs) = (load(&path, None).expect("a model"), load(&folder, None).expect("a model"));
        assert_eq!(ours.decoder().packed_formats(), None);
        let prompt = prompt(config.vocab);
        assert!(logits(&ours, &prompt) == logits(&theirs, &prompt), "{}", folder.display());
        compared += 1;
    }
    assert!(compared >= 12, "{compared}");
}

/// A Llama with rows of 256 values.
fn wide_folder(place: &Path) -> PathBuf {
    let config = DecoderConfig::from_json(&json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8,
        "num_key_value_heads": 4, "vocab_size": 320, "tie_word_embeddings": false, "rms_norm_eps": 1e-5,
        "rope_parameters": { "rope_theta": 10000.0, "rope_type": "default" },
    }))
    .expect("a configuration");
    let decoder = Decoder::init(config, 11, &Device::flex()).expect("a decoder");
    decoder.save(place.join("wide"), DType::F32).expect("a writable folder");
    place.join("wide")
}

#[test]
fn stacked_projections_keep_the_formats_of_their_parts() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = wide_folder(place.path());
    let mixed = |name: &str| match name {
        _ if name.contains("v_proj") || name.contains("down_proj") => Format::Q6K,
        _ if name.contains("k_proj") => Format::Q5K,
        _ if name.contains("up_proj") => Format::F16,
        _ if name.contains("embed") => Format::Q8_0,
        _ if name.contains("lm_head") => Format::Q5_1,
        _ => Format::Q4K,
    };
    let path = place.path().join("mixed.gguf");
    std::fs::write(&path, &converted(&folder, 1, mixed)[0]).expect("a file");
    let kept = load(&path, None).expect("a model");
    assert_eq!(kept.decoder().packed_formats().as_deref(), Some("F16, Q4_K, Q5_1, Q5_K, Q6_K, Q8_0"));
    let qkv = kept.decoder().blocks[0].qkv.weight.packed().expect("packed");
    assert_eq!(qkv.formats().collect::<Vec<_>>(), [Format::Q4K, Format::Q5K, Format::Q6K]);
    assert_eq!(qkv.dims(), [512, 256]);
    let wide = load(&path, Some(WeightType::F32)).expect("a model");
    assert_eq!(wide.decoder().packed_formats(), None);
    let prompt = prompt(320);
    let found = compare("logits", &logits(&kept, &prompt), &logits(&wide, &prompt));
    assert!(found.max_abs < 1e-5, "{found}");
    let memory = kept.decoder().blocks.iter().flat_map(Block::projections);
    let memory: usize = memory.map(|projection| projection.weight.packed().expect("packed").bytes()).sum();
    assert!((memory as u64) < WeightFiles::open(&path).expect("weights").kept_bytes(kept.config(), DType::F32));

    // An adapter has the same gradients, and a saved model the same values.
    let (ours, theirs) = (gradients(&kept), gradients(&wide));
    let found = compare("gradients", &ours, &theirs);
    let most = theirs.iter().fold(0f32, |most, value| most.max(value.abs()));
    assert!(most > 1e-6 && found.max_abs < 1e-4 * most, "{found}, {most}");
    kept.save(place.path().join("saved"), DType::F32).expect("a writable folder");
    let saved = load(&place.path().join("saved"), None).expect("a model");
    assert!(logits(&saved, &prompt) == logits(&wide, &prompt));
}

/// The gradients of an adapter's matrices.
fn gradients(model: &CausalLm) -> Vec<f32> {
    use pv_hooks::NoHook;
    use pv_model::batch::{Batch, Sequence};
    use pv_model::decoder::{Logits, Pass, cross_entropy, to_f32};

    let adapter = pv_model::Adapter::init(LoraConfig { rank: 2, ..LoraConfig::default() }, model.config(), 3)
        .expect("an adapter");
    let decoder = model.decoder().with_adapter(&adapter, 1.0).expect("fits").trainable_adapter().expect("an adapter");
    let ids = prompt(320);
    let batch = Batch::whole(&[Sequence { prompt: &ids, ..Sequence::default() }]).expect("a batch");
    let pass = Pass {
        ids: batch.ids(),
        spans: batch.spans(),
        phase: pv_hooks::Phase::Full,
        stop_at: None,
        logits: Logits::All,
    };
    let logits = decoder.pass(&pass, None, &mut NoHook).logits.expect("asked for");
    let gradients = cross_entropy(logits.reshape([ids.len(), 320]), &ids).backward();
    let blocks = decoder.blocks.iter().flat_map(Block::projections);
    // Those of the second matrices; those of the first are zero, as the second ones are.
    let found = blocks
        .flat_map(|projection| &projection.lora)
        .flat_map(|update| to_f32(update.b.val().grad(&gradients).expect("a gradient")).expect("values"));
    found.collect()
}

#[test]
fn parts_are_one_model() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = wide_folder(place.path());
    let write = |files: &[Vec<u8>]| {
        for (i, bytes) in files.iter().enumerate() {
            std::fs::write(place.path().join(format!("m-{:05}-of-{:05}.gguf", i + 1, files.len())), bytes)
                .expect("a file");
        }
    };
    let parts = converted(&folder, 3, |_| Format::F32);
    write(&parts);
    let expected = logits(&load(&folder, None).expect("a model"), &prompt(320));
    for number in 1..=3 {
        let path = place.path().join(format!("m-{number:05}-of-00003.gguf"));
        assert!(logits(&load(&path, None).expect("a model"), &prompt(320)) == expected, "{number}");
        assert_eq!(WeightFiles::open(&path).expect("weights").paths().count(), 3);
    }
    let first = place.path().join("m-00001-of-00003.gguf");
    let error = |path: &Path| format!("{:?}", load(path, None).expect_err("incomplete"));
    write(&[parts[0].clone(), parts[2].clone(), parts[1].clone()]);
    assert!(error(&first).contains("Part"), "{}", error(&first));
    write(&parts);
    std::fs::remove_file(place.path().join("m-00002-of-00003.gguf")).expect("a file");
    assert!(error(&first).contains("m-00002-of-00003.gguf"), "{}", error(&first));
    std::fs::write(place.path().join("alone.gguf"), &parts[0]).expect("a file");
    assert!(error(&place.path().join("alone.gguf")).contains("PartName"));
}
