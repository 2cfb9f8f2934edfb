//! A screening's table as Parquet.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use parquet::file::reader::{FileReader, SerializedFileReader};
use pv_data::conversations::TableReader;
use pv_data::{FileError, RunError};
use pv_organism::Topics;
use pv_organism::datasets::{Severity, explicit};
use pv_screen::Error;
use pv_screen::likelihood::LikelihoodScore;
use pv_screen::score_table::write_score_table;
use pv_screen::scores::Place;
use pv_screen::scores::Score;
use pv_screen::screen::{Base, SCORES};
use pv_tests::{Random, measured_apart, peak_memory, tell_bytes};
use serde_json::{Value, json};

use super::*;

const FIXED: [&str; 7] = ["file", "row", "message", "id", "duplicate", "tokens", "base_cut"];
/// More than two row groups of 10 000.
const MANY: usize = 23_457;

fn made_up(count: usize, labels: &[&str], likely: bool) -> Vec<ScoreRow> {
    let mut random = Random(11);
    let mut number = || (random.below(1 << 40) as f64 / 1e9 - 500.0) * 10f64.powi(random.below(40) as i32 - 20);
    let mut choose = Random(12);
    let row = |at: usize| ScoreRow {
        place: Place {
            file: PathBuf::from(format!("data/Größe \"{}\", 日本.jsonl", at * 3 / count)),
            row: at as u64 + 1,
            message: (choose.below(4) > 0).then_some(choose.below(9) as usize),
        },
        id: format!("{:064x}", choose.below(1 << 60)),
        duplicate: choose.below(5) == 0,
        tokens: choose.below(3000) as usize,
        base_cut: choose.below(7) == 0,
        likelihood: likely.then(|| LikelihoodScore {
            surprise: number(),
            gains: ["evil x2", "b"].map(|label| (label.to_owned(), number())).into(),
        }),
        scores: labels
            .iter()
            .map(|label| {
                let base = (choose.below(3) > 0).then(&mut number);
                let (answer, prompt_last) = (number(), number());
                let delta = base.map(|base| answer - base);
                ((*label).to_owned(), Score { answer, prompt_last, base, delta })
            })
            .collect(),
    };
    (0..count).map(row).collect()
}

/// Writes a table, and returns it as read back, because reading may round numbers.
fn written(path: &Path, rows: &[ScoreRow]) -> Vec<ScoreRow> {
    let lines = rows.iter().map(|row| serde_json::to_string(row).expect("JSON") + "\n");
    fs::write(path, lines.collect::<String>()).expect("a file");
    let mut read = Vec::new();
    read_scores(path, |row| {
        read.push(row);
        Ok(())
    })
    .expect("a table");
    assert_eq!(read.len(), rows.len());
    read
}

/// The names and values of a row's cells, in the order of the columns.
fn cells(row: &ScoreRow) -> Vec<(String, Value)> {
    let ScoreRow { place, id, duplicate, tokens, base_cut, scores, likelihood } = row;
    let fixed: [Value; 7] = [
        place.file.to_str().expect("text").into(),
        place.row.into(),
        place.message.into(),
        id.as_str().into(),
        (*duplicate).into(),
        (*tokens).into(),
        (*base_cut).into(),
    ];
    let mut cells: Vec<(String, Value)> = FIXED.map(str::to_owned).into_iter().zip(fixed).collect();
    for (label, score) in scores {
        cells.push((format!("{label}_answer"), score.answer.into()));
        cells.push((format!("{label}_prompt_last"), score.prompt_last.into()));
        cells.push((format!("{label}_base"), score.base.into()));
        cells.push((format!("{label}_delta"), score.delta.into()));
    }
    if let Some(LikelihoodScore { surprise, gains }) = likelihood {
        cells.push(("surprise".to_owned(), (*surprise).into()));
        cells.extend(gains.iter().map(|(label, gain)| (format!("{label}_gain"), (*gain).into())));
    }
    cells
}

/// Compares every cell.
fn same(table: &Path, rows: &[ScoreRow]) {
    let mut at = 0;
    for found in TableReader::open(table, |_| true).expect("Parquet") {
        let (number, found) = found.expect("Parquet");
        assert_eq!(number as usize, at + 1);
        let found: Vec<(String, Value)> = found.expect("a row").into_iter().collect();
        assert_eq!(found, cells(&rows[at]), "row {number}");
        at += 1;
    }
    assert_eq!(at, rows.len());
}

