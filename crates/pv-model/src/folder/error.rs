use std::fmt;
use std::path::{Path, PathBuf};

use pv_data::FileError;

use crate::gguf::GgufModelError;
use crate::listed::listed;

/// An error of a file in a model folder, whatever the file contains.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is a git-lfs pointer instead of the file itself.
    #[error("{}: {}", path.display(), pv_data::files::LfsPointer { size: *size })]
    GitLfsPointer {
        /// The file.
        path: PathBuf,
        /// The size of the actual file in bytes, if the pointer states it.
        size: Option<u64>,
    },
    /// A file does not contain the expected JSON.
    #[error("{} does not contain the expected JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// A GGUF file cannot be used as a model.
    #[error("{} cannot be used as a model", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<GgufModelError>,
    },
    /// A file is larger than such a file can be.
    #[error("{} is larger than the limit of {limit} bytes for such a file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The greatest number of bytes that are read.
        limit: u64,
    },
    /// A folder lacks a file of a Hugging Face model.
    #[error("{}: {wanted} not found: {found}", path.display())]
    NotAModel {
        /// The folder.
        path: PathBuf,
        /// The expected file.
        wanted: &'static str,
        /// What was found instead.
        found: FolderContent,
    },
}

impl FolderError {
    /// The error of a GGUF file.
    pub(crate) fn gguf(path: &Path, source: GgufModelError) -> Self {
        match source {
            GgufModelError::Read { path, source } => Self::read(&path, source),
            source => Self::Gguf { path: path.to_owned(), source: Box::new(source) },
        }
    }

    /// The error of a file that could not be read.
    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        match pv_data::files::LfsPointer::of(&source) {
            Some(pointer) => Self::GitLfsPointer { path: path.to_owned(), size: pointer.size },
            None => Self::File(FileError::Read { path: path.to_owned(), source }),
        }
    }
}

/// The content of a folder that lacks a file of a model. Its text says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FolderContent {
    /// An adapter in PEFT's format.
    Adapter {
        /// A file of the adapter.
        file: String,
    },
    /// Weights in a pickle.
    Pickle {
        /// The file.
        file: String,
    },
    /// A GGUF model.
    Gguf {
        /// The file.
        file: String,
    },
    /// A safetensors file of another name.
    OtherSafetensors {
        /// The file.
        file: String,
    },
    /// Files of other kinds, or none.
    Files {
        /// Their names, in alphabetical order.
        names: Vec<String>,
    },
}

impl fmt::Display for FolderContent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adapter { file } => {
                write!(out, "found {file}, so this is a PEFT adapter; load its base model and then the adapter")
            }
            Self::Pickle { file } => write!(
                out,
                "found {file}; pickled weights are not supported; save the model with safe_serialization=True"
            ),
            Self::Gguf { file } => {
                write!(out, "found {file}; a GGUF file is a model by itself: use its path instead of the folder's")
            }
            Self::OtherSafetensors { file } => write!(
                out,
                "found {file}, but neither model.safetensors nor model.safetensors.index.json with config.json"
            ),
            Self::Files { names } if names.is_empty() => out.write_str("the folder is empty"),
            Self::Files { names } => write!(out, "found {}", listed(names)),
        }
    }
}
