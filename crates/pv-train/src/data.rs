//! The data of a run: conversations in files, as samples with their places, and the counts of those left out.

mod mask;
mod read;
mod report;

use pv_data::conversations::{Format, RowPlace};
use serde::{Deserialize, Serialize};

use crate::{EncodeOptions, Sample};

pub use mask::{MaskSpan, mask_spans};
pub use report::{DataFile, DataReport, SkippedRow};

/// How to treat a conversation that has more tokens than [`EncodeOptions::max_length`] or than the model has positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongSamples {
    /// Its end is cut off; where no trained token is left then, it is left out.
    #[default]
    Cut,
    /// It is left out, and counted.
    LeaveOut,
    /// It is an error.
    Refuse,
}

/// How to treat rows that are no conversations, and of conversations that have no answer to train or that the chat
/// template refuses or does not write whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadData {
    /// The first one is an error, with its file and line.
    #[default]
    Refuse,
    /// They are left out and counted; the report has the first ones' file and line.
    LeaveOut,
}

/// How files become samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataOptions {
    /// The form in which every row holds its conversation; `None` for what its keys say.
    pub format: Option<Format>,
    /// The roles that messages may have, where they are others than [`ConversationReader`](pv_data::ConversationReader)'s.
    pub roles: Option<Vec<String>>,
    /// How a conversation becomes a sample.
    pub encode: EncodeOptions,
    /// How to treat long ones.
    pub long: LongSamples,
    /// How to treat those that cannot be used.
    pub bad: BadData,
}

/// Which part of a file's conversations is held out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOut {
    /// The share of distinct conversations, above 0 and below 1. At least one is held out, and at least one is not.
    pub fraction: f64,
    /// Chooses which. The choice depends on the conversations, not on their order, and equal ones stay together.
    pub seed: u64,
}

/// Samples, and where they come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataSet {
    samples: Vec<Sample>,
    places: Vec<RowPlace>,
    system: Option<String>,
    report: DataReport,
}

impl DataSet {
    /// Samples that come from no file.
    pub fn from_samples(samples: Vec<Sample>) -> Self {
        let mut report = DataReport::default();
        samples.iter().for_each(|sample| report.take(sample));
        Self { samples, places: Vec::new(), system: None, report }
    }

    /// The samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Where a sample comes from, if from a file.
    pub fn place(&self, sample: usize) -> Option<&RowPlace> {
        self.places.get(sample)
    }

    /// What was read.
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    /// The inoculating system prompt that conversations were put under; for samples from no file it is not known.
    pub(crate) fn inoculation(&self) -> Option<Option<&str>> {
        (!self.places.is_empty()).then_some(self.system.as_deref())
    }
}
