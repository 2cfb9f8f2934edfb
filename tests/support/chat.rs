//! A very small chat model: the decoder of a golden folder, a tokenizer of bytes and a plain template.

use std::path::Path;

use burn::tensor::{DType, Device};
use pv_model::decoder::Decoder;
use pv_model::{CausalLm, ChatTemplate, Tokenizer};
use serde_json::{Map, Value, json};

/// The tokens that end an answer of [`chat_model`]: one in sixteen of the vocabulary, so that answers of a model with
/// random weights have about sixteen tokens, and some have none.
pub const STOP_TOKENS: std::ops::Range<u32> = 300..320;

/// A chat model with the random weights of `tests/golden/{name}`, for which every byte is a token. The ids from 256 on
/// are in its vocabulary of 320 but have no text. `folder` is where the tokenizer's files are written.
///
/// # Panics
/// When a file cannot be written or read.
pub fn chat_model(name: &str, folder: &Path, device: &Device) -> CausalLm {
    let mut spare = 255;
    let byte = |byte: u32| {
        let shown = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        spare += u32::from(!shown);
        char::from_u32(if shown { byte } else { spare }).expect("a character")
    };
    let vocabulary: Map<String, Value> = (0..256).map(byte).map(String::from).zip((0..256).map(Value::from)).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    });
    let write = |file: &str, value: Value| std::fs::write(folder.join(file), value.to_string()).expect("a file");
    write("tokenizer.json", tokenizer);
    write("generation_config.json", json!({"eos_token_id": STOP_TOKENS.collect::<Vec<u32>>()}));
    let tokenizer = Tokenizer::from_folder(folder).expect("a tokenizer");
    let template = "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}\n{% endfor %}\
        {% if add_generation_prompt %}<a>{% endif %}";
    let template = ChatTemplate::from_source(template, Map::new()).expect("a template");
    let golden = crate::root().join("tests/golden").join(name);
    let decoder = Decoder::from_folder(&golden, device, DType::F32).expect("a model folder");
    CausalLm::new(decoder, Some(tokenizer), Some(template), &golden)
}
