//! Model folders and other files as they occur in practice: pointers instead of files, null values, models that are too large, saved
//! folders; and unbounded input.

mod limits;
mod pointers;
mod saved;

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use pv_model::decoder::Decoder;
use pv_model::{CausalLm, DecoderConfig, Error};
use pv_tests::root;
use serde_json::{Value, json};

fn organism() -> PathBuf {
    root().join("crates/pv-organism/model")
}

fn load(folder: &Path) -> Result<CausalLm, Error> {
    CausalLm::from_folder(folder, &Device::flex(), DType::F32)
}

/// Copies a folder with its subfolders.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a writable folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, &target).expect("a writable folder")),
        }
    }
}

fn write(folder: &Path, file: &str, value: &Value) {
    std::fs::write(folder.join(file), value.to_string()).expect("a writable folder");
}

/// A small Llama, with some of its settings changed.
fn config(changes: &Value) -> DecoderConfig {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": 60, "max_position_embeddings": 64, "tie_word_embeddings": true,
    });
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    DecoderConfig::from_json(&config).expect("a configuration")
}

/// A model without a tokenizer, with random weights.
fn model(changes: &Value) -> CausalLm {
    let decoder = Decoder::init(config(changes), 3, &Device::flex()).expect("a decoder");
    CausalLm::new(decoder, None, None, "made up")
}

/// An error and its causes, as programs show them.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
