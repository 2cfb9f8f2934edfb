//! The summary of a data set's screening.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pv_data::conversations::FormatCounts;
use pv_data::files::sha256;
use pv_data::{FileError, RunError};
use serde::{Deserialize, Serialize};

use super::{SUMMARY, ScreenOptions};
use crate::Result;
use crate::estimate::{Estimate, Look};
use crate::likelihood::LikelihoodScore;
use pv_model::ModelIdentity;
use pv_vectors::TraitDirection;

/// A file, with a hash of its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HashedFile {
    /// The path of the file.
    pub path: PathBuf,
    /// SHA-256 of its content, in hex.
    pub sha256: String,
}

/// The results on one direction, in activation units. Means are over all rows, including duplicates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DirectionSummary {
    /// The trait's name.
    pub trait_name: String,
    /// The index of the layer.
    pub layer: usize,
    /// SHA-256 of the direction's values (little-endian f32), in hex.
    pub sha256: String,
    /// The mean projection of the data set's answers; `None` if there are none.
    pub answer: Option<f64>,
    /// The mean projection of the prompts' last tokens.
    pub prompt_last: Option<f64>,
    /// The data set's ΔP. With all base answers there is one estimate, without an error; otherwise there is one per
    /// method.
    pub estimates: Vec<Estimate>,
    /// With all base answers: the estimate for a population of which the data set is a sample.
    pub as_sample: Option<Estimate>,
    /// The looks that determined the number of base answers, each with the interval at its own level. The intervals of
    /// `estimates` and `as_sample` are corrected for all looks ([`Estimate::looks`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub looks: Vec<Look>,
    /// The reason for missing values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl DirectionSummary {
    /// The identity of a direction.
    pub(super) fn identity(named: &TraitDirection) -> (String, String) {
        let bytes: Vec<u8> = named.direction.values().iter().flat_map(|value| value.to_le_bytes()).collect();
        (named.label(), sha256(&bytes))
    }
}

/// The summary of a data set's screening.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// The version of this library.
    pub version: String,
    /// The model.
    pub model: ModelIdentity,
    /// The data.
    pub files: Vec<HashedFile>,
    /// The options, including all seeds.
    pub options: ScreenOptions,
    /// The number of answers in the data, including duplicates but not skipped answers.
    pub answers: usize,
    /// The number of distinct answers.
    pub distinct: usize,
    /// The number of skipped rows and answers, by [`Skip::kind`](crate::sample::Skip::kind); the file beside the
    /// summary lists them.
    pub skipped: BTreeMap<String, usize>,
    /// The number of remarks on answers that were screened, by the same kinds; [`NOTICED`](crate::screen::NOTICED)
    /// lists them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub noticed: BTreeMap<String, usize>,
    /// The formats of the files' conversations.
    #[serde(default)]
    pub formats: FormatCounts,
    /// The number of distinct samples for which a base answer was requested.
    pub with_base: usize,
    /// The number of these whose base answer is empty. They have no ΔP, and the estimates do not include them.
    pub empty_base: usize,
    /// The number of these whose base answer was truncated at the maximum number of tokens
    /// ([`BaseOptions::max_new_tokens`](crate::base_answers::BaseOptions::max_new_tokens)), so that their ΔP compares
    /// with the beginning of the model's answer only. `None` in a summary of an earlier version, which did not count
    /// them.
    #[serde(default)]
    pub cut_base: Option<usize>,
    /// The results by the direction's label, such as `evil@20`.
    pub directions: BTreeMap<String, DirectionSummary>,
    /// The mean likelihoods of the answers in nats, if the screening had personas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likelihood: Option<LikelihoodScore>,
}

impl Summary {
    /// Loads the summary from a screening's folder.
    ///
    /// # Errors
    /// A file that cannot be read or is not a summary.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(SUMMARY);
        let bytes = std::fs::read(&path).map_err(|source| FileError::Read { path: path.clone(), source })?;
        serde_json::from_slice(&bytes).map_err(|source| RunError::Json { path, source }.into())
    }

    /// The best estimate of ΔP on a direction: the exact one, or the control variate's.
    pub fn delta(&self, label: &str) -> Option<&Estimate> {
        self.directions.get(label)?.estimates.last()
    }
}
