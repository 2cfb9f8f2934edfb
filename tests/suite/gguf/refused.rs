//! Small files with what is not supported, and with what only some files have.

use burn::tensor::DType;
use pv_data::gguf::{TensorType, Value, Writer};
use pv_model::CausalLm;
use pv_model::tokenizer::AddSpecial;

use super::made::load;

/// The error of a file's model, with its causes.
pub(super) fn refused(bytes: &[u8]) -> String {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("m.gguf");
    std::fs::write(&path, bytes).expect("a file");
    let mut error: &dyn std::error::Error = &load(&path, None).expect_err("not a model");
    let mut said = error.to_string();
    while let Some(source) = error.source() {
        said = format!("{said}: {source}");
        error = source;
    }
    said
}

/// A small whole model, changed by `change` before its tensors are added.
fn small(change: impl Fn(&mut Writer), skip: &str, kind: &str) -> Vec<u8> {
    small_of("llama", change, skip, kind)
}

/// Like [`small`], with the settings of another architecture.
pub(super) fn small_of(architecture: &str, change: impl Fn(&mut Writer), skip: &str, kind: &str) -> Vec<u8> {
    let mut file = Writer::default();
    change(&mut file);
    for (key, value) in [
        ("embedding_length", 32u32),
        ("block_count", 1),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("context_length", 64),
    ] {
        if key != skip {
            file.set(&format!("{architecture}.{key}"), Value::U32(value));
        }
    }
    file.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
    let kind = TensorType::from_name(kind).expect("a type");
    let mut add = |name: &str, shape: &[usize]| {
        let kind = if shape.len() == 2 { kind } else { TensorType::F32 };
        let row = kind.bytes(shape[0] as u64).expect("whole blocks") as usize;
        if name != skip {
            file.tensor(name, shape, kind, &vec![0; row * shape.iter().skip(1).product::<usize>()]);
        }
    };
    add("token_embd.weight", &[32, 10]);
    add("output_norm.weight", &[32]);
    for name in ["attn_norm", "ffn_norm"] {
        add(&format!("blk.0.{name}.weight"), &[32]);
    }
    for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
        add(&format!("blk.0.{name}.weight"), &[32, 32]);
    }
    add("blk.0.ffn_gate.weight", &[32, 64]);
    add("blk.0.ffn_up.weight", &[32, 64]);
    add("blk.0.ffn_down.weight", &[64, 32]);
    file.finish()
}

#[test]
fn what_is_not_supported_is_named() {
    let with = |key: &'static str, value: Value<'static>| {
        move |file: &mut Writer| {
            if key != "general.architecture" {
                file.set("general.architecture", Value::String("llama"));
            }
            file.set(key, value);
        }
    };
    let plain = with("general.name", Value::String("small"));
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("small.gguf");
    std::fs::write(&path, small(plain, "", "F32")).expect("a file");
    let model = load(&path, None).expect("a model");
    assert!(model.tokenizer().is_err() && model.chat_template().is_err());
    assert_eq!((model.name(), model.config().kv_heads, model.config().head_dim), ("small.gguf", 2, 16));

    for (bytes, parts) in [
        (small(with("general.architecture", Value::String("mamba")), "", "F32"), &["mamba", "qwen3"][..]),
        (small(|_| {}, "", "F32"), &["general.architecture", "missing"]),
        (small(plain, "block_count", "F32"), &["llama.block_count", "missing"]),
        (small(plain, "attn_q", "F32").split_at(64).0.to_vec(), &["counts", "m.gguf"]),
        (small(plain, "blk.0.attn_q.weight", "F32"), &["model.layers.0.self_attn.q_proj.weight"]),
        (small(plain, "token_embd.weight", "F32"), &["token_embd.weight", "missing"]),
        (small(plain, "", "IQ4_NL"), &["IQ4_NL", "Q4_K"]),
        (small(with("llama.expert_used_count", Value::U32(2)), "", "F32"), &["llama.expert_used_count", "2"]),
        (small(with("llama.logit_scale", Value::F32(0.5)), "", "F32"), &["llama.logit_scale"]),
        (small(with("llama.attention.head_count_kv", Value::String("2")), "", "F32"), &["head_count_kv"]),
        (small(with("llama.attention.key_length", Value::U32(8)), "", "F32"), &["q_proj", "[16, 32]"]),
        (small(with("llama.attention.value_length", Value::U32(8)), "", "F32"), &["value_length", "16"]),
        (small(with("llama.rope.dimension_count", Value::U32(8)), "", "F32"), &["rope.dimension_count"]),
        (small(with("llama.rope.scaling.type", Value::String("longrope")), "", "F32"), &["rope.scaling.factor"]),
        (small(with("tokenizer.ggml.model", Value::String("t5")), "", "F32"), &["t5", "gpt2"]),
        (small(with("tokenizer.ggml.model", Value::String("gpt2")), "", "F32"), &["tokenizer.ggml"]),
        (small(with("tokenizer.ggml.bos_token_id", Value::I32(-1)), "", "F32"), &["bos_token_id"]),
    ] {
        let said = refused(&bytes);
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
    }
    // Experts that a file counts as none, and lists with one value.
    let lists = |file: &mut Writer| {
        file.set("general.architecture", Value::String("llama")).set("llama.expert_count", Value::U32(0));
        file.set_array("llama.attention.head_count_kv", &[2i32; 1]);
    };
    std::fs::write(&path, small(lists, "", "Q8_0")).expect("a file");
    let model = load(&path, None).expect("a model");
    assert_eq!(model.decoder().packed_formats().as_deref(), Some("Q8_0"));
}

