use std::path::PathBuf;

use crate::folder::FolderError;

/// An error of a configuration: a model's `config.json`, or another JSON file of settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read, or does not exist.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A required key is missing.
    #[error("{}: `{key}` is missing", path.display())]
    Missing {
        /// The configuration file.
        path: PathBuf,
        /// The missing key.
        key: String,
    },
    /// A value is invalid.
    #[error("{}: `{key}` is {value}, expected {expected}", path.display())]
    Value {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// The valid values.
        expected: String,
    },
    /// A value needs something that is not implemented.
    #[error("{}: `{key}` is {value}, which is not supported; supported: {supported}", path.display())]
    Unsupported {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// The values that are supported.
        supported: String,
    },
}

impl ConfigError {
    /// The error of a file, whatever it contains.
    pub(crate) fn folder(&self) -> Option<&FolderError> {
        match self {
            Self::Folder(error) => Some(error),
            _ => None,
        }
    }
}
