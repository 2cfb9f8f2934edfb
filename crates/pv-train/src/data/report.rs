//! What was read from files, in numbers.

use std::fmt;
use std::path::PathBuf;

use pv_data::conversations::{FormatCounts, RowPlace};
use serde::Serialize;

use crate::sample::Notes;
use crate::{Error, Sample};

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

/// What was read, used and left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DataReport {
    /// The files.
    pub files: Vec<DataFile>,
    /// In which form the files' conversations stand, those of a held-out part among them.
    pub formats: FormatCounts,
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
    /// Those of which the chat template leaves out a part: a message, calls of tools, tools.
    pub unwritten: usize,
    /// Those with an answer of which the chat template writes other words than it holds.
    pub altered: usize,
    /// Answers that say nothing, which are not trained.
    pub empty_answers: usize,
    /// Conversations that were left out because of a weight of 0.
    pub untrained: usize,
    /// Samples with weights other than 1.
    pub weighted: usize,
    /// Rows that are no conversations.
    pub bad_rows: usize,
    /// The model's positions, where they allow fewer tokens than the options do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<usize>,
    /// The first twenty rows that were left out.
    pub skipped: Vec<SkippedRow>,
    /// The first twenty things that were noticed of rows that are trained.
    pub noticed: Vec<SkippedRow>,
}

impl DataReport {
    pub(super) fn take(&mut self, sample: &Sample) {
        self.samples += 1;
        self.tokens += sample.ids().len();
        self.trained_tokens += sample.trained_count();
        self.longest = self.longest.max(sample.ids().len());
        self.weighted += usize::from(sample.is_weighted());
    }

    pub(super) fn skip(&mut self, place: &RowPlace, reason: String) {
        if self.skipped.len() < NAMED {
            self.skipped.push(SkippedRow { place: place.to_string(), reason });
        }
    }

    /// Counts what was noticed of a conversation that is trained, with its place.
    pub(super) fn take_notes(&mut self, place: &RowPlace, notes: &Notes) {
        let Notes { empty, altered, unwritten } = notes;
        self.empty_answers += empty.len();
        self.altered += usize::from(!altered.is_empty());
        self.unwritten += usize::from(!unwritten.is_empty());
        unwritten.iter().for_each(|part| self.notice(place, part));
        let empty = empty.iter().map(|&index| Error::EmptyAnswer { index });
        let altered = altered.iter().map(|&index| Error::Altered { index });
        empty.chain(altered).for_each(|noticed| self.notice(place, noticed));
    }

    fn notice(&mut self, place: &RowPlace, reason: impl fmt::Display) {
        if self.noticed.len() < NAMED {
            self.noticed.push(SkippedRow { place: place.to_string(), reason: reason.to_string() });
        }
    }
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, conversations, tokens, trained_tokens, longest, .. } = self;
        write!(f, "{samples} samples of {conversations} conversations")?;
        match self.files.as_slice() {
            [] => {}
            [file] => write!(f, " in {}", file.path.display())?,
            [first, ..] => write!(f, " in {} files, the first of them {}", self.files.len(), first.path.display())?,
        }
        if self.formats != FormatCounts::default() {
            write!(f, " ({})", self.formats)?;
        }
        write!(f, "; {tokens} tokens, {trained_tokens} of them trained, at most {longest} in a sample")?;
        for (count, what) in [
            (self.cut, "cut"),
            (self.too_long, "too long"),
            (self.without_answer, "without an answer to train"),
            (self.unrenderable, "refused by the chat template"),
            (self.unwritten, "not written whole by the chat template"),
            (self.altered, "with an answer that the chat template shortens or changes"),
            (self.empty_answers, "empty answers"),
            (self.untrained, "left out by a weight of 0"),
            (self.weighted, "weighted"),
            (self.bad_rows, "rows that are no conversations"),
            (self.duplicates, "duplicates"),
        ] {
            if count > 0 {
                write!(f, "; {count} {what}")?;
            }
        }
        if let Some(positions) = self.positions {
            write!(f, "; the model has {positions} positions, which is the most tokens of a sample")?;
        }
        if let Some(SkippedRow { place, reason }) = self.skipped.first() {
            write!(f, "; the first that was left out is {place}: {reason}")?;
        }
        if let Some(SkippedRow { place, reason }) = self.noticed.first() {
            write!(f, "; the first that was noticed is {place}: {reason}")?;
        }
        Ok(())
    }
}
