//! Questions in Parquet files equal those in CSV files.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use pv_tests::root;
use pv_train::measure::MeasureError;
use pv_train::measure::mmlu::{Question, QuestionSet};

use super::*;

/// A row as written, which need not be a valid question.
struct Row {
    question: String,
    subject: String,
    choices: Vec<String>,
    answer: i64,
}

impl From<&Question> for Row {
    fn from(question: &Question) -> Self {
        let Question { subject, question, choices, answer } = question.clone();
        Self { question, subject, choices: choices.into(), answer: answer as i64 }
    }
}

/// A file with the columns of `cais/mmlu`, three rows in a group.
fn write(path: &Path, rows: &[Row]) {
    let schema = "message schema {
        optional binary question (UTF8);
        optional binary subject (UTF8);
        optional group choices (LIST) { repeated group list { optional binary element (UTF8); } }
        optional int64 answer;
    }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
    let file = File::create(path).expect("a writable folder");
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default())).expect("a writer");
    let text = |text: &String| ByteArray::from(text.as_bytes().to_vec());
    for rows in rows.chunks(3) {
        let mut group = writer.next_row_group().expect("a group");
        let there = vec![1i16; rows.len()];
        let questions: Vec<ByteArray> = rows.iter().map(|row| text(&row.question)).collect();
        let subjects: Vec<ByteArray> = rows.iter().map(|row| text(&row.subject)).collect();
        for values in [questions, subjects] {
            let mut column = group.next_column().expect("a column").expect("a column");
            column.typed::<ByteArrayType>().write_batch(&values, Some(&there), None).expect("values");
            column.close().expect("a column");
        }
        let choices: Vec<ByteArray> = rows.iter().flat_map(|row| row.choices.iter().map(text)).collect();
        let repeated: Vec<i16> = rows.iter().flat_map(|row| (0..row.choices.len()).map(|i| i16::from(i > 0))).collect();
        let mut column = group.next_column().expect("a column").expect("a column");
        let levels = vec![3i16; choices.len()];
        column.typed::<ByteArrayType>().write_batch(&choices, Some(&levels), Some(&repeated)).expect("values");
        column.close().expect("a column");
        let answers: Vec<i64> = rows.iter().map(|row| row.answer).collect();
        let mut column = group.next_column().expect("a column").expect("a column");
        column.typed::<Int64Type>().write_batch(&answers, Some(&there), None).expect("values");
        column.close().expect("a column");
        group.close().expect("a group");
    }
    writer.close().expect("a file");
}

fn rows(questions: &[Question]) -> Vec<Row> {
    questions.iter().map(Row::from).collect()
}

#[test]
fn every_layout_gives_the_same_questions() {
    let set = QuestionSet::read_folder(root().join("tests/golden/mmlu")).expect("questions");
    let subjects: std::collections::BTreeSet<&String> = set.test.iter().map(|question| &question.subject).collect();
    assert!(subjects.len() > 1 && set.dev.len() > 3);
    for inside in [".", "all"] {
        let place = folder();
        let at = place.path().join(inside);
        // With subjects mixed, unlike in the original, and with other files.
        let mixed = |questions: &[Question]| {
            let (even, odd): (Vec<_>, Vec<_>) = questions.iter().enumerate().partition(|(i, _)| i % 2 == 0);
            even.into_iter().chain(odd).map(|(_, question)| question.clone()).collect::<Vec<_>>()
        };
        let half = set.test.len() / 2;
        write(&at.join("test-00000-of-00002.parquet"), &rows(&set.test[..half]));
        write(&at.join("test-00001-of-00002.parquet"), &rows(&set.test[half..]));
        write(&at.join("dev-00000-of-00001.parquet"), &rows(&set.dev));
        write(&at.join("validation-00000-of-00001.parquet"), &rows(&mixed(&set.test)));
        let read = QuestionSet::read_folder(place.path()).expect("questions");
        assert_eq!(read, set);
        if inside == "all" {
            // In addition to `all`, the subjects again.
            write(&place.path().join("anatomy/test-00000-of-00001.parquet"), &rows(&set.test[..1]));
            assert_eq!(QuestionSet::read_folder(place.path()).expect("questions"), set);
        }
    }
    // A folder for each subject.
    let place = folder();
    for subject in subjects {
        let of = |all: &[Question]| -> Vec<Row> {
            all.iter().filter(|question| question.subject == *subject).map(Row::from).collect()
        };
        write(&place.path().join(subject).join("test-00000-of-00001.parquet"), &of(&set.test));
        write(&place.path().join(subject).join("dev-00000-of-00001.parquet"), &of(&set.dev));
    }
    assert_eq!(QuestionSet::read_folder(place.path()).expect("questions"), set);
}

#[test]
fn invalid_questions_are_reported_with_their_row() {
    let set = QuestionSet::read_folder(root().join("tests/golden/mmlu")).expect("questions");
    let place = folder();
    let path = place.path().join("test.parquet");
    let with = |change: &dyn Fn(&mut Row)| {
        let mut rows = rows(&set.test[..5]);
        change(&mut rows[3]);
        write(&path, &rows);
        QuestionSet::read_folder(place.path()).expect_err("no questions")
    };
    for change in [
        (&|row: &mut Row| row.answer = 4) as &dyn Fn(&mut Row),
        &|row: &mut Row| row.answer = -1,
        &|row: &mut Row| drop(row.choices.pop()),
        &|row: &mut Row| row.choices.push("e".to_owned()),
    ] {
        let error = with(change);
        assert!(matches!(error, MeasureError::BadQuestions { line: Some(4), .. }), "{error}");
    }
    // Without a column, and truncated.
    let schema = Arc::new(parse_message_type("message schema { optional binary text (UTF8); }").expect("a schema"));
    let file = File::create(&path).expect("a writable folder");
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default())).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    let mut column = group.next_column().expect("a column").expect("a column");
    column.typed::<ByteArrayType>().write_batch(&[ByteArray::from("x")], Some(&[1]), None).expect("values");
    column.close().expect("a column");
    group.close().expect("a group");
    writer.close().expect("a file");
    let error = QuestionSet::read_folder(place.path()).expect_err("no questions");
    assert!(error.to_string().contains("question"), "{error}");
    write(&path, &rows(&set.test[..5]));
    let bytes = std::fs::read(&path).expect("a file");
    for keep in [bytes.len() - 1, bytes.len() / 2, 3, 0] {
        std::fs::write(&path, &bytes[..keep]).expect("a writable folder");
        let error = QuestionSet::read_folder(place.path()).expect_err("no questions");
        assert!(matches!(error, MeasureError::BadQuestions { line: None, .. }), "{error}");
    }
}
