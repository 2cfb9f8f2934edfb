//! Exports a data set's rows with their scores: all of them, or those that a rule keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use pv_data::conversations::{Cell, NewColumn, RowPlace, Written, add_fields};
use pv_data::{Damage, FileError, RunError};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::SettingError;
use crate::scores::{ScoreRow, read_scores};
use crate::screen::SKIPPED;

/// The rows that are exported. A rule on scores applies to every answer that the screening selected
/// ([`Turns`](crate::sample::Turns)): a row with an answer that was not scored is excluded, because its score is
/// unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Rows of which every answer was scored, with or without a base answer.
    #[default]
    Scored,
    /// Rows of which every answer has a ΔP on a direction (by its label) that is at most a threshold. A row is excluded
    /// if one answer was too long or refused, or has no base answer or an empty one.
    AtMost {
        /// The direction's label.
        label: String,
        /// The threshold, in activation units.
        threshold: f64,
    },
    /// These rows, by file and row, if they have scores.
    Rows(BTreeSet<(PathBuf, u64)>),
}

/// The result of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Exported {
    /// The number of rows that were written.
    pub kept: u64,
    /// The number of rows that were excluded.
    #[serde(alias = "left_out")]
    pub excluded: u64,
    /// The number of excluded rows by reason: `above` (an answer's ΔP is above the threshold), `no_delta` (an answer
    /// has no ΔP), `not_chosen`, `not_screened` (the row is neither in the table nor in the list of skipped rows), or
    /// the [`Skip::kind`](crate::sample::Skip::kind) of an answer that was not scored, such as `too_long`. A row is
    /// counted once, for the first applicable reason in that order.
    pub reasons: BTreeMap<String, u64>,
}

/// The scores of a row.
#[derive(Default)]
struct Row {
    /// The number of its answers in the table.
    scored: usize,
    /// The reason why another of its answers, or the whole row, was not scored.
    skipped: Option<String>,
    /// The largest scores, by the direction's label.
    projections: BTreeMap<String, Greatest>,
    /// The largest gains, by the persona's label.
    gains: BTreeMap<String, f64>,
}

/// The largest scores of a row's answers on one direction.
#[derive(Clone, Copy)]
struct Greatest {
    delta: f64,
    answer: f64,
    /// The number of answers with a ΔP.
    with_delta: usize,
}

impl Row {
    fn take(&mut self, row: ScoreRow) {
        self.scored += 1;
        for (label, score) in row.scores {
            let none = Greatest { delta: f64::NEG_INFINITY, answer: f64::NEG_INFINITY, with_delta: 0 };
            let found = self.projections.entry(label).or_insert(none);
            found.answer = found.answer.max(score.answer);
            if let Some(delta) = score.delta {
                found.delta = found.delta.max(delta);
                found.with_delta += 1;
            }
        }
        for (label, gain) in row.likelihood.into_iter().flat_map(|found| found.gains) {
            let most = self.gains.entry(label).or_insert(gain);
            *most = most.max(gain);
        }
    }

    /// The largest ΔP, if every answer has one.
    fn delta(&self, label: &str) -> Option<f64> {
        let found = self.projections.get(label).filter(|_| self.skipped.is_none())?;
        (found.with_delta == self.scored).then_some(found.delta)
    }

    /// The reason why a rule excludes the row; `None` if the row is kept.
    fn excluded(&self, keep: &Keep, place: &(PathBuf, u64)) -> Option<&str> {
        match keep {
            Keep::Rows(chosen) if !chosen.contains(place) => return Some("not_chosen"),
            Keep::Rows(_) if self.scored > 0 => return None,
            Keep::AtMost { label, threshold } => {
                // This also applies to a row whose other answers are unknown.
                if self.projections.get(label).is_some_and(|found| found.delta > *threshold) {
                    return Some("above");
                }
            }
            Keep::Scored | Keep::Rows(_) => {}
        }
        if let Some(skipped) = &self.skipped {
            return Some(skipped);
        }
        match keep {
            Keep::AtMost { label, .. } if self.delta(label).is_none() => Some("no_delta"),
            _ => None,
        }
    }

