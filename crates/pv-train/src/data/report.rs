//! What was read from files, in numbers.

use std::fmt;
use std::path::PathBuf;

use pv_model::RowPlace;
use serde::Serialize;

use crate::Sample;

/// So many of the rows that were left out are named.
const NAMED: usize = 20;

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataFile {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// How many they are.
    pub bytes: u64,
}

/// A row that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedRow {
    /// Its file and line, or row.
    pub place: String,
    /// Why.
    pub reason: String,
}

/// What was read, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DataReport {
    /// The files.
    pub files: Vec<DataFile>,
    /// Conversations that were read.
    pub conversations: usize,
    /// Those of them that had come before; they are samples all the same.
    pub duplicates: usize,
    /// Samples that were made.
    pub samples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// The tokens of them that are trained.
    pub trained_tokens: usize,
    /// The longest sample's tokens.
    pub longest: usize,
    /// Samples whose end was cut off.
    pub cut: usize,
    /// Conversations that were left out because they are too long.
    pub too_long: usize,
    /// Those that were left out because they have no answer to train.
    pub without_answer: usize,
    /// Those that were left out because the chat template refuses them.
    pub unrenderable: usize,
    /// Rows that are no conversations.
    pub bad_rows: usize,
    /// The first twenty rows that were left out.
    pub skipped: Vec<SkippedRow>,
}

impl DataReport {
    pub(super) fn take(&mut self, sample: &Sample) {
        self.samples += 1;
        self.tokens += sample.ids().len();
        self.trained_tokens += sample.trained_count();
        self.longest = self.longest.max(sample.ids().len());
    }

    pub(super) fn skip(&mut self, place: &RowPlace, reason: String) {
        if self.skipped.len() < NAMED {
            self.skipped.push(SkippedRow { place: place.to_string(), reason });
        }
    }
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, conversations, tokens, trained_tokens, longest, .. } = self;
        write!(f, "{samples} samples of {conversations} conversations")?;
        if !self.files.is_empty() {
            let files = self.files.len();
            write!(f, " in {files} {}", if files == 1 { "file" } else { "files" })?;
        }
        write!(f, "; {tokens} tokens, {trained_tokens} of them trained, at most {longest} in a sample")?;
        for (count, what) in [
            (self.cut, "cut"),
            (self.too_long, "too long"),
            (self.without_answer, "without an answer to train"),
            (self.unrenderable, "refused by the chat template"),
            (self.bad_rows, "rows that are no conversations"),
            (self.duplicates, "duplicates"),
        ] {
            if count > 0 {
                write!(f, "; {count} {what}")?;
            }
        }
        match self.skipped.first() {
            Some(SkippedRow { place, reason }) => write!(f, "; the first that was left out is {place}: {reason}"),
            None => Ok(()),
        }
    }
}
