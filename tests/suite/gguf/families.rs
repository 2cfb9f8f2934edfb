//! Files of the architectures beyond Llama's, written by the rules of llama.cpp's converter (tests/python/gguf_models.py), against
//! the folders that they are made from, transformers and llama.cpp.

use std::path::PathBuf;

use burn::tensor::DType;
use pv_data::gguf::{TensorType, Value, Writer};
use pv_model::config::DecoderConfig;
use pv_tests::{Random, compare, root};
use serde::Deserialize;

use super::made::load;
use super::refused::{refused, small_of};
use super::{logits, script_of, text};

const FOLDERS: [&str; 10] =
    ["gemma2", "gemma3", "phi3", "phi3-longrope", "olmo2", "granite", "glm4", "mixtral", "qwen3-moe", "gpt-oss"];

#[derive(Deserialize)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// The folder, with settings that a file can express.
    pub(super) folder: PathBuf,
    /// The prompts.
    pub(super) ids: Vec<Vec<u32>>,
    /// The log-probabilities of the next token after each.
    pub(super) transformers: Vec<Vec<f32>>,
    pub(super) llama: Vec<Option<Vec<f32>>>,
    /// The folder with experts in MXFP4.
    pub(super) packed: Option<PathBuf>,
}

#[test]
fn further_families_are_those_of_transformers_and_llama_cpp() {
    let place = tempfile::tempdir().expect("a folder");
    let mut folders: Vec<PathBuf> = FOLDERS.map(|name| root().join("tests/golden").join(name)).into();
    // The numbers of blocks of Gemma's models of 27B, whose scores have another scale.
    folders.extend(["gemma2:46", "gemma3:62"].map(|name| root().join("tests/golden").join(name)));
    let arguments: Vec<&str> =
        ["families", text(place.path())].into_iter().chain(folders.iter().map(|path| text(path))).collect();
    let Some(found) = script_of("gguf_models.py", &arguments, "") else { return };
    let models: Vec<Found> = serde_json::from_value(found).expect("models");
    assert_eq!(models.len(), folders.len());
    let mut compared = 0;
    for Found { path, folder, ids, transformers, llama, .. } in models {
        let name = folder.file_name().expect("a name").to_string_lossy();
        let [read, expected] = [&path, &folder].map(|path| DecoderConfig::from_folder(path).expect("a configuration"));
        assert_eq!(read.difference(&expected), None, "{name}");
        let (file, original) = (load(&path, None).expect("a model"), load(&folder, None).expect("a model"));
        let saved = place.path().join(format!("{name}-saved"));
        file.save(&saved, DType::F32).expect("a writable folder");
        let saved = load(&saved, None).expect("a model");
        for ((ids, transformers), llama) in ids.iter().zip(&transformers).zip(&llama) {
            let own = logits(&file, ids);
            let of_folder = logits(&original, ids);
            // Gemma's norms are rounded when 1 is added to their weights, and the rest is the same.
            let folder = compare("folder", &own, &of_folder);
            let bound = if name.starts_with("gemma") { 1e-5 } else { 0.0 };
            assert!(folder.max_abs <= bound, "{name}: {folder}");
            assert!(logits(&saved, ids) == own, "{name}");
            let own = log_softmax(&own[own.len() - expected.vocab..]);
            let transformers = compare("transformers", &own, transformers);
            assert!(transformers.max_abs < 1e-4, "{name}: {transformers}");
            // llama.cpp has tables of the nonlinearities in 16 bits.
            let llama = llama.as_ref().map(|llama| compare("llama.cpp", &own, llama));
            let most = llama.as_ref().map(|llama| llama.max_abs);
            println!("{name}, {} tokens: transformers {:.1e}, llama.cpp {most:.4?}", ids.len(), transformers.max_abs);
            assert!(most.is_none_or(|most| most < 0.02), "{name}: {llama:?}");
            compared += usize::from(most.is_some());
        }
    }
    assert_eq!(compared, 11 * 3 - 4);
}

pub(super) fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum = logits.iter().map(|logit| (f64::from(*logit) - most).exp()).sum::<f64>().ln() + most;
    logits.iter().map(|logit| (f64::from(*logit) - sum) as f32).collect()
}