    /// The values of the new columns. The maximum over a row is unknown if one of its answers is unknown.
    fn cells(&self, labels: &[String], personas: &BTreeSet<String>) -> Vec<Cell> {
        let whole = self.skipped.is_none();
        let number = |value: Option<f64>| value.filter(|_| whole).map_or(Cell::Null, Cell::Number);
        let scores = labels
            .iter()
            .flat_map(|label| [self.delta(label), self.projections.get(label).map(|found| found.answer)].map(number));
        scores.chain(personas.iter().map(|label| number(self.gains.get(label).copied()))).collect()
    }
}

/// A line of the list of skipped rows and answers.
#[derive(Deserialize)]
struct SkippedRow {
    file: PathBuf,
    row: u64,
    reason: String,
}

/// Writes a data set's rows with their scores in new columns, `{label}_delta` and `{label}_answer` (in activation
/// units), and `{label}_gain` (in nats) for each persona. Everything else in the rows is unchanged. If a row has
/// several answers, the largest value is written, because one such answer is enough to affect training. If one of the
/// answers was not scored, the maximum is unknown, and the columns are empty. `table` is the screening's table; its
/// list of skipped rows ([`SKIPPED`]) must be beside it.
///
/// Sources and output are all JSONL or, with the feature `data`, all Parquet.
///
/// # Errors
/// Errors in reading the table and the list, those of [`add_fields`] and `add_columns`; [`Error::Setting`](crate::Error::Setting) for a
/// threshold that is NaN, or a direction that the table does not have.
pub fn export<P: AsRef<Path>>(sources: &[P], table: &Path, output: &Path, keep: &Keep) -> Result<Exported> {
    let mut rows: BTreeMap<(PathBuf, u64), Row> = BTreeMap::new();
    let (mut labels, mut personas): (Vec<String>, BTreeSet<String>) = Default::default();
    read_scores(table, |row| {
        labels.extend(row.scores.keys().filter(|label| !labels.contains(label)).cloned().collect::<Vec<_>>());
        personas.extend(row.likelihood.iter().flat_map(|found| found.gains.keys().cloned()));
        rows.entry((row.place.file.clone(), row.place.row)).or_default().take(row);
        Ok(())
    })?;
    read_skipped(&table.with_file_name(SKIPPED), |skipped: SkippedRow| {
        rows.entry((skipped.file, skipped.row)).or_default().skipped.get_or_insert(skipped.reason);
    })?;
    if let Keep::AtMost { label, threshold } = keep {
        if threshold.is_nan() {
            return Err(SettingError::Threshold.into());
        }
        if !labels.is_empty() && !labels.contains(label) {
            return Err(SettingError::NoSuchDirection { label: label.clone(), labels }.into());
        }
    }
    let columns: Vec<NewColumn> = labels
        .iter()
        .flat_map(|label| ["delta", "answer"].map(|what| NewColumn::number(format!("{label}_{what}"))))
        .chain(personas.iter().map(|label| NewColumn::number(format!("{label}_gain"))))
        .collect();
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    let values = |place: &RowPlace| {
        let place = (place.file.to_path_buf(), place.row);
        let row = rows.get(&place);
        let reason = row.map_or(Some("not_screened"), |row| row.excluded(keep, &place));
        match (row, reason) {
            (Some(row), None) => Ok(Some(row.cells(&labels, &personas))),
            (_, reason) => {
                *reasons.entry(reason.unwrap_or_default().to_owned()).or_default() += 1;
                Ok(None)
            }
        }
    };
    let Written { kept, left_out } = write(sources, output, &columns, values)?;
    Ok(Exported { kept, excluded: left_out, reasons })
}

type Values = std::result::Result<Option<Vec<Cell>>, Box<dyn std::error::Error + Send + Sync>>;

fn write<P: AsRef<Path>>(
    sources: &[P],
    output: &Path,
    columns: &[NewColumn],
    values: impl FnMut(&RowPlace) -> Values,
) -> Result<Written> {
    #[cfg(feature = "data")]
    if output.extension().is_some_and(|ending| ending == "parquet") {
        return Ok(pv_data::conversations::add_columns(sources, output, columns, values)?);
    }
    Ok(add_fields(sources, output, columns, values)?)
}

/// Passes the lines of the list to `take`.
fn read_skipped(path: &Path, mut take: impl FnMut(SkippedRow)) -> Result<()> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    for (at, line) in BufReader::new(File::open(path).map_err(failed)?).lines().enumerate() {
        let damaged =
            |source| RunError::Damaged { path: path.to_owned(), source: Damage::Line { line: at + 1, source } };
        take(serde_json::from_str(&line.map_err(failed)?).map_err(damaged)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
