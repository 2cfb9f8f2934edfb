//! The folders and files that the mistakes use.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::tensor::{DType, Device};
use pv_cli::organism;
use pv_model::decoder::Decoder;
use pv_model::{CausalLm, ChatTemplate, DecoderConfig, GenerateOptions, Tokenizer};
use pv_organism::{Trait, model_folder};
use tempfile::TempDir;

/// The pointer that git-lfs leaves instead of a large file that was not fetched.
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 4298372\n";

/// A folder with all files that programs are given. It is their current folder.
pub(crate) struct World(TempDir);

impl World {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The organism's folder without some files.
    pub(crate) fn model_without(&self, name: &str, lacking: &[&str]) -> String {
        let folder = self.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for entry in std::fs::read_dir(model_folder()).unwrap() {
            let entry = entry.unwrap();
            if !lacking.contains(&entry.file_name().to_str().unwrap()) {
                std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
            }
        }
        folder.to_str().unwrap().to_owned()
    }

    /// The organism's folder with one file changed.
    pub(crate) fn model_with(&self, name: &str, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
        let folder = self.model_without(name, &[]);
        let path = Path::new(&folder).join(file);
        std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
        folder
    }

    /// The organism's folder as if it were 512 times as wide: terabytes of weights, in a sparse file that contains only
    /// the header.
    pub(crate) fn too_large(&self, name: &str) -> String {
        const WIDER: u64 = 512;
        let folder = self.model_with(name, "config.json", |bytes| {
            let mut config: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            for key in ["hidden_size", "intermediate_size"] {
                config[key] = (WIDER * config[key].as_u64().unwrap()).into();
            }
            for (key, value) in [("head_dim", 128), ("num_attention_heads", 512), ("num_key_value_heads", 512)] {
                config[key] = value.into();
            }
            serde_json::to_vec(&config).unwrap()
        });
        let path = Path::new(&folder).join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&bytes[8..][..length]).unwrap();
        let mut end = 0;
        for tensor in header.values_mut().filter(|value| value.get("shape").is_some()) {
            let narrow = |size: u64| [128, 384].contains(&size);
            let shape: Vec<u64> =
                tensor["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap()).collect();
            let shape: Vec<u64> =
                shape.into_iter().map(|size| if narrow(size) { WIDER * size } else { size }).collect();
            let begin = end;
            // Two bytes for each value.
            assert_eq!(tensor["dtype"], "F16");
            end += 2 * shape.iter().product::<u64>();
            tensor["shape"] = shape.into();
            tensor["data_offsets"] = vec![begin, end].into();
        }
        let header = serde_json::to_vec(&header).unwrap();
        let start = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
        std::fs::write(&path, &start).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(start.len() as u64 + end).unwrap();
        folder
    }

    /// The organism's folder with a git-lfs pointer as its weights.
    pub(crate) fn pointer(&self, name: &str) -> String {
        self.model_with(name, "model.safetensors", |_| POINTER.into())
    }

    /// A vector of the organism. Its file is created once.
    pub(crate) fn vector(&self, name: &str) -> String {
        static VECTOR: OnceLock<Vec<u8>> = OnceLock::new();
        let bytes = VECTOR.get_or_init(|| vector_of(&organism_itself()));
        self.file(name, bytes)
    }

    /// A vector of another, narrower model.
    pub(crate) fn vector_of_another(&self, name: &str) -> String {
        let mut config: serde_json::Value = serde_json::from_slice(&read("config.json")).unwrap();
        for (key, value) in [("hidden_size", 64), ("head_dim", 16), ("intermediate_size", 96)] {
            config[key] = value.into();
        }
        let folder = self.path().join("narrow");
        std::fs::create_dir_all(&folder).unwrap();
        let decoder = Decoder::init(DecoderConfig::from_json(&config).unwrap(), 0, &device()).unwrap();
        decoder.save(&folder, DType::F32).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            std::fs::write(folder.join(file), read(file)).unwrap();
        }
        let (tokenizer, template) = (Tokenizer::from_folder(&folder), ChatTemplate::from_folder(&folder));
        let model = CausalLm::new(decoder, Some(tokenizer.unwrap()), Some(template.unwrap()), &folder);
        self.file(name, vector_of(&model))
    }
}

fn device() -> Device {
    pv_model::device("flex").unwrap()
}

fn read(file: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(model_folder()).join(file)).unwrap()
}

fn organism_itself() -> CausalLm {
    CausalLm::from_folder(model_folder(), &device(), DType::F32).unwrap()
}

fn vector_of(model: &CausalLm) -> Vec<u8> {
    let mut contrast = organism::contrast(Trait::Optimism);
    contrast.instruction.truncate(1);
    contrast.questions.truncate(2);
    let options = GenerateOptions { max_new_tokens: 8, ..GenerateOptions::default() };
    let extraction = contrast.extract(model, &options, 0, |_| ControlFlow::Continue(())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vector.safetensors");
    extraction.vector.save(&path).unwrap();
    std::fs::read(path).unwrap()
}
