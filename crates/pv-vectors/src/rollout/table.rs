//! Rollouts with their scores as tables, in the columns of the original code: `question, prompt, answer, question_id,
//! {trait}, coherence`.

use std::collections::BTreeMap;
use std::path::Path;

use pv_data::conversations::{ConversationError, TableReader};
use pv_data::tables::CsvTable;
use pv_judge::rubric::COHERENCE;
use pv_judge::traits::Polarity;
use pv_model::Tokenizer;
use serde_json::Value;

use super::record::answer_ids;
use super::{Place, Record, RolloutRun};
use crate::error::{RolloutsFileError, RunPart};
use crate::filter::Scored;
use crate::place::side;
use crate::{Error, Result, files};

/// Rollouts with their scores, from files of other tools.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ScoredRollouts {
    /// The rollouts, in the order of the file.
    pub records: Vec<Record>,
    /// The trait score of each rollout, 0 to 100; `None` if the file has none.
    pub trait_scores: Vec<Option<f64>>,
    /// The coherence score of each rollout, 0 to 100; `None` if the file has none.
    pub coherence: Vec<Option<f64>>,
}

/// The columns that every rollout has.
const QUESTION: &str = "question";
const PROMPT: &str = "prompt";
const ANSWER: &str = "answer";
const ID: &str = "question_id";

impl ScoredRollouts {
    /// Reads rollouts from a JSONL, CSV or Parquet file, chosen by the file's extension ([`TableReader`]), with the
    /// same columns in each.
    ///
    /// Ids are `{trait}_{question}_{pos|neg}_{pair}`, or `{trait}_{question}` in a file all of whose rollouts have the
    /// given `polarity`; the n-th row of an id is its rollout n. A score that is null, empty, `nan`, `None`, `null`,
    /// `NA`, `N/A` or `REFUSAL`, in upper or lower case, is read as missing. Rounding may move a mean off the scale: up
    /// to a millionth of the scale (0.0001) beyond 0 or 100 is clamped. The score columns may be missing; additional
    /// columns are ignored. Answers are tokenized as in the original code: prompt and answer are encoded together.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read); [`Error::Table`] for a damaged file; [`Error::BadRollouts`] with
    /// the line (in Parquet, the row) and the fault; a text that the tokenizer refuses.
    pub fn read(
        path: impl AsRef<Path>,
        trait_name: &str,
        polarity: Option<Polarity>,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let path = path.as_ref();
        let bad = |line: Option<u64>, source| Error::BadRollouts { path: path.to_owned(), line, source };
        let failed = |error: ConversationError| match error {
            ConversationError::File(error) => error.into(),
            error => Error::Table(error),
        };
        let wanted = [QUESTION, PROMPT, ANSWER, ID, trait_name, COHERENCE].map(str::to_owned);
        let table = TableReader::open(path, move |name| wanted.iter().any(|wanted| wanted == name)).map_err(failed)?;
        if let Some(found) = table.columns() {
            let lacks = |name: &&str| !found.iter().any(|found| found == name);
            if let Some(name) = [QUESTION, PROMPT, ANSWER, ID].iter().find(|name| lacks(name)) {
                let found = found.to_vec();
                return Err(bad(None, RolloutsFileError::NoColumn { column: name, found }));
            }
        }
        let mut read = Self::default();
        let mut seen: BTreeMap<(usize, Polarity, usize), usize> = BTreeMap::new();
        for row in table {
            let (line, row) = row.map_err(failed)?;
            let bad = |source| bad(Some(line), source);
            let row = row.map_err(|source| bad(RolloutsFileError::Row { source }))?;
            let text = |column: &'static str| match row.get(column) {
                Some(Value::String(text)) => Ok(text.clone()),
                Some(other) => Err(bad(RolloutsFileError::NotText { column, found: other.to_string() })),
                None => Err(bad(RolloutsFileError::NoValue { column })),
            };
            let (question, prompt, answer, question_id) = (text(QUESTION)?, text(PROMPT)?, text(ANSWER)?, text(ID)?);
            let (question_index, polarity, pair) = place(&question_id, trait_name, polarity).map_err(bad)?;
            let rollouts = seen.entry((question_index, polarity, pair)).or_default();
            let place = Place { question: question_index, pair, polarity, rollout: *rollouts };
            *rollouts += 1;
            let tokens = answer_ids(tokenizer, &prompt, &answer)?;
            let score = |column: &str| match row.get(column) {
                Some(value) => score_of(value).map_err(|InvalidScore| {
                    bad(RolloutsFileError::Score { column: column.to_owned(), found: value.to_string() })
                }),
                None => Ok(None),
            };
            read.trait_scores.push(score(trait_name)?);
            read.coherence.push(score(COHERENCE)?);
            read.records.push(Record {
                question_id,
                place,
                question,
                prompt,
                answer,
                tokens,
                seed: None,
                finish: None,
            });
        }
        Ok(read)
    }

    /// Appends the rollouts of another file, such as those of the other polarity.
    pub fn extend(&mut self, other: Self) {
        self.records.extend(other.records);
        self.trait_scores.extend(other.trait_scores);
        self.coherence.extend(other.coherence);
    }

    /// The properties of the rollouts that a filter uses.
    pub fn scored(&self) -> Vec<Scored> {
        let scores = self.trait_scores.iter().zip(&self.coherence);
        let scored = self.records.iter().zip(scores).map(|(record, (&trait_score, &coherence))| Scored {
            place: record.place,
            empty: record.is_empty(),
            trait_score,
            coherence,
        });
        scored.collect()
    }
}

