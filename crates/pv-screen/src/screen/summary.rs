//! What a screening says of a data set as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pv_data::conversations::FormatCounts;
use pv_data::{FileError, RunError, sha256};
use serde::{Deserialize, Serialize};

use super::{SUMMARY, ScreenOptions};
use crate::estimate::{Estimate, Look};
use crate::likelihood::LikelihoodScore;
use crate::{ModelIdentity, Result, TraitDirection};

/// A file and what it held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashedFile {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// One direction's figures. Means are over all rows, those that stand there several times included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DirectionSummary {
    /// The trait.
    pub trait_name: String,
    /// The index of the layer.
    pub layer: usize,
    /// SHA-256 of the direction's values (little-endian f32), in hex.
    pub sha256: String,
    /// The mean projection of the data set's answers; `None` where there is none.
    pub answer: Option<f64>,
    /// The mean projection of the prompts' last tokens.
    pub prompt_last: Option<f64>,
    /// The data set's ΔP. With all base answers there is one estimate, without an error; otherwise one by each method.
    pub estimates: Vec<Estimate>,
    /// With all base answers: as if the data set were a sample of more data of its kind.
    pub as_sample: Option<Estimate>,
    /// What was found while it was decided how many base answers to generate, each with the interval at its own level. The intervals
    /// of `estimates` and `as_sample` are corrected for all looks ([`Estimate::looks`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub looks: Vec<Look>,
    /// Why something is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl DirectionSummary {
    /// What tells directions apart.
    pub(super) fn identity(named: &TraitDirection) -> (String, String) {
        let bytes: Vec<u8> = named.direction.values().iter().flat_map(|value| value.to_le_bytes()).collect();
        (named.label(), sha256(&bytes))
    }
}

/// The summary of a data set's screening.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// This library's version.
    pub version: String,
    /// The model.
    pub model: ModelIdentity,
    /// The data.
    pub files: Vec<HashedFile>,
    /// The options; among them all seeds.
    pub options: ScreenOptions,
    /// Answers in the data, those that stand there several times included, those that were skipped not.
    pub answers: usize,
    /// Distinct ones.
    pub distinct: usize,
    /// How much was not screened, by [`Skip::kind`](crate::Skip::kind); the list is in the file beside it.
    pub skipped: BTreeMap<String, usize>,
    /// What was noticed of answers that were screened, in the same way; the list is in [`NOTICED`](crate::NOTICED).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub noticed: BTreeMap<String, usize>,
    /// In which form the files' conversations stand.
    #[serde(default)]
    pub formats: FormatCounts,
    /// Distinct samples for which a base answer was wanted.
    pub with_base: usize,
    /// Those of them whose base answer is empty, so that they have no ΔP. Estimates are of the others.
    pub empty_base: usize,
    /// Those of them whose base answer was cut at the most tokens
    /// ([`BaseOptions::max_new_tokens`](crate::BaseOptions::max_new_tokens)), so that ΔP is beside the beginning of what the model
    /// would say; `None` in a summary of an earlier version, which did not count them.
    #[serde(default)]
    pub cut_base: Option<usize>,
    /// By the direction's label, such as `evil@20`.
    pub directions: BTreeMap<String, DirectionSummary>,
    /// The answers' mean likelihoods, where there were personas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likelihood: Option<LikelihoodScore>,
}

impl Summary {
    /// Reads the summary in a screening's folder.
    ///
    /// # Errors
    /// A file that cannot be read or is no summary.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(SUMMARY);
        let bytes = std::fs::read(&path).map_err(|source| FileError::Read { path: path.clone(), source })?;
        serde_json::from_slice(&bytes).map_err(|error| RunError::Damaged { path, reason: error.to_string() }.into())
    }

    /// The best estimate of ΔP on a direction: the exact one, or the control variate's.
    pub fn delta(&self, label: &str) -> Option<&Estimate> {
        self.directions.get(label)?.estimates.last()
    }
}
