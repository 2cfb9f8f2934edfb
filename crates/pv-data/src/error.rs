//! What can go wrong with files and folders.

use std::path::{Path, PathBuf};

/// A file that the operating system does not let be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file could not be written. Whatever stood there before is unchanged.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl FileError {
    /// For `map_err`: the error of a file that could not be read.
    pub fn read(path: impl AsRef<Path>) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Read { path: path.as_ref().to_owned(), source }
    }

    /// For `map_err`: the error of a file that could not be written.
    pub fn write(path: impl AsRef<Path>) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Write { path: path.as_ref().to_owned(), source }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. } | Self::Write { path, .. } => path,
        }
    }
}

/// What can go wrong with a run's folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A file of the folder could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process, or another part of this one, writes to the folder.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds another run.
    #[error("{} holds another run: its {what} is {saved}, but {given} was asked for", path.display())]
    OtherRun {
        /// The folder.
        path: PathBuf,
        /// What differs, by its place in the run's description.
        what: String,
        /// Its value in the folder.
        saved: String,
        /// The value that was asked for.
        given: String,
    },
    /// A file of the folder is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What an error says, and behind it what its causes say, each after a colon.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
