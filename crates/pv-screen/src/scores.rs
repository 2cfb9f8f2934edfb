//! The table of a screening: one line per answer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use pv_data::{Damage, FileError, RunError};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::likelihood::LikelihoodScore;

/// The place of an answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line on which its row begins, or the row, from 1; 0 for the whole file.
    pub row: u64,
    /// The index of its message in the conversation, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<usize>,
}

/// The projections of an answer on one direction, in activation units.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The projection of the data set's answer.
    pub answer: f64,
    /// The projection of the prompt's last token.
    pub prompt_last: f64,
    /// The projection of the base model's answer, if it was generated and is not empty.
    pub base: Option<f64>,
    /// ΔP: the answer's projection minus the base answer's, if it is known.
    pub delta: Option<f64>,
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreRow {
    /// The place of the answer.
    #[serde(flatten)]
    pub place: Place,
    /// The id of prompt and answer, independent of the place.
    pub id: String,
    /// Whether the same prompt and answer occurred before.
    pub duplicate: bool,
    /// The number of tokens of the answer.
    pub tokens: usize,
    /// Whether the base answer was truncated at the maximum number of tokens.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub base_cut: bool,
    /// The scores by the direction's label, such as `evil@20`.
    pub scores: BTreeMap<String, Score>,
    /// The answer's likelihoods in nats, if the screening had personas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likelihood: Option<LikelihoodScore>,
}

/// Passes the rows of a table to `take`, one after another.
///
/// # Errors
/// A file that cannot be read, or a line that is not a row of a table; those of `take`.
pub fn read_scores(path: &Path, mut take: impl FnMut(ScoreRow) -> Result<()>) -> Result<()> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file = BufReader::new(pv_data::files::open_file(path).map_err(failed)?);
    for (at, line) in file.lines().enumerate() {
        let damaged =
            |source| RunError::Damaged { path: path.to_owned(), source: Damage::Line { line: at + 1, source } };
        take(serde_json::from_str(&line.map_err(failed)?).map_err(damaged)?)?;
    }
    Ok(())
}
