use std::fs;

use serde::{Deserialize, Serialize};

use super::{Accepted, Journal, RowFile, RunFolder};
use crate::RunError;

const NAME: &str = "journal.jsonl";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    place: usize,
    score: f64,
}

fn folder() -> (tempfile::TempDir, RunFolder) {
    let place = tempfile::tempdir().unwrap();
    let folder = RunFolder::lock(place.path()).unwrap();
    (place, folder)
}

/// The lines of the file, and the journal.
fn opened(folder: &RunFolder) -> (Vec<Line>, Journal) {
    let mut lines = Vec::new();
    let journal = Journal::open_json(folder, NAME, |line| {
        lines.push(line);
        true
    });
    (lines, journal.unwrap())
}

fn text(folder: &RunFolder, name: &str) -> Option<String> {
    folder.read(name).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn lines_come_back_in_their_order() {
    let (_place, folder) = folder();
    let (lines, mut journal) = opened(&folder);
    assert!(lines.is_empty());
    for place in [2, 0, 1] {
        journal.append_json(&Line { place, score: 0.1 * place as f64 }).unwrap();
    }
    drop(journal);
    let (lines, mut journal) = opened(&folder);
    assert_eq!(lines.iter().map(|line| line.place).collect::<Vec<_>>(), [2, 0, 1]);
    journal.sort(|line: &Line| line.place).unwrap();
    journal.append_json(&Line { place: 3, score: 0.0 }).unwrap();
    drop(journal);
    let (lines, _) = opened(&folder);
    assert_eq!(lines.iter().map(|line| line.place).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

/// Wherever a process is killed while it writes the last line, the next process finds the lines before it, and its own
/// lines follow them.
#[test]
fn a_torn_last_line_is_cut_off() {
    let (_place, folder) = folder();
    let whole = "{\"place\":0,\"score\":0.5}\n{\"place\":1,\"score\":1.5}\n";
    let torn = "{\"place\":2,\"score\":2.5}";
    for end in 0..=torn.len() {
        fs::write(folder.file(NAME), format!("{whole}{}", &torn[..end])).unwrap();
        let (lines, mut journal) = opened(&folder);
        assert_eq!(lines.len(), 2);
        journal.append_json(&Line { place: 7, score: 0.0 }).unwrap();
        assert_eq!(text(&folder, NAME).unwrap(), format!("{whole}{{\"place\":7,\"score\":0.0}}\n"));
        assert!(text(&folder, "journal.jsonl.damaged").is_none());
    }
}

/// Damage in the middle costs only the damaged lines, and a copy of the file is kept.
#[test]
fn damage_costs_no_other_line() {
    let (_place, folder) = folder();
    let line = |place: usize| format!("{{\"place\":{place},\"score\":0.5}}\n");
    for damaged in 0..4 {
        for damage in ["\n", "{\"place\":\"four\"}\n", "\u{0}\u{0}\u{0}\n", "{\"place\":9}{\"place\"\n"] {
            for torn in ["", "{\"pla"] {
                let lines: Vec<String> =
                    (0..4).map(|place| if place == damaged { damage.to_owned() } else { line(place) }).collect();
                let before = lines.concat() + torn;
                fs::write(folder.file(NAME), &before).unwrap();
                let (read, mut journal) = opened(&folder);
                let kept: Vec<usize> = (0..4).filter(|place| *place != damaged).collect();
                assert_eq!(read.iter().map(|line| line.place).collect::<Vec<_>>(), kept);
                let good = kept.iter().map(|place| line(*place)).collect::<String>();
                assert_eq!(text(&folder, NAME).unwrap(), good);
                assert_eq!(text(&folder, "journal.jsonl.damaged").unwrap(), before);
                journal.append_json(&Line { place: damaged, score: 0.5 }).unwrap();
                drop(journal);
                assert_eq!(opened(&folder).0.len(), 4);
                fs::remove_file(folder.file("journal.jsonl.damaged")).unwrap();
            }
        }
    }
}

#[test]
fn no_copy_replaces_another() {
    let (_place, folder) = folder();
    for (damage, name) in [("a\n", "journal.jsonl.damaged"), ("b\n", "journal.jsonl.damaged-2")] {
        fs::write(folder.file(NAME), damage).unwrap();
        drop(opened(&folder));
        assert_eq!(text(&folder, name).as_deref(), Some(damage));
        assert_eq!(text(&folder, NAME).as_deref(), Some(""));
    }
}

/// Offsets refer to the file after opening, whatever was damaged in it.
#[test]
fn any_line_is_read_by_its_offset() {
    let (_place, folder) = folder();
    fs::write(folder.file(NAME), "first\nbad\nsecond\nthird\ntorn").unwrap();
    let mut offsets = Vec::new();
    let mut journal = Journal::open(&folder, NAME, |at, line| {
        let good = line != b"bad";
        offsets.extend(good.then_some(at));
        good
    })
    .unwrap();
    offsets.push(journal.append(b"fourth\nfifth\n").unwrap());
    for (place, expected) in [(3, "fourth"), (0, "first"), (2, "third"), (1, "second"), (2, "third")] {
        assert_eq!(journal.line(offsets[place]).unwrap(), expected.as_bytes());
    }
    assert!(matches!(journal.line(journal.bytes()), Err(RunError::IncompleteLine { .. })));
}

#[test]
fn lines_beyond_the_end_are_cut_off() {
    let (_place, folder) = folder();
    fs::write(folder.file(NAME), "1\n2\n3\n4\n").unwrap();
    let upto = |line: u64| if line > 2 { Accepted::End } else { Accepted::Kept };
    drop(Journal::open_json(&folder, NAME, upto).unwrap());
    assert_eq!(text(&folder, NAME).as_deref(), Some("1\n2\n"));
    assert!(text(&folder, "journal.jsonl.damaged").is_none());
}

#[test]
fn a_folder_has_one_writer_and_one_run() {
    let (place, folder) = folder();
    assert!(matches!(RunFolder::lock(place.path()), Err(RunError::Locked { .. })));
    folder.claim("run.json", &serde_json::json!({"a": {"b": [1, 2]}})).unwrap();
    folder.claim("run.json", &serde_json::json!({"a": {"b": [1, 2]}})).unwrap();
    let Err(RunError::OtherRun { what, saved, given, .. }) =
        folder.claim("run.json", &serde_json::json!({"a": {"b": [1, 3]}}))
    else {
        panic!("another run was taken");
    };
    assert_eq!((what.as_str(), saved.as_str(), given.as_str()), ("a.b[1]", "2", "3"));
    fs::write(folder.file("run.json"), "{").unwrap();
    assert!(matches!(folder.claim("run.json", &serde_json::json!({})), Err(RunError::Json { .. })));
    drop(folder);
    fs::write(place.path().join(".partial-x"), "unfinished").unwrap();
    RunFolder::lock(place.path()).unwrap();
    assert!(!place.path().join(".partial-x").exists());
}

#[test]
fn rows_are_cut_to_whole_ones() {
    let (_place, folder) = folder();
    let mut rows = RowFile::open(&folder, "rows", 3, 9).unwrap();
    rows.push(&[1.0, 2.0, 3.0]).unwrap();
    rows.push(&[4.0, 5.0, f32::MIN_POSITIVE]).unwrap();
    drop(rows);
    fs::OpenOptions::new().append(true).open(folder.file("rows")).and_then(|file| file.set_len(29)).unwrap();
    let mut rows = RowFile::open(&folder, "rows", 3, 9).unwrap();
    assert_eq!((rows.rows(), rows.row(1).unwrap()), (2, vec![4.0, 5.0, f32::MIN_POSITIVE]));
    rows.truncate(1).unwrap();
    assert!(rows.row(1).is_err());
}
