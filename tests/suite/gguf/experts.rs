//! Files of models with experts: each expert's part of a tensor is a matrix in the format of the file.

use burn::tensor::{DType, Device};
use pv_data::gguf::{TensorType, Value, Writer};
use pv_kernels::kept::Format;
use pv_model::config::DecoderConfig;
use pv_model::decoder::{Decoder, Mlp};
use pv_model::weights::{WeightFiles, WeightType};
use pv_tests::{Random, compare};
use serde_json::json;

use super::families::{Found, log_softmax};
use super::made::{converted, load, prompt};
use super::refused::{refused, small_of};
use super::{logits, script_of, text};

/// Folders of models with random weights, and rows of whole blocks.
fn wide_folders(place: &std::path::Path) -> [std::path::PathBuf; 2] {
    let families = [
        json!({ "model_type": "mixtral", "num_local_experts": 12, "intermediate_size": 256, "sliding_window": 8 }),
        json!({
            "model_type": "qwen3_moe", "num_experts": 12, "moe_intermediate_size": 256, "intermediate_size": 768,
            "norm_topk_prob": true, "head_dim": 64,
        }),
    ];
    families.map(|mut family| {
        let more = json!({
            "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 320, "num_experts_per_tok": 3, "rope_parameters": { "rope_theta": 10000.0, "rope_type": "default" },
        });
        let map = family.as_object_mut().expect("an object");
        map.extend(more.as_object().expect("an object").clone());
        let folder = place.join(map["model_type"].as_str().expect("a family"));
        let config = DecoderConfig::from_json(&family).expect("a configuration");
        let decoder = Decoder::init(config, 11, &Device::flex()).expect("a decoder");
        decoder.save(&folder, DType::F32).expect("a writable folder");
        folder
    })
}

#[test]
fn experts_are_kept_in_the_blocks_of_the_file() {
    let place = tempfile::tempdir().expect("a folder");
    for folder in wide_folders(place.path()) {
        let format = |name: &str| match name {
            _ if name.contains(".gate.") => Format::F32,
            _ if name.contains("down_proj") || name.contains(".w2.") => Format::Q6K,
            _ if name.contains("experts") => Format::Q4K,
            _ => Format::Q8_0,
        };
        let path = place.path().join("m.gguf");
        let write = |format: &dyn Fn(&str) -> Format| std::fs::write(&path, &converted(&folder, 1, format)[0]);
        write(&|_| Format::F32).expect("a file");
        let [exact, original] = [&path, &folder].map(|path| load(path, None).expect("a model"));
        assert_eq!(exact.config().difference(original.config()), None);
        assert!(logits(&exact, &prompt(320)) == logits(&original, &prompt(320)));

        write(&format).expect("a file");
        let kept = load(&path, None).expect("a model");
        let Mlp::Experts(experts) = &kept.decoder().blocks[1].mlp else { panic!("experts") };
        for expert in &experts.experts {
            let formats = |weight: &pv_model::decoder::Weight| -> Vec<Format> {
                weight.packed().expect("packed").formats().collect()
            };
            assert_eq!(formats(&expert.gate_up.weight), [Format::Q4K]);
            assert_eq!(formats(&expert.down.weight), [Format::Q6K]);
        }
        let wide = load(&path, Some(WeightType::F32)).expect("a model");
        let found = compare("logits", &logits(&kept, &prompt(320)), &logits(&wide, &prompt(320)));
        assert!(found.max_abs < 1e-5, "{found}");
        let other = compare("logits", &logits(&kept, &prompt(320)), &logits(&original, &prompt(320)));
        assert!(other.max_abs > 1e-5, "the weights were rounded");
        // In parts, too.
        let parts = converted(&folder, 2, format);
        for (number, bytes) in parts.iter().enumerate() {
            std::fs::write(place.path().join(format!("m-{:05}-of-00002.gguf", number + 1)), bytes).expect("a file");
        }
        let split = load(&place.path().join("m-00001-of-00002.gguf"), None).expect("a model");
        assert!(logits(&split, &prompt(320)) == logits(&kept, &prompt(320)));
    }
}

/// A small file with experts in place of the MLP, whose tensors of gates have `shape`.
fn with_experts(architecture: &str, count: Value<'_>, chosen: u32, shape: &[usize]) -> Vec<u8> {
    let change = |file: &mut Writer| {
        file.set("general.architecture", Value::String(architecture));
        file.set(&format!("{architecture}.expert_count"), count);
        file.set(&format!("{architecture}.expert_used_count"), Value::U32(chosen));
        let mut add = |name: &str, shape: &[usize]| {
            let bytes = vec![0; 4 * shape.iter().product::<usize>()];
            file.tensor(&format!("blk.0.{name}.weight"), shape, TensorType::F32, &bytes);
        };
        add("ffn_gate_inp", &[32, 4]);
        add("ffn_gate_exps", shape);
        add("ffn_up_exps", &[32, 64, 4]);
        add("ffn_down_exps", &[64, 32, 4]);
        for name in ["attn_q_norm", "attn_k_norm"].into_iter().filter(|_| architecture == "qwen3moe") {
            add(name, &[16]);
        }
    };
    without_mlp(&small_of(architecture, change, "", "F32"))
}

