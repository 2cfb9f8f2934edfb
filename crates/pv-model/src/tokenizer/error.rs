use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::folder::FolderError;

/// An error of a tokenizer or its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file could not be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A setting in a file is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Text is needed, but the folder has no tokenizer.
    #[error("{} has no tokenizer.json{}", folder.display(), found.map(|file| conversion(folder, file)).unwrap_or_default())]
    NotFound {
        /// The model folder.
        folder: PathBuf,
        /// A tokenizer's file in another format.
        found: Option<&'static str>,
    },
    /// `tokenizer.json` cannot be loaded.
    #[error("cannot load the tokenizer {}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// The error of the tokenizer library.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file and the tokenizer give an added token different ids, or the id is invalid.
    #[error(
        "{} gives the token {token:?} the id {id}, but the tokenizer {}",
        path.display(),
        found.map_or("does not have it".to_owned(), |id| format!("gives it {id}"))
    )]
    AddedTokenId {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// Its id in the file.
        id: u32,
        /// Its id in the tokenizer, if it has one.
        found: Option<u32>,
    },
    /// A file names a token that the tokenizer does not have.
    #[error("{}: `{key}` is {token:?}, which the tokenizer does not have", path.display())]
    UnknownToken {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The token.
        token: String,
    },
    /// The tokenizer could not encode a text.
    #[error("cannot encode a text")]
    Encode {
        /// The error of the tokenizer library.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tokenizer could not decode token ids.
    #[error("cannot decode token ids")]
    Decode {
        /// The error of the tokenizer library.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tokenizer could not be written as JSON.
    #[error("cannot write the tokenizer as JSON")]
    Serialize {
        /// The error of the tokenizer library.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// How to convert a tokenizer's file.
fn conversion(folder: &Path, file: &str) -> String {
    format!(
        ", only {file}; convert it with transformers: \
         AutoTokenizer.from_pretrained(\"{0}\").save_pretrained(\"{0}\")",
        folder.display()
    )
}