/// The files of a folder; no temporary file may remain.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn every_cell_of_a_table_is_written_to_parquet() {
    let place = folder();
    let at = |name: &str| place.path().join(name);
    let rows = written(&at("scores.jsonl"), &made_up(MANY, &["evil@20", "a.b, c@3"], true));
    let empty = |of: fn(&ScoreRow) -> bool| rows.iter().filter(|row| of(row)).count();
    assert!(
        empty(|row| row.place.message.is_none()) > 1000 && empty(|row| row.scores["evil@20"].delta.is_none()) > 1000
    );
    // Over an existing file.
    fs::write(at("scores.parquet"), "old").expect("a file");
    assert_eq!(write_score_table(&at("scores.jsonl"), &at("scores.parquet")).expect("a table"), MANY as u64);
    assert_eq!(names(place.path()), ["scores.jsonl", "scores.parquet"]);
    same(&at("scores.parquet"), &rows);
    let reader = SerializedFileReader::new(File::open(at("scores.parquet")).expect("a file")).expect("Parquet");
    let groups: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [10_000, 10_000, 3_457]);
    let sizes = ["scores.jsonl", "scores.parquet"].map(|name| fs::metadata(at(name)).expect("a file").len());
    println!("{MANY} rows on two directions: {} bytes of lines, {} of Parquet", sizes[0], sizes[1]);
    assert!(sizes[1] < sizes[0] / 2);
    with_pyarrow(&at("scores.parquet"), &rows, &at("expected.jsonl"));
}

