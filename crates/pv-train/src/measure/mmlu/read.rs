//! Reads the original CSV files, and the Parquet files of `cais/mmlu`.

use std::path::{Path, PathBuf};

use pv_data::FileError;
use pv_data::conversations::{ConversationError, TableReader};

use super::question::{LETTERS, Question, QuestionSet};
use crate::measure::{MeasureError, QuestionError, Result};

impl QuestionSet {
    /// Reads a folder in the original layout: `{subject}_dev.csv` and `{subject}_test.csv`, in the folder itself or in
    /// its folders `dev` and `test`. With the feature `data`, it also reads the layout of `cais/mmlu`: `dev-*.parquet`
    /// and `test-*.parquet`, in the folder itself, in its folder `all`, or else in one folder per subject. Subjects are
    /// in alphabetical order.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read); [`MeasureError::BadQuestions`] for a folder without test files,
    /// or a file that does not contain questions.
    pub fn read_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        if let Some(set) = read_parquet_folder(folder)? {
            return Ok(set);
        }
        let read = |part: &str| -> Result<Vec<Question>> {
            let inside = folder.join(part);
            let mut questions = Vec::new();
            for (subject, path) in files(if inside.is_dir() { &inside } else { folder }, &format!("_{part}.csv"))? {
                questions.extend(Question::read_csv(&path, &subject)?);
            }
            Ok(questions)
        };
        let set = Self { dev: read("dev")?, test: read("test")? };
        if set.test.is_empty() {
            let (path, source) = (folder.to_owned(), QuestionError::NoTestFiles);
            return Err(MeasureError::BadQuestions { path, line: None, source });
        }
        Ok(set)
    }
}

impl Question {
    /// Reads a CSV file without header whose columns are the question, four choices, and the letter of the correct one.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read); [`MeasureError::BadQuestions`] with the line.
    pub fn read_csv(path: impl AsRef<Path>, subject: &str) -> Result<Vec<Self>> {
        let path = path.as_ref();
        let file =
            pv_data::files::open_file(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file);
        let mut questions = Vec::new();
        for record in reader.records() {
            let bad = |line, source: QuestionError| MeasureError::BadQuestions { path: path.to_owned(), line, source };
            let record = record.map_err(|error| bad(error.position().map(csv::Position::line), error.into()))?;
            let line = record.position().map(csv::Position::line);
            let fields: Vec<&str> = record.iter().collect();
            let [question, choices @ .., answer] = fields.as_slice() else {
                return Err(bad(line, QuestionError::Columns { found: fields.len() }));
            };
            let letter = answer.trim();
            let index = LETTERS.iter().position(|known| letter == known.to_string());
            let index = index.ok_or_else(|| bad(line, QuestionError::Letter { found: letter.to_owned() }))?;
            let question = Self::from_columns(subject, *question, choices.iter().copied(), index as i64);
            questions.push(question.map_err(|error| bad(line, error))?);
        }
        Ok(questions)
    }
}

/// The questions of a folder's Parquet files; `None` if there are no test files.
fn read_parquet_folder(folder: &Path) -> Result<Option<QuestionSet>> {
    let failed = |source| FileError::Read { path: folder.to_owned(), source };
    let mut below = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        below.extend(path.is_dir().then_some(path));
    }
    below.sort();
    let all = folder.join("all");
    // The folder `all` contains every subject, so the folders beside it would be counted twice.
    for places in [vec![folder.to_owned()], vec![all], below] {
        let mut found = [Vec::new(), Vec::new()];
        for place in places.iter().filter(|place| place.is_dir()) {
            for (found, part) in found.iter_mut().zip(["dev", "test"]) {
                let named = files(place, ".parquet")?.into_iter().filter(|(name, _)| {
                    name.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
                });
                found.extend(named.map(|(_, path)| path));
            }
        }
        let [dev, test] = &found;
        if !test.is_empty() {
            let read = |paths: &[PathBuf]| -> Result<Vec<Question>> {
                let mut questions = Vec::new();
                for path in paths {
                    questions.extend(Question::read_parquet(path)?);
                }
                // The order within a subject is kept.
                questions.sort_by(|a, b| a.subject.cmp(&b.subject));
                Ok(questions)
            };
            return Ok(Some(QuestionSet { dev: read(dev)?, test: read(test)? }));
        }
    }
    Ok(None)
}