#[test]
fn tokenizers_that_are_not_supported_are_named() {
    let with = |change: &dyn Fn(&mut Writer)| {
        let all = |file: &mut Writer| {
            file.set("general.architecture", Value::String("llama"));
            change(file);
        };
        small(all, "", "F32")
    };
    let kind = |file: &mut Writer, kind: &str| {
        file.set("tokenizer.ggml.model", Value::String(kind));
    };
    for (bytes, parts) in [
        (
            with(&|file| {
                kind(file, "gpt2");
                file.set("tokenizer.ggml.pre", Value::String("viking"));
            }),
            &["tokenizer.ggml.pre", "viking", "llama-bpe"][..],
        ),
        (
            with(&|file| {
                kind(file, "gpt2");
                file.set_array("tokenizer.ggml.tokens", &["a", "b", "a"]).set_array("tokenizer.ggml.merges", &["a b"]);
            }),
            &["0", "2", "\"a\""],
        ),
        (
            with(&|file| {
                kind(file, "llama");
                file.set_array("tokenizer.ggml.tokens", &["a", "b"]);
            }),
            &["tokenizer.ggml.scores"],
        ),
        (
            with(&|file| {
                kind(file, "llama");
                file.set_array("tokenizer.ggml.tokens", &["a", "b"]).set_array("tokenizer.ggml.scores", &[0f32]);
            }),
            &["tokenizer.ggml.scores", "2"],
        ),
        (
            with(&|file| {
                kind(file, "llama");
                file.set_array("tokenizer.ggml.tokens", &["a"]).set_array("tokenizer.ggml.token_type", &[9i32]);
            }),
            &["tokenizer.ggml.token_type"],
        ),
        (
            with(&|file| {
                kind(file, "llama");
                file.set_array("tokenizer.ggml.tokens", &["a".repeat(600).as_str()]);
                file.set_array("tokenizer.ggml.scores", &[0f32]);
            }),
            &["600", "512"],
        ),
        (
            with(&|file| {
                kind(file, "llama");
                file.set_array("tokenizer.ggml.tokens", &["a"]).set_array("tokenizer.ggml.scores", &[0f32]);
                file.set_array("tokenizer.ggml.precompiled_charsmap", &[1u8]);
            }),
            &["precompiled_charsmap"],
        ),
    ] {
        let said = refused(&bytes);
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
    }
}

#[test]
fn templates_and_ends_are_read() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("m.gguf");
    let change = |file: &mut Writer| {
        file.set("general.architecture", Value::String("llama")).set("tokenizer.ggml.model", Value::String("gpt2"));
        let tokens = ["a", "b", "<|start|>", "</s>", "<|eot_id|>", "<|im_end|>", "<tool>", "ab"];
        file.set_array("tokenizer.ggml.tokens", &tokens).set_array("tokenizer.ggml.merges", &["a b"]);
        // The sixth is a normal token, whatever its text.
        file.set_array("tokenizer.ggml.token_type", &[1i32, 1, 3, 3, 3, 1, 4, 1]);
        file.set("tokenizer.ggml.pre", Value::String("llama-bpe"));
        file.set("tokenizer.ggml.bos_token_id", Value::U32(2)).set("tokenizer.ggml.eos_token_id", Value::U32(3));
        file.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
        file.set("tokenizer.chat_template", Value::String("{{ bos_token }}a"));
        file.set("tokenizer.chat_template.tool_use", Value::String("b{{ eos_token }}"));
        file.set_array("tokenizer.chat_templates", &["tool_use"]);
    };
    std::fs::write(&path, small(change, "", "F32")).expect("a file");
    let model = load(&path, None).expect("a model");
    assert_eq!(model.stop_ids(), [3, 4]);
    let tokenizer = model.tokenizer().expect("a tokenizer");
    // BOS by the pre-tokenizer's name, EOS by the file's flag.
    assert_eq!(tokenizer.encode("ab<tool>a", AddSpecial::Yes).expect("ids"), [2, 7, 6, 0, 3]);
    assert_eq!(tokenizer.encode("ab", AddSpecial::No).expect("ids"), [7]);
    assert_eq!(tokenizer.decode(&[2, 7, 6, 3], true).expect("text"), "ab<tool>");
    let template = model.chat_template().expect("templates");
    assert_eq!(template.names().collect::<Vec<_>>(), ["default", "tool_use"]);
    assert_eq!(model.prompt(&[pv_model::Message::user("x")]).expect("a prompt"), [2, 0]);
    // A saved model has the tokenizer and the templates in files.
    model.save(place.path().join("saved"), DType::F32).expect("a writable folder");
    let saved = load(&place.path().join("saved"), None).expect("a model");
    assert_eq!(saved.stop_ids(), model.stop_ids());
    assert_eq!(
        saved.tokenizer().expect("a tokenizer").encode("ab<tool>a", AddSpecial::Yes).expect("ids"),
        [2, 7, 6, 0, 3]
    );
    assert_eq!(saved.chat_template().expect("templates").source("tool_use"), template.source("tool_use"));
}

#[test]
fn missing_files_and_folders_of_files_are_explained() {
    let place = tempfile::tempdir().expect("a folder");
    let missing =
        CausalLm::load(place.path().join("no.gguf").to_str().expect("UTF-8")).expect_err("no file").to_string();
    assert!(missing.contains("no.gguf"), "{missing}");
    std::fs::write(place.path().join("m.gguf"), small(|_| {}, "", "F32")).expect("a file");
    let folder = load(place.path(), None).expect_err("a folder").to_string();
    assert!(folder.contains("m.gguf") && folder.contains("path"), "{folder}");
}