#[test]
fn settings_of_further_families_that_are_not_supported_are_named() {
    let set = |key: &'static str, value: Value<'static>| {
        move |file: &mut Writer| {
            file.set(key, value);
        }
    };
    let with = |architecture: &'static str, change: &dyn Fn(&mut Writer)| {
        let all = |file: &mut Writer| {
            file.set("general.architecture", Value::String(architecture));
            change(file);
        };
        small_of(architecture, all, "", "F32")
    };
    let factors = |file: &mut Writer| {
        file.tensor("rope_factors_long.weight", &[8], TensorType::F32, &[0; 32]);
    };
    let f16 = TensorType::from_name("F16").expect("a type");
    let halves = |file: &mut Writer| {
        file.tensor("rope_factors_long.weight", &[8], f16, &[0; 16]);
        file.tensor("rope_factors_short.weight", &[8], f16, &[0; 16]);
    };
    let numbers = |file: &mut Writer| {
        file.set_array("gemma3.attention.sliding_window_pattern", &[1u32]);
    };
    let long = |file: &mut Writer| {
        file.set_array("gemma3.attention.sliding_window_pattern", &[true, false]);
        file.set("gemma3.attention.sliding_window", Value::U32(4));
    };
    for (bytes, parts) in [
        (with("granite", &|_| {}), &["granite.embedding_scale", "missing"][..]),
        (with("olmo2", &set("olmo2.attention.sliding_window", Value::U32(4))), &["olmo2.attention.sliding_window"]),
        (with("olmo2", &set("olmo2.rope.dimension_count", Value::U32(8))), &["olmo2.rope.dimension_count", "16"]),
        (with("gemma3", &numbers), &["gemma3.attention.sliding_window_pattern", "booleans"]),
        (with("gemma3", &long), &["layer_types", "1 blocks"]),
        (with("gemma3", &set("gemma3.attention.scale", Value::F32(0.5))), &["gemma3.attention.scale"]),
        (with("gemma2", &set("gemma2.attn_logit_softcapping", Value::F32(-1.0))), &["attn_logit_softcapping"]),
        (with("phi3", &factors), &["rope_factors_short.weight", "missing"]),
        (with("phi3", &halves), &["rope_factors_long.weight", "F16"]),
        (with("phi3", &set("phi3.rope.scaling.attn_factor", Value::F32(1.2))), &["attn_factor", "rope_factors_long"]),
        (with("phi3", &set("phi3.rope.dimension_count", Value::U32(18))), &["phi3.rope.dimension_count", "16"]),
        (with("phi3", &set("phi3.rope.dimension_count", Value::U32(7))), &["partial_rotary_factor", "7"]),
        (with("glm4", &set("glm4.nextn_predict_layers", Value::U32(1))), &["glm4.nextn_predict_layers"]),
        (with("gemma", &|_| {}), &["\"gemma\"", "gemma2, gemma3, phi3, olmo2, granite, glm4"]),
    ] {
        let said = refused(&bytes);
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
    }
}

/// A small file with all settings that an architecture reads, and a tokenizer.
fn full(architecture: &str) -> Vec<u8> {
    let change = |file: &mut Writer| {
        file.set("general.architecture", Value::String(architecture));
        let mut set = |name: &str, value: Value<'_>| {
            file.set(&format!("{architecture}.{name}"), value);
        };
        match architecture {
            "granite" => {
                for name in ["embedding_scale", "attention.scale", "residual_scale", "logit_scale"] {
                    set(name, Value::F32(0.5));
                }
            }
            "gemma2" | "gemma3" => {
                set("attention.sliding_window", Value::U32(8));
                set("final_logit_softcapping", Value::F32(30.0));
            }
            "phi3" => {
                set("rope.scaling.original_context_length", Value::U32(32));
                set("rope.scaling.attn_factor", Value::F32(1.1));
                set("attention.sliding_window", Value::U32(0));
            }
            "glm4" => set("rope.dimension_count", Value::U32(8)),
            _ => {}
        }
        if architecture == "gemma3" {
            set("rope.freq_base_swa", Value::F32(10_000.0));
            file.set_array("gemma3.attention.sliding_window_pattern", &[true]);
        }
        if architecture == "phi3" {
            for name in ["rope_factors_long.weight", "rope_factors_short.weight"] {
                file.tensor(name, &[8], TensorType::F32, &1.5f32.to_le_bytes().repeat(8));
            }
        }
        file.set("tokenizer.ggml.model", Value::String("llama"));
        file.set_array("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "a", "b", "ab", "\u{2581}", "<0x0A>", "  "]);
        file.set_array("tokenizer.ggml.scores", &[0f32, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]);
        file.set_array("tokenizer.ggml.token_type", &[2i32, 3, 3, 1, 1, 1, 1, 6, 4]);
        file.set("tokenizer.ggml.bos_token_id", Value::U32(1)).set("tokenizer.ggml.eos_token_id", Value::U32(2));
    };
    small_of(architecture, change, "", "F32")
}

#[test]
fn changed_files_are_errors_or_models() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("m.gguf");
    let mut random = Random(29);
    let mut errors = 0;
    for architecture in ["llama", "gemma2", "gemma3", "phi3", "olmo2", "granite", "glm4"] {
        let whole = full(architecture);
        std::fs::write(&path, &whole).expect("a file");
        DecoderConfig::from_folder(&path).expect("a configuration");
        let tokenizer = pv_model::Tokenizer::from_folder(&path).expect("a tokenizer");
        let ids = tokenizer.encode("ab  a", pv_model::tokenizer::AddSpecial::No).expect("ids");
        assert!(ids.ends_with(&[5, 8, 3]) || ids.ends_with(&[5, 8, 6, 3]), "{architecture}: {ids:?}");
        let metadata = whole.len().min(2500) as u64;
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(2) {
                bytes[random.below(metadata) as usize] = random.below(256) as u8;
            }
            std::fs::write(&path, &bytes).expect("a file");
            let found = DecoderConfig::from_folder(&path).is_ok() && pv_model::Tokenizer::from_folder(&path).is_ok();
            errors += usize::from(!found);
            // The weights are those of a Llama, so that others have no model.
            let _ = load(&path, None);
        }
    }
    println!("{errors} of 2100 changed files are refused");
    assert!(errors > 500);
}