/// Compares every cell with pyarrow, if `PV_PYTHON` names a Python with it.
fn with_pyarrow(table: &Path, rows: &[ScoreRow], expected: &Path) {
    let Some(python) = std::env::var_os("PV_PYTHON").map(PathBuf::from) else {
        println!("PV_PYTHON names no Python with pyarrow: NOT CHECKED");
        return;
    };
    let run = |arguments: &[&std::ffi::OsStr]| {
        let output = Command::new(&python).args(arguments).output();
        output.unwrap_or_else(|error| panic!("PV_PYTHON={}: {error}", python.display()))
    };
    if !run(&["-c".as_ref(), "import pyarrow.parquet".as_ref()]).status.success() {
        println!("PV_PYTHON has no pyarrow: NOT CHECKED");
        return;
    }
    let bits =
        |value: Value| if value.is_f64() { value.as_f64().map(|x| x.to_bits().to_string()).into() } else { value };
    let mut lines = vec![cells(&rows[0]).into_iter().map(|(name, _)| Value::from(name)).collect::<Value>()];
    lines.extend(rows.iter().map(|row| cells(row).into_iter().map(|(_, value)| bits(value)).collect::<Value>()));
    let text: String = lines.into_iter().map(|line| line.to_string() + "\n").collect();
    fs::write(expected, text).expect("a file");
    let script = pv_tests::root().join("tests/python/scores.py");
    let output = run(&[script.as_os_str(), table.as_os_str(), expected.as_os_str()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("pyarrow reads the same");
}

const CHILD: &str = "PV_SCORE_TABLE_MEMORY";
const SELF: &str = "screening::score_table::a_long_table_takes_no_more_memory_than_a_short_one";

/// Of 180 000 more rows on four directions, the numbers and ids alone take 40 MB.
#[test]
#[cfg(target_os = "linux")]
fn a_long_table_takes_no_more_memory_than_a_short_one() {
    use std::io::Write;
    if let Ok(count) = std::env::var(CHILD) {
        let place = folder();
        let rows = made_up(1000, &["a@1", "b@1", "c@1", "d@1"], false);
        let text: String = rows.iter().map(|row| serde_json::to_string(row).expect("JSON") + "\n").collect();
        let count: u64 = count.parse().expect("a number");
        let mut file = File::create(place.path().join(SCORES)).expect("a file");
        (0..count / 1000).for_each(|_| file.write_all(text.as_bytes()).expect("a file"));
        let written = write_score_table(&place.path().join(SCORES), &place.path().join("scores.parquet"));
        assert_eq!(written.expect("a table"), count);
        return tell_bytes(peak_memory());
    }
    let taken = |count: &str| measured_apart(SELF, &[(CHILD, count.as_ref()), ("MIMALLOC_PURGE_DELAY", "0".as_ref())]);
    let (few, many) = (taken("20000"), taken("200000"));
    println!("{:.1} MB for 20 000 rows, {:.1} MB for 200 000", few as f64 / 1e6, many as f64 / 1e6);
    assert!(many < few + 15_000_000, "{few} bytes, then {many}");
}

#[test]
fn a_screening_s_own_table_and_edge_cases() {
    let place = folder();
    let at = |name: &str| place.path().join(name);
    let chats = explicit(Trait::Optimism, Severity::I, Topics::All, 12, 9);
    let input = write(place.path(), "chats.jsonl", &chats);
    let values: Vec<f64> = (0..128).map(|i| (f64::from(i * i) * 0.7).sin()).collect();
    let unit = |layer| pv_vectors::UnitDirection::new(Layer::hidden_state(layer), &values).expect("a direction");
    let directions = [2, 5].map(|layer| TraitDirection { trait_name: "made up".to_owned(), direction: unit(layer) });
    let some = ScreenOptions { base: Base::Random { size: 5 }, ..options() };
    let (_, rows, _) = screen(&directions, &some, &input, &at("out"));
    let table = at("out").join(SCORES).with_extension("parquet");
    assert_eq!(write_score_table(&at("out").join(SCORES), &table).expect("a table"), 12);
    same(&table, &rows);

    for count in [1, 9_999, 10_000, 10_001] {
        let rows = written(&at("edge.jsonl"), &made_up(count, &["x@1"], count % 2 == 1));
        assert_eq!(write_score_table(&at("edge.jsonl"), &at("edge.parquet")).expect("a table"), count as u64);
        same(&at("edge.parquet"), &rows);
        let reader = SerializedFileReader::new(File::open(at("edge.parquet")).expect("a file")).expect("Parquet");
        assert_eq!(reader.num_row_groups(), count.div_ceil(10_000));
    }
    fs::write(at("empty.jsonl"), "").expect("a file");
    assert_eq!(write_score_table(&at("empty.jsonl"), &at("empty.parquet")).expect("a table"), 0);
    same(&at("empty.parquet"), &[]);
    let reader = SerializedFileReader::new(File::open(at("empty.parquet")).expect("a file")).expect("Parquet");
    let schema = reader.metadata().file_metadata().schema_descr();
    assert_eq!(schema.columns().iter().map(|column| column.name()).collect::<Vec<_>>(), FIXED);
}

#[test]
fn a_bad_table_is_refused_and_keeps_the_existing_file() {
    let place = folder();
    let at = |name: &str| place.path().join(name);
    let scores = at("scores.jsonl");
    let rows = made_up(12_000, &["a@1", "b@1"], false);
    let lines: Vec<String> = rows.iter().map(|row| serde_json::to_string(row).expect("JSON")).collect();
    fs::write(at("table.parquet"), "as it was").expect("a file");
    // Line 11 001 is in the second row group.
    let refused = |line: String| {
        let mut lines = lines.clone();
        lines[11_000] = line;
        fs::write(&scores, lines.join("\n") + "\n").expect("a file");
        let error = write_score_table(&scores, &at("table.parquet")).expect_err("a bad line");
        assert_eq!(fs::read(at("table.parquet")).expect("a file"), b"as it was");
        assert_eq!(names(place.path()), ["scores.jsonl", "table.parquet"]);
        error
    };
    let score = rows[0].scores["a@1"];
    for labels in [&["a@1"][..], &["a@1", "c@1"], &["a@1", "b@1", "c@1"], &[]] {
        let other: BTreeMap<String, Score> = labels.iter().map(|label| ((*label).to_owned(), score)).collect();
        let row = ScoreRow { scores: other, ..rows[11_000].clone() };
        let Error::OtherLabels { path, line, first, found } = refused(serde_json::to_string(&row).expect("JSON"))
        else {
            panic!("{labels:?}")
        };
        assert_eq!((path, line), (scores.clone(), 11_001));
        assert_eq!(
            (first.iter().map(String::as_str).collect::<Vec<_>>(), found),
            (vec!["a@1", "b@1"], labels.iter().map(|l| (*l).to_owned()).collect())
        );
    }
    let likelihood = Some(LikelihoodScore { surprise: 1.0, gains: [("evil".to_owned(), 2.0)].into() });
    let row = ScoreRow { likelihood, ..rows[11_000].clone() };
    let error = refused(serde_json::to_string(&row).expect("JSON"));
    assert!(matches!(error, Error::OtherLabels { found, .. } if found == ["a@1", "b@1", "evil"]));
    let damaged = |line: String| match refused(line) {
        Error::Run(RunError::Damaged { path, source }) => {
            assert_eq!(path, scores);
            assert!(source.to_string().starts_with("line 11001"), "{source}");
        }
        other => panic!("{other:?}"),
    };
    damaged(lines[11_000][..40].to_owned());
    damaged(String::new());
    damaged(json!({ "file": "x" }).to_string());
    // More than a signed 64-bit integer can represent.
    let mut row = rows[11_000].clone();
    row.place.row = u64::MAX;
    damaged(serde_json::to_string(&row).expect("JSON"));

    assert!(matches!(
        write_score_table(&at("none.jsonl"), &at("table.parquet")),
        Err(Error::File(FileError::Read { .. }))
    ));
    fs::write(&scores, lines.join("\n") + "\n").expect("a file");
    for output in [at("no such folder/table.parquet"), place.path().to_owned()] {
        let Err(Error::File(FileError::Write { path, .. })) = write_score_table(&scores, &output) else { panic!() };
        assert_eq!(path, output);
    }
    assert_eq!(names(place.path()), ["scores.jsonl", "table.parquet"]);
}
