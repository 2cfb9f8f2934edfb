//! A report on the files that were read.

use std::fmt;
use std::path::PathBuf;

use pv_data::conversations::{FormatCounts, RowPlace};
use serde::Serialize;

use crate::sample::Notes;
use crate::{Error, Sample};

/// The number of skipped rows that are named.
const NAMED: usize = 20;

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DataFile {
    /// Its path.
    pub path: PathBuf,
    /// SHA-256 of its content, in hex.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A row that was skipped or has a remark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SkippedRow {
    /// Its file and line, or row.
    pub place: String,
    /// The reason.
    pub reason: String,
}

/// Counts of rows and conversations that were read, used and skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DataReport {
    /// The files.
    pub files: Vec<DataFile>,
    /// The formats of the conversations, including those of a held-out part.
    pub formats: FormatCounts,
    /// Conversations that were read.
    pub conversations: usize,
    /// Conversations that are duplicates of earlier ones; they are samples nevertheless.
    pub duplicates: usize,
    /// Samples.
    pub samples: usize,
    /// Tokens of all samples.
    pub tokens: usize,
    /// Trained tokens of all samples.
    pub trained_tokens: usize,
    /// The number of tokens of the longest sample.
    pub longest: usize,
    /// Samples that were truncated.
    pub cut: usize,
    /// Conversations that were skipped because they are too long.
    pub too_long: usize,
    /// Conversations that were skipped because they have no answer to train.
    pub without_answer: usize,
    /// Conversations that were skipped because the chat template refuses them.
    pub unrenderable: usize,
    /// Conversations of which the chat template does not render a part: a message, tool calls, tools.
    pub unwritten: usize,
    /// Conversations with an answer that the chat template renders with other words.
    pub altered: usize,
    /// Empty answers, which are not trained.
    pub empty_answers: usize,
    /// Conversations that were skipped because of a weight of 0.
    pub untrained: usize,
    /// Samples with weights other than 1.
    pub weighted: usize,
    /// Rows that are not conversations.
    pub bad_rows: usize,
    /// The model's number of positions, if it is below the options' maximum length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<usize>,
    /// The first twenty skipped rows.
    pub skipped: Vec<SkippedRow>,
    /// The first twenty remarks on rows that are trained.
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

    /// Counts the remarks on a conversation that is trained, with its place.
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
            (self.cut, "truncated"),
            (self.too_long, "too long"),
            (self.without_answer, "without a trained answer"),
            (self.unrenderable, "refused by the chat template"),
            (self.unwritten, "not completely rendered by the chat template"),
            (self.altered, "with an answer that the chat template changes"),
            (self.empty_answers, "empty answers"),
            (self.untrained, "skipped because of a weight of 0"),
            (self.weighted, "weighted"),
            (self.bad_rows, "invalid rows"),
            (self.duplicates, "duplicates"),
        ] {
            if count > 0 {
                write!(f, "; {count} {what}")?;
            }
        }
        if let Some(positions) = self.positions {
            write!(f, "; samples are limited to the model's {positions} positions")?;
        }
        if let Some(SkippedRow { place, reason }) = self.skipped.first() {
            write!(f, "; the first skipped row is {place}: {reason}")?;
        }
        if let Some(SkippedRow { place, reason }) = self.noticed.first() {
            write!(f, "; the first remark is on {place}: {reason}")?;
        }
        Ok(())
    }
}
