//! Values added to rows: the original content is unchanged.

use std::fs;
use std::path::{Path, PathBuf};

use parquet::basic::Compression;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use pv_data::conversations::{
    Cell, ConversationError, NewColumn, RowPlace, Written, add_columns, add_fields, read_conversations,
};
use serde_json::Value;

use super::making::{Layout, Talk, gzip, lines, lmsys, talks};
use super::parquet::records;
use super::{conversations, good};

fn columns() -> [NewColumn; 2] {
    [NewColumn::number("proj"), NewColumn::text("a \"name\"")]
}

type Answer = Result<Option<Vec<Cell>>, Box<dyn std::error::Error + Send + Sync>>;

/// Keeps rows whose number is not divisible by three; some values are null.
fn values(place: &RowPlace) -> Answer {
    let number =
        if place.row.is_multiple_of(5) { Cell::Number(f64::NAN) } else { Cell::Number(place.row as f64 / 7.0) };
    let text = if place.row.is_multiple_of(4) { Cell::Null } else { Cell::Text(format!("\"{}\"\n", place.row)) };
    Ok((!place.row.is_multiple_of(3)).then(|| vec![number, text]))
}

#[test]
fn a_line_is_copied_byte_for_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, out) = (folder.path().join("a.jsonl"), folder.path().join("b.jsonl"));
    // Numbers that no f64 represents, spaces, escapes, keys in another order, one of them twice.
    let odd = r#"{ "z":1e400,"y" : 18446744073709551616, "x":1.00, "messages":[{"role":"user","content":"\u00e9é"}] ,"z":[ ] }"#;
    let text = format!("\u{feff}{odd}\r\n\n{{}}\n{odd}\n{{ }}\n  {odd}  \n");
    fs::write(&path, text).expect("a writable folder");
    let mut asked = Vec::new();
    let written = add_fields(&[&path], &out, &columns(), |place| {
        asked.push(place.row);
        values(place)
    });
    assert_eq!(written.expect("a file"), Written { kept: 3, left_out: 2 });
    assert_eq!(asked, [1, 3, 4, 5, 6]);
    let base = odd.strip_suffix(" }").expect("an end");
    let seventh = |n: f64| serde_json::to_string(&(n / 7.0)).expect("a number");
    let expected = [
        format!(r#"{base}, "proj": {}, "a \"name\"": "\"1\"\n"}}"#, seventh(1.0)),
        format!(r#"{base}, "proj": {}, "a \"name\"": null}}"#, seventh(4.0)),
        r#"{"proj": null, "a \"name\"": "\"5\"\n"}"#.to_owned(),
    ];
    let read = fs::read_to_string(&out).expect("a file");
    assert_eq!(read.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn lines_of_several_files_become_one_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (first, second) = (talks(50, 20, 20), talks(30, 21, 20));
    fs::write(at("1.jsonl"), lines(&first)).expect("a writable folder");
    fs::write(at("2.jsonl.gz"), gzip(&lines(&second))).expect("a writable folder");
    let kept: Vec<Talk> = [&first, &second]
        .into_iter()
        .flat_map(|talks| {
            talks.iter().enumerate().filter(|(index, _)| (index + 1) % 3 != 0).map(|(_, talk)| talk.clone())
        })
        .collect();
    for out in ["3.jsonl", "4.jsonl.gz", "5.jsonl.zst"] {
        let written = add_fields(&[at("1.jsonl"), at("2.jsonl.gz")], at(out), &columns(), values).expect("a file");
        assert_eq!((written.kept, written.left_out), (kept.len() as u64, 80 - kept.len() as u64));
        assert_eq!(good(&at(out)), conversations(&kept), "{out}");
    }
    // In place of its source.
    add_fields(&[at("1.jsonl")], at("1.jsonl"), &columns(), values).expect("a file");
    let lines = fs::read_to_string(at("1.jsonl")).expect("a file");
    let projections: Vec<f64> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["proj"].as_f64().unwrap_or(f64::NAN))
        .collect();
    let expected: Vec<u64> = (1..=50).filter(|row| row % 3 != 0).collect();
    assert_eq!(projections.len(), expected.len());
    for (projection, row) in projections.iter().zip(expected) {
        assert!(if row % 5 == 0 { projection.is_nan() } else { *projection == row as f64 / 7.0 });
    }
}

/// Runs a writer that must fail and leave no file.
fn fails(
    folder: &Path,
    write: impl FnOnce(&Path) -> Result<Written, ConversationError>,
    name: &str,
) -> ConversationError {
    let before = fs::read_dir(folder).expect("a folder").count();
    let error = write(&folder.join(name)).expect_err("refused");
    assert_eq!(fs::read_dir(folder).expect("a folder").count(), before, "{error}: something was left behind");
    error
}

#[test]
fn invalid_values_are_refused_and_leave_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let text = String::from_utf8(lines(&talks(5, 22, 5))).expect("text");
    fs::write(at("a.jsonl"), format!("{text}{{\"proj\": 1}}\nno JSON\n")).expect("a writable folder");
    fs::write(at("a.csv"), "question,answer\n").expect("a writable folder");
    lmsys(&at("a.parquet"), &talks(5, 22, 5), &Layout::default());
    let all = |_: &RowPlace| -> Answer { Ok(Some(vec![Cell::Number(1.0)])) };
    let number = |name: &str| [NewColumn::number(name)];
    let json = |columns: &[NewColumn], values: &mut dyn FnMut(&RowPlace) -> Answer| {
        fails(folder.path(), |out| add_fields(&[at("a.jsonl")], out, columns, values), "out.jsonl")
    };
    let table = |columns: &[NewColumn], values: &mut dyn FnMut(&RowPlace) -> Answer| {
        fails(folder.path(), |out| add_columns(&[at("a.parquet")], out, columns, values), "out.parquet")
    };
    let taken = |error: &ConversationError, row: u64, taken: &str| {
        assert!(
            matches!(error, ConversationError::NameTaken { place, name } if place.row == row && name == taken),
            "{error}"
        );
    };
    taken(&json(&number("messages"), &mut { all }), 1, "messages");
    taken(&json(&number("proj"), &mut { all }), 6, "proj");
    taken(&table(&number("conversation"), &mut { all }), 1, "conversation");
    let twice = [NewColumn::number("x"), NewColumn::text("x")];
    taken(&json(&twice, &mut { all }), 0, "x");
    taken(&table(&twice, &mut { all }), 1, "x");
    let bad = json(&number("x"), &mut { all });
    assert!(matches!(&bad, ConversationError::Bad(bad) if bad.place.row == 7), "{bad}");
    for (cells, one) in [(vec![], false), (vec![Cell::Text("a".into())], true), (vec![Cell::Null, Cell::Null], false)] {
        for error in [
            json(&number("x"), &mut |_| Ok(Some(cells.clone()))),
            table(&number("x"), &mut |_| Ok(Some(cells.clone()))),
        ] {
            let found = match &error {
                ConversationError::Cell { place, .. } => Some((place.row, true)),
                ConversationError::CellCount { place, .. } => Some((place.row, false)),
                _ => None,
            };
            assert_eq!(found, Some((1, one)), "{error}");
        }
    }
    let mut failing = |place: &RowPlace| if place.row < 3 { Ok(None) } else { Err("the scores end here".into()) };
    for error in [json(&number("x"), &mut failing), table(&number("x"), &mut failing)] {
        assert!(matches!(&error, ConversationError::Source { place, .. } if place.row == 3), "{error}");
    }
    let ways: [(&str, &str); 3] = [("a.csv", "out.jsonl"), ("a.parquet", "out.jsonl"), ("a.jsonl", "out.parquet")];
    for (source, out) in ways {
        let error = fails(folder.path(), |out| add_fields(&[at(source)], out, &number("x"), all), out);
        assert!(matches!(error, ConversationError::Format { .. }), "{error}");
    }
    for (source, out) in [("a.jsonl", "out.parquet"), ("a.parquet", "out.jsonl")] {
        let error = fails(folder.path(), |out| add_columns(&[at(source)], out, &number("x"), all), out);
        assert!(matches!(error, ConversationError::Format { .. }), "{error}");
    }
    let none: [PathBuf; 0] = [];
    let error = fails(folder.path(), |out| add_columns(&none, out, &number("x"), all), "out.parquet");
    assert!(matches!(error, ConversationError::File(pv_data::FileError::Write { .. })), "{error}");
    // A source that ends early.
    fs::write(at("b.jsonl.gz"), &gzip(text.as_bytes())[..60]).expect("a writable folder");
    let error = fails(folder.path(), |out| add_fields(&[at("b.jsonl.gz")], out, &number("x"), all), "out.jsonl");
    assert!(matches!(error, ConversationError::Damaged { .. }), "{error}");
}

