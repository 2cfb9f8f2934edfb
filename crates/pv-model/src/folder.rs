//! The files of a model folder: bounded reads, and the description of a folder that lacks a file.

mod error;

use std::io::{ErrorKind, Read};
use std::path::Path;

use pv_data::FileError;
use pv_data::files::open_file;
use serde_json::{Map, Value};

use crate::gguf;
pub use error::{FolderContent, FolderError};

/// The limit on the size of a configuration file.
const MAX_BYTES: u64 = 64 << 20;

/// The files of a model folder, or those that a GGUF file stands for.
pub(crate) struct Files<'a> {
    path: &'a Path,
    gguf: Option<gguf::Model<'a>>,
}

/// Calls `work` with the files of the folder at `path`. A GGUF file in its place is mapped and parsed once.
///
/// # Errors
/// [`FolderError::Gguf`], and those of `work`.
pub(crate) fn with_files<T, E: From<FolderError>>(
    path: &Path,
    work: impl FnOnce(&Files<'_>) -> Result<T, E>,
) -> Result<T, E> {
    if !gguf::is_gguf(path) {
        return work(&Files { path, gguf: None });
    }
    let failed = |source| FolderError::gguf(path, source);
    let parts = gguf::GgufFiles::open(path).map_err(failed)?;
    let gguf = Some(parts.model().map_err(failed)?);
    work(&Files { path, gguf })
}

impl Files<'_> {
    /// The path of the folder or of the GGUF file.
    pub(crate) fn path(&self) -> &Path {
        self.path
    }

    /// Whether a GGUF file stands for the folder.
    pub(crate) fn is_gguf(&self) -> bool {
        self.gguf.is_some()
    }

    /// Whether there is a file of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.gguf.as_ref().map_or_else(|| self.path.join(name).is_file(), |model| model.has(name))
    }

    /// Reads a file. One in a folder has at most `limit` bytes.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, FolderError> {
        let path = self.path.join(name);
        let Some(model) = &self.gguf else { return read_limited(&path, limit) };
        let content = model.file(name).map_err(|source| FolderError::gguf(self.path, source))?;
        let content = content.ok_or_else(|| FolderError::read(&path, ErrorKind::NotFound.into()))?;
        serde_json::to_vec(&content).map_err(|source| FolderError::Json { path, source })
    }

    /// A JSON object from a file; `None` if the file does not exist.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Map<String, Value>>, FolderError> {
        if let Some(model) = &self.gguf {
            return model.file(name).map_err(|source| FolderError::gguf(self.path, source));
        }
        let path = self.path.join(name);
        let bytes = match read_limited(&path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(FolderError::File(FileError::Read { source, .. })) if source.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| FolderError::Json { path, source })
    }
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, FolderError> {
    let failed = |source| FolderError::read(path, source);
    let mut bytes = Vec::new();
    let file = open_file(path).map_err(failed)?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > limit {
        true => Err(FolderError::TooLarge { path: path.into(), limit }),
        false => Ok(bytes),
    }
}

/// Whether joining `name` to a folder stays in that folder, on every platform.
pub(crate) fn is_bare_file_name(name: &str) -> bool {
    let escapes = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    !name.is_empty() && name != "." && !name.contains("..") && !name.contains(escapes)
}

/// The content of a folder without a Hugging Face model.
pub(crate) fn content(folder: &Path) -> Result<FolderContent, FolderError> {
    let failed = |source| FolderError::read(folder, source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let with = |test: &dyn Fn(&str) -> bool| names.iter().find(|name| test(name)).cloned();
    Ok(if let Some(file) = with(&|name| name == "adapter_config.json" || name == "adapter_model.safetensors") {
        FolderContent::Adapter { file }
    } else if let Some(file) = with(&|name| name.starts_with("pytorch_model") || name.ends_with(".pth")) {
        FolderContent::Pickle { file }
    } else if let Some(file) = with(&|name| name.ends_with(".gguf")) {
        FolderContent::Gguf { file }
    } else if let Some(file) = with(&|name| name.ends_with(".safetensors")) {
        FolderContent::OtherSafetensors { file }
    } else {
        FolderContent::Files { names }
    })
}