impl Question {
    /// Reads a Parquet file (feature `data`) with the columns `question`, `subject`, `choices` (a list of four texts)
    /// and `answer` (0 to 3), like those of `cais/mmlu`; other columns are ignored.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read); [`MeasureError::BadQuestions`] with the row, counted from 1.
    pub fn read_parquet(path: impl AsRef<Path>) -> Result<Vec<Self>> {
        #[derive(serde::Deserialize)]
        struct Row {
            question: String,
            subject: String,
            choices: Vec<String>,
            answer: i64,
        }
        let path = path.as_ref();
        let bad = |line, source| MeasureError::BadQuestions { path: path.to_owned(), line, source };
        let failed = |error| match error {
            ConversationError::File(error) => error.into(),
            error => bad(None, QuestionError::Table(error.into())),
        };
        let columns = |name: &str| ["question", "subject", "choices", "answer"].contains(&name);
        let mut questions = Vec::new();
        for row in TableReader::open(path, columns).map_err(failed)? {
            let (number, row) = row.map_err(failed)?;
            let row = row.map_err(|problem| QuestionError::Row(problem.into()));
            let question = row.and_then(|row| {
                let Row { question, subject, choices, answer } = serde_json::from_value(row.into())?;
                Self::from_columns(subject, question, choices, answer)
            });
            questions.push(question.map_err(|error| bad(Some(number), error))?);
        }
        Ok(questions)
    }
}

/// The files in a folder whose names have this ending, with the part of the name before it.
fn files(folder: &Path, ending: &str) -> Result<Vec<(String, PathBuf)>> {
    let failed = |source| FileError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(subject) = name.strip_suffix(ending) {
            found.push((subject.to_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_are_read() {
        let row = "\"What, then, is 2 + 2?\",3,\"\"\"4\"\"\",\"5\n6\",7,B\n";
        for flat in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            for part in ["dev", "test"] {
                let place = if flat { folder.path().to_owned() } else { folder.path().join(part) };
                std::fs::create_dir_all(&place).unwrap();
                std::fs::write(place.join(format!("simple_sums_{part}.csv")), row).unwrap();
                std::fs::write(place.join(format!("art_{part}.csv")), format!("{row}{row}")).unwrap();
            }
            let set = QuestionSet::read_folder(folder.path()).unwrap();
            assert_eq!((set.dev.len(), set.test.len()), (3, 3));
            let choices = ["3", "\"4\"", "5\n6", "7"].map(str::to_owned);
            let question = "What, then, is 2 + 2?".to_owned();
            let expected = Question { subject: "simple_sums".into(), question, choices, answer: 1 };
            assert_eq!(set.test[2], expected);
            assert_eq!(set.test[0].subject, "art");
            assert_eq!(set.clone().first_of_each(1).test.len(), 2);
        }
    }

    #[test]
    fn what_is_no_question_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x_test.csv");
        let good = "q,a,b,c,d,A\n";
        for bad in ["q,a,b,c,d,E", "q,a,b,c,A", "q,a,b,c,d,e,A", "q", "q,a,b,c,d,"] {
            std::fs::write(&path, format!("{good}{bad}\n{good}")).unwrap();
            let error = Question::read_csv(&path, "x").unwrap_err();
            assert!(matches!(error, MeasureError::BadQuestions { line: Some(2), .. }), "{bad}: {error}");
        }
        std::fs::write(&path, "").unwrap();
        assert!(matches!(QuestionSet::read_folder(folder.path()), Err(MeasureError::BadQuestions { .. })));
        assert!(matches!(
            QuestionSet::read_folder(folder.path().join("no")),
            Err(MeasureError::File(FileError::Read { .. }))
        ));
        for (choices, answer) in [(3, 0), (4, 4), (4, -1), (5, 0)] {
            assert!(Question::from_columns("s", "q", vec!["x"; choices], answer).is_err());
        }
    }
}