/// A record's columns.
fn fields(row: &Row) -> Vec<(String, Field)> {
    row.get_column_iter().map(|(name, field)| (name.clone(), field.clone())).collect()
}

#[test]
fn columns_of_all_types_are_copied() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (first, second) = (talks(300, 23, 30), talks(90, 24, 30));
    for (group, compression) in [(1, Compression::SNAPPY), (64, Compression::LZ4_RAW), (2, Compression::UNCOMPRESSED)] {
        lmsys(&at("1.parquet"), &first, &Layout { group: group * 50, compression, ..Layout::default() });
        lmsys(&at("2.parquet"), &second, &Layout { group, compression, ..Layout::default() });
        let mut asked = Vec::new();
        let sources = [at("1.parquet"), at("2.parquet")];
        let written = add_columns(&sources, at("3.parquet"), &columns(), |place| {
            asked.push((place.file.to_path_buf(), place.row));
            values(place)
        });
        assert_eq!(written.expect("a file"), Written { kept: 260, left_out: 130 });
        let places = |file: usize, rows: u64| (1..=rows).map(move |row| (file, row));
        let all: Vec<(usize, u64)> = places(0, 300).chain(places(1, 90)).collect();
        assert!(
            asked
                .iter()
                .map(|(file, row)| (file.as_path(), *row))
                .eq(all.iter().map(|(file, row)| (sources[*file].as_path(), *row)))
        );
        let before: Vec<Row> = sources.iter().flat_map(|path| records(path)).collect();
        let after = records(&at("3.parquet"));
        let kept: Vec<((usize, u64), &Row)> =
            all.into_iter().zip(&before).filter(|((_, row), _)| row % 3 != 0).collect();
        assert_eq!(after.len(), kept.len());
        for (after, ((_, row), before)) in after.iter().zip(kept) {
            let (after, before) = (fields(after), fields(before));
            assert_eq!(after[..before.len()], before);
            let number = if row % 5 == 0 { Field::Null } else { Field::Double(row as f64 / 7.0) };
            let text = if row % 4 == 0 { Field::Null } else { Field::Str(format!("\"{row}\"\n")) };
            assert_eq!(after[before.len()..], [("proj".into(), number), ("a \"name\"".into(), text)]);
        }
        let reader =
            SerializedFileReader::new(fs::File::open(at("3.parquet")).expect("a file")).expect("a Parquet file");
        for group in reader.metadata().row_groups() {
            assert!(group.columns().iter().all(|chunk| chunk.compression() == compression));
        }
        let notes = reader.metadata().file_metadata().key_value_metadata().expect("notes");
        assert!(notes.iter().any(|note| note.key == "note" && note.value.as_deref() == Some("kept")));
        assert!(notes.iter().all(|note| note.key != "ARROW:schema"));
        assert_eq!(read_conversations(at("3.parquet")).expect("a file").len(), 260);
    }
}

#[test]
fn a_table_may_replace_its_source_but_not_add_existing_columns() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let talks = talks(100, 25, 20);
    lmsys(&at("1.parquet"), &talks, &Layout::default());
    let none = add_columns(&[at("1.parquet")], at("2.parquet"), &columns(), |_| Ok(None)).expect("a file");
    assert_eq!(none, Written { kept: 0, left_out: 100 });
    assert!(good(&at("2.parquet")).is_empty());
    add_columns(&[at("1.parquet")], at("1.parquet"), &[], |_| Ok(Some(vec![]))).expect("a file");
    assert_eq!(good(&at("1.parquet")), conversations(&talks));
    let sources = [at("1.parquet"), at("2.parquet")];
    let error = fails(folder.path(), |out| add_columns(&sources, out, &[], |_| Ok(Some(vec![]))), "out.parquet");
    assert!(
        matches!(&error, ConversationError::OtherSchema { path, first } if *path == sources[1] && *first == sources[0]),
        "{error}"
    );
}
