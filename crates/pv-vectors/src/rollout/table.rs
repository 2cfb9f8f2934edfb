//! Rollouts with their scores as tables, in the columns of the original code: `question, prompt, answer, question_id, {trait},
//! coherence`.

use std::collections::BTreeMap;
use std::path::Path;

use pv_data::ConversationError;
use pv_data::conversations::TableReader;
use pv_judge::{COHERENCE, Polarity};
use pv_model::Tokenizer;
use serde_json::Value;

use super::record::answer_ids;
use super::{Place, Record, RolloutRun, side};
use crate::{CsvTable, Error, Result, Scored, files};

/// Rollouts with their scores, from files of other tools.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoredRollouts {
    /// The rollouts, in the order of the file.
    pub records: Vec<Record>,
    /// How much each shows the trait; `None` where the file has no score.
    pub trait_scores: Vec<Option<f64>>,
    /// How coherent each is; `None` where the file has no score.
    pub coherence: Vec<Option<f64>>,
}

/// The columns that every rollout has.
const QUESTION: &str = "question";
const PROMPT: &str = "prompt";
const ANSWER: &str = "answer";
const ID: &str = "question_id";

impl ScoredRollouts {
    /// Reads a file of rollouts: JSONL, CSV or Parquet, as the file's name says ([`TableReader`]), with the same columns in each.
    ///
    /// Ids are `{trait}_{question}_{pos|neg}_{pair}`, or `{trait}_{question}` in a file all of whose rollouts have the
    /// `polarity` given; the n-th row of an id is its rollout n. A score that is null, empty, `nan`, `None`, `null`, `NA`,
    /// `N/A` or `REFUSAL`, in whatever case, is none. Means may leave the scale by their rounding: up to a millionth of it
    /// (0.0001) beyond 0 or 100 is taken as the end. The score columns may be missing; further columns are passed over.
    /// Answers become tokens as the original makes them: prompt and answer are encoded in one piece.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read); [`Error::BadRollouts`] with the line (in Parquet, the row), and the column of a score that is none; a
    /// text that the tokenizer refuses.
    pub fn read(
        path: impl AsRef<Path>,
        trait_name: &str,
        polarity: Option<Polarity>,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let path = path.as_ref();
        let bad = |line: Option<u64>, reason: String| Error::BadRollouts { path: path.to_owned(), line, reason };
        let failed = |error: ConversationError| match error {
            ConversationError::File(error) => error.into(),
            error @ ConversationError::Damaged { .. } => bad(None, error.to_string()),
            error => Error::Table(error),
        };
        let wanted = [QUESTION, PROMPT, ANSWER, ID, trait_name, COHERENCE].map(str::to_owned);
        let table = TableReader::open(path, move |name| wanted.iter().any(|wanted| wanted == name)).map_err(failed)?;
        if let Some(found) = table.columns() {
            let lacks = |name: &&str| !found.iter().any(|found| found == name);
            if let Some(name) = [QUESTION, PROMPT, ANSWER, ID].iter().find(|name| lacks(name)) {
                return Err(bad(None, format!("it has no column {name:?}; it has {found:?}")));
            }
        }
        let mut read = Self::default();
        let mut seen: BTreeMap<(usize, Polarity, usize), usize> = BTreeMap::new();
        for row in table {
            let (line, row) = row.map_err(failed)?;
            let bad = |reason: String| bad(Some(line), reason);
            let row = row.map_err(bad)?;
            let text = |name: &str| match row.get(name) {
                Some(Value::String(text)) => Ok(text.clone()),
                Some(other) => Err(bad(format!("its {name:?} is {other}, not text"))),
                None => Err(bad(format!("it has no {name:?}"))),
            };
            let (question, prompt, answer, question_id) = (text(QUESTION)?, text(PROMPT)?, text(ANSWER)?, text(ID)?);
            let (question_index, polarity, pair) = place(&question_id, trait_name, polarity).map_err(bad)?;
            let rollouts = seen.entry((question_index, polarity, pair)).or_default();
            let place = Place { question: question_index, pair, polarity, rollout: *rollouts };
            *rollouts += 1;
            let tokens = answer_ids(tokenizer, &prompt, &answer)?;
            let score = |name: &str| {
                let found = row.get(name).map_or(Ok(None), score_of);
                found.map_err(|reason| bad(format!("column {name:?}: {reason}")))
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

    /// Adds the rollouts of another file, such as those of the other polarity.
    pub fn extend(&mut self, other: Self) {
        self.records.extend(other.records);
        self.trait_scores.extend(other.trait_scores);
        self.coherence.extend(other.coherence);
    }

    /// What a filter sees of them.
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
    /// Writes the rollouts of one polarity (the original has a file for each), or all, as CSV. What has not been judged,
    /// or where the judge gave no score, has an empty score.
    ///
    /// # Errors
    /// [`Error::IncompleteRun`] before all rollouts are there, [`FileError::Write`](pv_data::FileError::Write).
    pub fn write_csv(&self, path: impl AsRef<Path>, polarity: Option<Polarity>) -> Result<()> {
        if !self.is_complete() {
            let (done, total) = (self.records().len(), self.plan().len());
            let (path, what) = (self.folder().to_owned(), "rollouts".to_owned());
            return Err(Error::IncompleteRun { path, what, done, total });
        }
        let trait_name = self.plan().trait_name();
        let score = |rubric: &str, index: usize| self.verdict(rubric, index).and_then(pv_judge::Verdict::value);
        let rows = self.records().iter().enumerate().filter(|(_, r)| polarity.is_none_or(|p| p == r.place.polarity));
        let rows = rows.map(|(index, record)| (record, score(trait_name, index), score(COHERENCE, index)));
        write_csv(path.as_ref(), trait_name, rows)
    }
}

/// Writes rollouts with their scores for the trait and for coherence.
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

/// The question, polarity and pair that an id names.
fn place(id: &str, trait_name: &str, given: Option<Polarity>) -> std::result::Result<(usize, Polarity, usize), String> {
    let form = || format!("the id {id:?} is not {trait_name}_QUESTION_pos_PAIR, {trait_name}_QUESTION_neg_PAIR");
    let rest = id.strip_prefix(trait_name).and_then(|rest| rest.strip_prefix('_')).ok_or_else(form)?;
    let parts: Vec<&str> = rest.split('_').collect();
    let number = |text: &str| text.parse::<usize>().map_err(|_| form());
    let (question, polarity, pair) = match (parts.as_slice(), given) {
        (&[question, polarity, pair], _) => {
            let polarity = [Polarity::Pos, Polarity::Neg].into_iter().find(|known| side(*known) == polarity);
            (number(question)?, polarity.ok_or_else(form)?, number(pair)?)
        }
        (&[question], Some(polarity)) => (number(question)?, polarity, 0),
        (&[_], None) => return Err(format!("{}, and the polarity of the file is not given", form())),
        _ => return Err(form()),
    };
    match given {
        Some(given) if given != polarity => {
            Err(format!("the id {id:?} is of {}, but the file is said to be of {}", side(polarity), side(given)))
        }
        _ => Ok((question, polarity, pair)),
    }
}

/// How far beyond its ends the rounding of a mean may leave the scale of 0 to 100: a millionth of it, more than that of f32.
const ROUNDING: f64 = 1e-4;

/// What Python's and other tools write where there is no score, and what a judge does who will not score.
const NO_SCORE: [&str; 10] = ["", "nan", "-nan", "none", "null", "na", "n/a", "<na>", "#n/a", "refusal"];

/// The score that a value is, 0 to 100; `None` where it says that there is none.
fn score_of(value: &Value) -> std::result::Result<Option<f64>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => score(text),
        Value::Number(number) => score(&number.to_string()),
        other => Err(format!("the score {other} is not a number from 0 to 100")),
    }
}

/// The score that a text is, 0 to 100; `None` where it says that there is none.
fn score(text: &str) -> std::result::Result<Option<f64>, String> {
    let text = text.trim();
    if NO_SCORE.iter().any(|none| text.eq_ignore_ascii_case(none)) {
        return Ok(None);
    }
    match text.parse::<f64>() {
        // Adding 0 makes −0 what it is.
        Ok(score) if (-ROUNDING..=100.0 + ROUNDING).contains(&score) => Ok(Some(score.clamp(0.0, 100.0) + 0.0)),
        Ok(_) => Err(format!("the score {text:?} is not between 0 and 100")),
        Err(_) => Err(format!("the score {text:?} is not a number from 0 to 100")),
    }
}

#[cfg(test)]
mod tests;
