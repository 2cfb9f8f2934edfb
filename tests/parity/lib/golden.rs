//! Reference folders: a small model in Hugging Face's layout, and what transformers computes on it.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A reference folder's numbers.
#[derive(Debug)]
pub struct Golden {
    /// The folder, which is a model folder too.
    pub folder: PathBuf,
    bytes: Vec<u8>,
    settings: Value,
}

/// The model folders in `tests/golden`, and those of the colon-separated variable `PV_GOLDEN_DIRS`.
///
/// # Panics
/// If a folder of the variable does not exist, or `tests/golden` is unreadable.
pub fn golden_folders() -> Vec<PathBuf> {
    let own = crate::root().join("tests/golden");
    let entries = std::fs::read_dir(&own).unwrap_or_else(|error| panic!("{}: {error}", own.display()));
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.retain(|folder| folder.join("config.json").is_file());
    folders.sort();
    assert!(folders.len() >= 5, "{} lost its folders", own.display());
    let extra = std::env::var("PV_GOLDEN_DIRS").unwrap_or_default();
    for folder in extra.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from) {
        let folder = if folder.is_relative() { crate::root().join(folder) } else { folder };
        assert!(folder.join("golden.safetensors").is_file(), "PV_GOLDEN_DIRS: {} is no such folder", folder.display());
        folders.push(folder);
    }
    folders
}

impl Golden {
    /// Reads a folder's numbers.
    ///
    /// # Panics
    /// When they are unreadable.
    pub fn open(folder: &Path) -> Self {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let settings = serde_json::from_slice(&read("golden.json")).expect("golden.json is JSON");
        Self { folder: folder.to_owned(), bytes: read("golden.safetensors"), settings }
    }

    /// A value of `golden.json`.
    pub fn setting(&self, pointer: &str) -> &Value {
        self.settings.pointer(pointer).unwrap_or_else(|| panic!("{}: no {pointer}", self.folder.display()))
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("golden.safetensors is whole")
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).unwrap_or_else(|_| panic!("no {name}")).shape().to_vec()
    }

    /// A tensor of f32.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// A tensor of token ids or flags, stored as i64.
    pub fn integers(&self, name: &str) -> Vec<u32> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
        assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
        let values = tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")));
        values.map(|value| u32::try_from(value).expect("a token id")).collect()
    }
}
