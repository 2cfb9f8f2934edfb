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

/// The GGUF file that stands for the folder of `path`, and the name of the folder's file.
fn in_gguf(path: &Path) -> Option<(&Path, &str)> {
    let folder = path.parent().filter(|folder| gguf::is_gguf(folder))?;
    Some((folder, path.file_name()?.to_str()?))
}

/// Whether a folder, or the GGUF file in its place, has a file.
pub(crate) fn has(folder: &Path, name: &str) -> bool {
    if gguf::is_gguf(folder) { gguf::has(folder, name) } else { folder.join(name).is_file() }
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, FolderError> {
    let failed = |source| FolderError::read(path, source);
    if let Some((file, name)) = in_gguf(path) {
        let content = gguf::file(file, name).map_err(|source| FolderError::gguf(file, source))?;
        let content = content.ok_or_else(|| failed(ErrorKind::NotFound.into()))?;
        return serde_json::to_vec(&content).map_err(|source| FolderError::Json { path: path.to_owned(), source });
    }
    let mut bytes = Vec::new();
    let file = open_file(path).map_err(failed)?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > limit {
        true => Err(FolderError::TooLarge { path: path.into(), limit }),
        false => Ok(bytes),
    }
}

/// A JSON object from a file; `None` if the file does not exist.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, FolderError> {
    let bytes = match read_limited(path, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(FolderError::File(FileError::Read { source, .. })) if source.kind() == ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| FolderError::Json { path: path.to_owned(), source })
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
