//! git-lfs pointers instead of files.

use std::error::Error as StdError;

use pv_data::conversations::read_conversations;
use pv_judge::TraitSpec;
use pv_model::folder::FolderError;
use pv_model::tokenizer::eos_ids;
use pv_model::weights::WeightFiles;
use pv_model::{Adapter, DecoderConfig};
use pv_vectors::PersonaVector;
use pv_vectors::files::ImportOptions;

use super::*;

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
    oid sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\nsize 4297056\n";

/// The error of opening a folder in which these files are pointers.
fn with_pointers(files: &[&str]) -> Error {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&organism(), folder.path());
    for file in files {
        std::fs::create_dir_all(folder.path().join(file).parent().expect("a folder")).expect("a writable folder");
        std::fs::write(folder.path().join(file), POINTER).expect("a writable folder");
    }
    load(folder.path()).expect_err("a pointer")
}

#[test]
fn a_pointer_in_a_model_folder_is_reported() {
    for file in [
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
    ] {
        let error = with_pointers(&[file]);
        assert!(
            matches!(
                error.folder(),
                Some(FolderError::GitLfsPointer { path, size: Some(4_297_056) }) if path.ends_with(file)
            ),
            "{error}"
        );
        assert!(error.to_string().contains("git lfs pull"), "{error}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    copy(&organism(), folder.path());
    std::fs::remove_file(folder.path().join("model.safetensors")).expect("a file");
    let index = json!({ "metadata": null, "weight_map": { "model.norm.weight": "model-00001-of-00001.safetensors" } });
    write(folder.path(), "model.safetensors.index.json", &index);
    for file in ["model-00001-of-00001.safetensors", "model.safetensors.index.json"] {
        std::fs::write(folder.path().join(file), POINTER).expect("a writable folder");
        let error = load(folder.path()).expect_err("a pointer");
        let named = matches!(error.folder(), Some(FolderError::GitLfsPointer { path, .. }) if path.ends_with(file));
        assert!(named, "{error}");
    }
}

fn outcome<T, E: StdError + 'static>(read: Result<T, E>) -> Result<(), Box<dyn StdError>> {
    read.map(|_| ()).map_err(Into::into)
}

#[test]
fn every_reader_detects_a_pointer() {
    type Read = fn(&Path) -> Result<(), Box<dyn StdError>>;
    let readers: [(&str, Read); 17] = [
        ("config.json", |path| outcome(DecoderConfig::from_folder(path.parent().unwrap_or(path)))),
        ("generation_config.json", |path| outcome(eos_ids(path.parent().unwrap_or(path)))),
        ("weights.safetensors", |path| outcome(WeightFiles::open_file(path))),
        ("adapter_model.safetensors", |path| outcome(Adapter::load(path.parent().unwrap_or(path)))),
        ("adapter_config.json", |path| outcome(Adapter::load(path.parent().unwrap_or(path)))),
        ("data.jsonl", |path| outcome(read_conversations(path))),
        ("data.jsonl.gz", |path| outcome(read_conversations(path))),
        ("data.jsonl.zst", |path| outcome(read_conversations(path))),
        ("data.csv", |path| outcome(read_conversations(path))),
        ("data.parquet", |path| outcome(read_conversations(path))),
        ("vector.safetensors", |path| outcome(PersonaVector::load(path))),
        ("vector.safetensors", |path| outcome(pv_vectors::files::import(path, &ImportOptions::default()))),
        ("vector.pt", |path| outcome(pv_vectors::files::import(path, &ImportOptions::default()))),
        ("vector.gguf", |path| outcome(pv_vectors::files::import(path, &ImportOptions::default()))),
        ("trait.json", |path| outcome(TraitSpec::load(path))),
        ("mmlu.csv", |path| outcome(pv_train::measure::mmlu::Question::read_csv(path, "anatomy"))),
        ("mmlu.parquet", |path| outcome(pv_train::measure::mmlu::Question::read_parquet(path))),
    ];
    for (file, read) in readers {
        let folder = tempfile::tempdir().expect("a folder");
        if file.starts_with("adapter") {
            for file in ["adapter_model.safetensors", "adapter_config.json"] {
                write(
                    folder.path(),
                    file,
                    &json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"] }),
                );
            }
        }
        let path = folder.path().join(file);
        std::fs::write(&path, POINTER).expect("a writable folder");
        let said = chain(&*read(&path).expect_err("a pointer"));
        assert!(said.contains("git-lfs") && said.contains("git lfs pull") && said.contains(file), "{file}: {said}");
    }
}
