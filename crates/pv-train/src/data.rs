//! The data of a run: conversations from files, converted to samples with their places, and the counts of skipped rows.

mod mask;
mod read;
mod report;

use pv_data::conversations::{Format, RowPlace};
use serde::{Deserialize, Serialize};

use crate::{EncodeOptions, Sample};

pub use mask::{MaskSpan, mask_spans};
pub use report::{DataFile, DataReport, SkippedRow};

/// How to handle a conversation that has more tokens than [`EncodeOptions::max_length`] or than the model has
/// positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongSamples {
    /// It is truncated; if no trained token is left, it is skipped.
    #[default]
    Cut,
    /// It is skipped and counted.
    #[serde(alias = "leave_out")]
    Skip,
    /// It is an error.
    Refuse,
}

/// How to handle rows that are not conversations, and conversations without an answer to train or that the chat
/// template refuses or does not render completely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadData {
    /// The first one is an error, with its file and line.
    #[default]
    Refuse,
    /// They are skipped and counted; the report names the file and line of the first ones.
    #[serde(alias = "leave_out")]
    Skip,
}

/// Options for reading files as samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataOptions {
    /// The format of the rows; `None` detects it from each row's keys.
    pub format: Option<Format>,
    /// The allowed roles of messages, if they differ from [`ConversationReader`](pv_data::ConversationReader)'s.
    pub roles: Option<Vec<String>>,
    /// Options for converting conversations to samples.
    pub encode: EncodeOptions,
    /// How to handle conversations that are too long.
    pub long: LongSamples,
    /// How to handle rows and conversations that cannot be used.
    pub bad: BadData,
}

/// The part of the conversations that is held out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOut {
    /// The fraction of distinct conversations, above 0 and below 1. At least one is held out, and at least one is not.
    pub fraction: f64,
    /// Selects the held-out conversations. The selection depends on the conversations and not on their order;
    /// duplicates stay together.
    pub seed: u64,
}

/// Samples, with their places in files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataSet {
    samples: Vec<Sample>,
    places: Vec<RowPlace>,
    system: Option<String>,
    report: DataReport,
}

impl DataSet {
    /// Samples that do not come from files.
    pub fn from_samples(samples: Vec<Sample>) -> Self {
        let mut report = DataReport::default();
        samples.iter().for_each(|sample| report.take(sample));
        Self { samples, places: Vec::new(), system: None, report }
    }

    /// The samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The place of a sample in a file, if it comes from one.
    pub fn place(&self, sample: usize) -> Option<&RowPlace> {
        self.places.get(sample)
    }

    /// The report on the files that were read.
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    /// The inoculation's system prompt that was added to the conversations; unknown (`None`) for samples that do not
    /// come from files.
    pub(crate) fn inoculation(&self) -> Option<Option<&str>> {
        (!self.places.is_empty()).then_some(self.system.as_deref())
    }
}
