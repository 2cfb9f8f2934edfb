//! The table of a screening: one line per answer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use pv_data::{FileError, RunError};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::likelihood::LikelihoodScore;
use crate::stream::Place;

/// The projections of an answer on one direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// That of the data set's answer.
    pub answer: f64,
    /// That of the prompt's last token.
    pub prompt_last: f64,
    /// That of the base model's answer, where it was generated and is not empty.
    pub base: Option<f64>,
    /// ΔP: the first minus the last, where that is known.
    pub delta: Option<f64>,
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreRow {
    /// Where the answer stands.
    #[serde(flatten)]
    pub place: Place,
    /// What identifies prompt and answer, wherever they stand.
    pub id: String,
    /// Whether the same prompt and answer came before.
    pub duplicate: bool,
    /// How many tokens the answer has.
    pub tokens: usize,
    /// Whether the base answer was cut at the most tokens, so that it is the beginning of one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub base_cut: bool,
    /// By the direction's label, such as `evil@20`.
    pub scores: BTreeMap<String, Score>,
    /// How likely the answer is, where the screening had personas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likelihood: Option<LikelihoodScore>,
}

/// Gives the lines of a table to `take`, one after another.
///
/// # Errors
/// A file that cannot be read, or a line that is no row of a table; those of `take`.
pub fn read_scores(path: &Path, mut take: impl FnMut(ScoreRow) -> Result<()>) -> Result<()> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file = BufReader::new(pv_data::open_file(path).map_err(failed)?);
    for (at, line) in file.lines().enumerate() {
        let damaged = |error| RunError::Damaged { path: path.to_owned(), reason: format!("line {}: {error}", at + 1) };
        take(serde_json::from_str(&line.map_err(failed)?).map_err(damaged)?)?;
    }
    Ok(())
}