impl RolloutRun {
    /// Writes the rollouts of one polarity (the original code has a file for each), or all, as CSV. The score is empty
    /// if the rollout has not been judged or the judge abstained.
    ///
    /// # Errors
    /// [`Error::IncompleteRun`] if rollouts are missing, [`FileError::Write`](pv_data::FileError::Write).
    pub fn write_csv(&self, path: impl AsRef<Path>, polarity: Option<Polarity>) -> Result<()> {
        if !self.is_complete() {
            let (done, total) = (self.records().len(), self.plan().len());
            let path = self.folder().to_owned();
            return Err(Error::IncompleteRun { path, part: RunPart::Rollouts, done, total });
        }
        let trait_name = self.plan().trait_name();
        let score = |rubric: &str, index: usize| self.verdict(rubric, index).and_then(pv_judge::Verdict::value);
        let rows = self.records().iter().enumerate().filter(|(_, r)| polarity.is_none_or(|p| p == r.place.polarity));
        let rows = rows.map(|(index, record)| (record, score(trait_name, index), score(COHERENCE, index)));
        write_csv(path.as_ref(), trait_name, rows)
    }
}

/// Writes rollouts with their trait and coherence scores.
pub(crate) fn write_csv<'a>(
    path: &Path,
    trait_name: &str,
    rows: impl Iterator<Item = (&'a Record, Option<f64>, Option<f64>)>,
) -> Result<()> {
    let mut table = CsvTable::default();
    table.fields(["question", "prompt", "answer", "question_id", trait_name, COHERENCE]).end();
    for (record, shown, coherence) in rows {
        let Record { question, prompt, answer, question_id, .. } = record;
        table.fields([question, prompt, answer, question_id]).numbers([shown, coherence]).end();
    }
    files::write(path, table.finish()?.as_bytes())
}

/// The question, polarity and pair of an id.
fn place(id: &str, trait_name: &str, given: Option<Polarity>) -> Result<(usize, Polarity, usize), RolloutsFileError> {
    let form = || RolloutsFileError::Id { id: id.to_owned(), trait_name: trait_name.to_owned() };
    let rest = id.strip_prefix(trait_name).and_then(|rest| rest.strip_prefix('_')).ok_or_else(form)?;
    let parts: Vec<&str> = rest.split('_').collect();
    let number = |text: &str| text.parse::<usize>().map_err(|_| form());
    let (question, polarity, pair) = match (parts.as_slice(), given) {
        (&[question, polarity, pair], _) => {
            let polarity = [Polarity::Pos, Polarity::Neg].into_iter().find(|known| side(*known) == polarity);
            (number(question)?, polarity.ok_or_else(form)?, number(pair)?)
        }
        (&[question], Some(polarity)) => (number(question)?, polarity, 0),
        (&[_], None) => return Err(RolloutsFileError::NoPolarity { id: id.to_owned() }),
        _ => return Err(form()),
    };
    match given {
        Some(given) if given != polarity => {
            Err(RolloutsFileError::OtherPolarity { id: id.to_owned(), found: polarity, given })
        }
        _ => Ok((question, polarity, pair)),
    }
}

/// How far rounding may move a mean beyond the scale of 0 to 100: a millionth of the scale, which is more than the
/// rounding of f32.
const ROUNDING: f64 = 1e-4;

/// The texts for a missing score, as written by Python and other tools, and for a judge's refusal.
const NO_SCORE: [&str; 10] = ["", "nan", "-nan", "none", "null", "na", "n/a", "<na>", "#n/a", "refusal"];

/// A value that is neither a score nor stands for a missing one.
#[derive(Debug, PartialEq)]
struct InvalidScore;

/// The score in a value, 0 to 100; `None` if the value stands for a missing score.
fn score_of(value: &Value) -> Result<Option<f64>, InvalidScore> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => score(text),
        Value::Number(number) => score(&number.to_string()),
        _ => Err(InvalidScore),
    }
}

/// The score in a text, 0 to 100; `None` if the text stands for a missing score.
fn score(text: &str) -> Result<Option<f64>, InvalidScore> {
    let text = text.trim();
    if NO_SCORE.iter().any(|none| text.eq_ignore_ascii_case(none)) {
        return Ok(None);
    }
    match text.parse::<f64>() {
        // Adding 0 turns −0 into 0.
        Ok(score) if (-ROUNDING..=100.0 + ROUNDING).contains(&score) => Ok(Some(score.clamp(0.0, 100.0) + 0.0)),
        _ => Err(InvalidScore),
    }
}

#[cfg(test)]
mod tests;