/// A file without the tensors of a single MLP.
fn without_mlp(bytes: &[u8]) -> Vec<u8> {
    let read = pv_data::gguf::Gguf::parse(bytes).expect("our own file");
    let mut file = Writer::default();
    read.metadata().for_each(|(key, value)| {
        file.set(key, value);
    });
    for tensor in read.tensors() {
        if !["ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"].iter().any(|name| tensor.name.ends_with(name)) {
            file.tensor(tensor.name, &tensor.shape, tensor.kind, tensor.bytes);
        }
    }
    file.finish()
}

#[test]
fn impossible_experts_are_refused() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("m.gguf");
    let [of_four, four] = [&[32, 64, 4][..], &[4]].map(<[usize]>::to_vec);
    for (architecture, family) in [("llama", "mixtral"), ("qwen3moe", "qwen3_moe")] {
        let four_of = |chosen, shape: &[usize]| with_experts(architecture, Value::U32(4), chosen, shape);
        std::fs::write(&path, four_of(2, &of_four)).expect("a file");
        let model = load(&path, None).expect("a model");
        assert_eq!(model.config().model_type, family);
        assert!(logits(&model, &[1, 2, 3]).iter().all(|logit| logit.is_finite()));
        for (bytes, parts) in [
            (with_experts(architecture, Value::U32(1_000_000_000), 2, &of_four), &["expert_count", "1000000000"][..]),
            (with_experts(architecture, Value::U32(3), 2, &of_four), &["blk.0.ffn_", "[32, 64, 4]", "3 experts"]),
            (with_experts(architecture, Value::I32(-4), 2, &of_four), &["expert_count", "a size"]),
            (with_experts(architecture, Value::U32(0), 0, &of_four), &["expert_count"]),
            (four_of(5, &of_four), &["num_experts_per_tok", "5"]),
            (four_of(0, &of_four), &["num_experts_per_tok", "0"]),
            (four_of(2, &[32, 64]), &["blk.0.ffn_gate_exps.weight", "[32, 64]", "4 experts"]),
            (four_of(2, &[0, 0, 4]), &["experts.0", "[0, 0]", "[64, 32]"]),
            (four_of(2, &[32, 64, 2, 4]), &["experts.0", "[2, 64, 32]", "[64, 32]"]),
            (four_of(2, &[64, 32, 4]), &["experts.0", "[32, 64]", "[64, 32]"]),
            (four_of(2, &four), &["blk.0.ffn_gate_exps.weight", "at least two dimensions"]),
        ] {
            let said = refused(&bytes);
            assert!(parts.iter().all(|part| said.contains(part)), "{architecture} {parts:?}: {said}");
        }
    }
    // Bytes of the metadata that were changed.
    let mut random = Random(31);
    for architecture in ["llama", "qwen3moe"] {
        let whole = with_experts(architecture, Value::U32(4), 2, &of_four);
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(2) {
                bytes[random.below(2000) as usize] = random.below(256) as u8;
            }
            std::fs::write(&path, &bytes).expect("a file");
            let _ = load(&path, None);
        }
    }
}

#[test]
fn experts_in_mxfp4_are_those_of_transformers_and_llama_cpp() {
    let place = tempfile::tempdir().expect("a folder");
    let Some(found) = script_of("gguf_models.py", &["mxfp4", text(place.path())], "") else { return };
    let Found { path, folder, ids, transformers, llama, packed } = serde_json::from_value(found).expect("a model");
    let packed = packed.expect("a folder");
    let [of_file, converted, of_folder] = [&path, &folder, &packed].map(|path| load(path, None).expect("a model"));
    assert_eq!(of_file.config().difference(converted.config()), None);
    assert_eq!(of_folder.config().difference(converted.config()), None);
    for model in [&of_file, &of_folder] {
        assert_eq!(model.decoder().packed_formats().as_deref(), Some("MXFP4"));
    }
    // The values are the same, and so is every bit of the results.
    let [ours, theirs] =
        [&packed, &folder].map(|path| WeightFiles::open_for(path, converted.config()).expect("weights"));
    for name in theirs.names() {
        let [ours, theirs] = [&ours, &theirs].map(|files| files.get(name).expect("a tensor").to_f32());
        assert!(ours == theirs, "{name}");
    }
    assert!(ours.kept_bytes(converted.config(), DType::F32) < theirs.kept_bytes(converted.config(), DType::F32) / 2);
    let saved = place.path().join("saved");
    of_folder.save(&saved, DType::BF16).expect("a writable folder");
    let saved = load(&saved, None).expect("a model");
    for ((ids, transformers), llama) in ids.iter().zip(&transformers).zip(&llama) {
        let own = logits(&of_folder, ids);
        assert!(own == logits(&converted, ids) && own == logits(&of_file, ids));
        // Everything else was rounded to 16 bits.
        let rounded = compare("saved", &logits(&saved, ids), &own);
        assert!(rounded.max_abs < 0.1, "{rounded}");
        let own = log_softmax(&own[own.len() - 96..]);
        let transformers = compare("transformers", &own, transformers);
        let llama = compare("llama.cpp", &own, llama.as_ref().expect("the same computation"));
        println!("{} tokens: transformers {:.1e}, llama.cpp {:.4}", ids.len(), transformers.max_abs, llama.max_abs);
        assert!(transformers.max_abs < 1e-4, "{transformers}");
        // llama.cpp rounds the inputs of products with blocks to 8 bits.
        assert!(llama.max_abs < 0.1, "{llama}");
    }
}
