//! Errors of files and run folders.

use std::fmt;
use std::path::{Path, PathBuf};

/// An error of the operating system on a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file could not be written. A previous file of that name is unchanged.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
}

impl FileError {
    /// Returns a function for `map_err`: the error of a file that could not be read.
    pub fn read(path: impl AsRef<Path>) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Read { path: path.as_ref().to_owned(), source }
    }

    /// Returns a function for `map_err`: the error of a file that could not be written.
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

/// An error of a run folder.
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
    /// The folder contains another run.
    #[error("{} contains another run: its {what} is {saved}, but {given} was requested", path.display())]
    OtherRun {
        /// The folder.
        path: PathBuf,
        /// The path of the difference in the run's description.
        what: String,
        /// Its value in the folder.
        saved: String,
        /// The requested value.
        given: String,
    },
    /// A file of the folder is not JSON.
    #[error("{} is damaged", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// A line of a journal is missing, or has no end: another program changed the file.
    #[error("{} is damaged: no complete line at byte {at}", path.display())]
    IncompleteLine {
        /// The file.
        path: PathBuf,
        /// The start of the line.
        at: u64,
    },
    /// The content of a file of the folder contradicts itself, its name or the run.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Damage,
    },
}

/// What is wrong with a damaged file of a run's folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// A line is invalid.
    #[error("line {line}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// The line that begins at a byte is invalid.
    #[error("the line at byte {at}")]
    LineAt {
        /// The start of the line.
        at: u64,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// A line that does not belong to the run, or repeats another.
    #[error("line {line} is not part of the run, or repeats another line")]
    StrayLine {
        /// The line, from 1.
        line: usize,
    },
    /// Something is not there.
    #[error("{what} is missing")]
    Missing {
        /// What.
        what: String,
    },
    /// Some of the run's items are not there.
    #[error("{missing} of {expected} {what} are missing")]
    Incomplete {
        /// The items.
        what: &'static str,
        /// How many are missing.
        missing: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A value that is not the one that belongs there.
    #[error("{what} is {found}, expected {expected}")]
    Unexpected {
        /// What.
        what: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// It was changed after another file was written.
    #[error("it was changed after {than} was written")]
    ChangedAfter {
        /// The other file.
        than: &'static str,
    },
    /// It ends too early, or cannot be read.
    #[error("reading it")]
    Read(#[from] std::io::Error),
    /// What is wrong by the rules of the crate that reads the file.
    #[error(transparent)]
    Content(Box<dyn std::error::Error + Send + Sync>),
}

impl Damage {
    /// A value that is not the one that belongs there.
    pub fn unexpected(what: impl Into<String>, found: impl fmt::Display, expected: impl fmt::Display) -> Self {
        Self::Unexpected { what: what.into(), found: found.to_string(), expected: expected.to_string() }
    }
}

/// An error's message followed by those of its causes, separated by colons.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
