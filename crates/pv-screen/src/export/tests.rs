use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::likelihood::LikelihoodScore;
use crate::sample::Skip;
use crate::scores::Place;
use crate::scores::Score;
use crate::screen::SCORES;

/// An answer of a row: its ΔP and whether the base answer is known, or why it was skipped.
#[derive(Clone, Debug)]
enum Turn {
    Scored(Option<f64>),
    Skipped(&'static str),
}

struct Screening {
    folder: tempfile::TempDir,
}

impl Screening {
    /// A screening of rows with these answers, in files of its own.
    fn new(rows: &[Vec<Turn>]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("data.jsonl");
        let (mut data, mut table, mut list) = (String::new(), String::new(), String::new());
        for (index, turns) in rows.iter().enumerate() {
            data += &format!("{}\n", json!({ "messages": [], "n": index }));
            for (turn, what) in turns.iter().enumerate() {
                let place = Place { file: input.clone(), row: index as u64 + 1, message: Some(2 * turn + 1) };
                match what {
                    Turn::Scored(delta) => {
                        let base = delta.map(|delta| 10.0 - delta);
                        let score = Score { answer: 10.0, prompt_last: 0.0, base, delta: *delta };
                        let gains = BTreeMap::from([("evil".to_owned(), 0.25 * turn as f64)]);
                        let row = ScoreRow {
                            place,
                            id: format!("{index}.{turn}"),
                            duplicate: false,
                            tokens: 3,
                            base_cut: false,
                            scores: BTreeMap::from([("evil@5".to_owned(), score)]),
                            likelihood: Some(LikelihoodScore { surprise: 1.0, gains }),
                        };
                        table += &format!("{}\n", serde_json::to_string(&row).unwrap());
                    }
                    Turn::Skipped(kind) => {
                        let mut line = serde_json::to_value(place).unwrap();
                        line["reason"] = (*kind).into();
                        line["says"] = "…".into();
                        list += &format!("{line}\n");
                    }
                }
            }
        }
        std::fs::write(&input, data).unwrap();
        std::fs::write(folder.path().join(SCORES), table).unwrap();
        std::fs::write(folder.path().join(SKIPPED), list).unwrap();
        Self { folder }
    }

    fn export(&self, keep: &Keep) -> Result<(Exported, Vec<Value>)> {
        let place = self.folder.path();
        let output = place.join("out.jsonl");
        let done = export(&[place.join("data.jsonl")], &place.join(SCORES), &output, keep)?;
        let text = std::fs::read_to_string(output).unwrap();
        Ok((done, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()))
    }
}

fn at_most(threshold: f64) -> Keep {
    Keep::AtMost { label: "evil@5".to_owned(), threshold }
}

fn numbers(rows: &[Value]) -> Vec<u64> {
    rows.iter().map(|row| row["n"].as_u64().unwrap()).collect()
}

const SCREENED: fn() -> Vec<Vec<Turn>> = || {
    use Turn::{Scored, Skipped};
    vec![
        vec![Scored(Some(1.0)), Scored(Some(-2.0))],
        vec![Scored(Some(1.0)), Skipped("too_long")],
        vec![Skipped("refused"), Scored(Some(0.5))],
        vec![Scored(Some(1.0)), Scored(None)],
        vec![Scored(Some(9.0)), Skipped("too_long")],
        vec![Skipped("bad_row")],
        vec![Scored(Some(0.0)), Skipped("empty_answer")],
        vec![],
    ]
};

#[test]
fn a_row_is_kept_only_when_every_answer_was_scored() {
    let screening = Screening::new(&SCREENED());
    let (done, rows) = screening.export(&at_most(2.0)).unwrap();
    assert_eq!(numbers(&rows), [0], "all others have an answer of which nobody knows what it would score");
    assert_eq!((done.kept, done.excluded), (1, 7));
    let expected = [
        ("above", 1),
        ("bad_row", 1),
        ("empty_answer", 1),
        ("no_delta", 1),
        ("not_screened", 1),
        ("refused", 1),
        ("too_long", 1),
    ];
    assert_eq!(done.reasons, expected.map(|(reason, n)| (reason.to_owned(), n)).into());
    assert_eq!((rows[0]["evil@5_delta"].as_f64(), rows[0]["evil_gain"].as_f64()), (Some(1.0), Some(0.25)));

    let (done, rows) = screening.export(&Keep::Scored).unwrap();
    assert_eq!(numbers(&rows), [0, 3]);
    assert_eq!(done.reasons.get("too_long"), Some(&2));
    assert!(rows[1]["evil@5_delta"].is_null(), "the greatest ΔP is not known: {}", rows[1]);
    assert_eq!(rows[1]["evil@5_answer"], 10.0);
}

#[test]
fn chosen_rows_are_exported_without_numbers_that_are_not_known() {
    let screening = Screening::new(&SCREENED());
    let place = |row: u64| (screening.folder.path().join("data.jsonl"), row);
    let (done, rows) = screening.export(&Keep::Rows(BTreeSet::from([place(1), place(2), place(6), place(8)]))).unwrap();
    assert_eq!(numbers(&rows), [0, 1]);
    assert!(rows[1]["evil@5_delta"].is_null() && rows[1]["evil_gain"].is_null(), "{}", rows[1]);
    let expected = [("bad_row", 1), ("not_chosen", 4), ("not_screened", 1)];
    assert_eq!(done.reasons, expected.map(|(reason, n)| (reason.to_owned(), n)).into());
}

#[test]
fn what_cannot_be_decided_is_refused() {
    let screening = Screening::new(&SCREENED());
    let said = |keep: &Keep| screening.export(keep).unwrap_err().to_string();
    assert!(said(&at_most(f64::NAN)).contains("NaN"));
    let other = said(&Keep::AtMost { label: "evil@6".to_owned(), threshold: 1.0 });
    assert!(other.contains("evil@6") && other.contains("evil@5"), "{other}");
    std::fs::remove_file(screening.folder.path().join(SKIPPED)).unwrap();
    assert!(said(&at_most(2.0)).contains(SKIPPED), "without the list nobody knows what was skipped");
}

/// Other code writes the list; its reasons are those of [`Skip`].
#[test]
fn the_kinds_of_what_was_skipped_are_those_of_the_list() {
    let why = || "x".to_owned();
    for skip in [
        Skip::BadRow { why: why() },
        Skip::BadFile { why: why() },
        Skip::NoAnswer,
        Skip::EmptyAnswer,
        Skip::TooLong { tokens: 2, limit: 1 },
        Skip::Refused { why: why() },
    ] {
        let mut line = serde_json::to_value(&skip).unwrap();
        assert_eq!(serde_json::from_value::<Skip>(line.clone()).unwrap(), skip);
        (line["file"], line["row"]) = ("a".into(), 1.into());
        assert_eq!(serde_json::from_value::<SkippedRow>(line).unwrap().reason, skip.kind());
    }
}

fn turns() -> impl Strategy<Value = Vec<Vec<Turn>>> {
    let turn = prop_oneof![
        3 => (-3.0..3.0f64).prop_map(|delta| Turn::Scored(Some(delta))),
        1 => Just(Turn::Scored(None)),
        1 => Just(Turn::Skipped("too_long")),
    ];
    prop::collection::vec(prop::collection::vec(turn, 0..4), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any skipped answers: no row is kept with an answer above the threshold or without ΔP, and every row is
    /// counted.
    #[test]
    fn no_row_with_an_unknown_answer_gets_through(screened in turns(), threshold in -2.0..2.0f64) {
        // A table without rows has no directions to filter by.
        prop_assume!(screened.iter().flatten().any(|turn| matches!(turn, Turn::Scored(_))));
        let (done, rows) = Screening::new(&screened).export(&at_most(threshold)).unwrap();
        let fine = |turns: &Vec<Turn>| {
            !turns.is_empty() && turns.iter().all(|turn| matches!(turn, Turn::Scored(Some(delta)) if *delta <= threshold))
        };
        let expected: Vec<u64> = (0..screened.len() as u64).filter(|row| fine(&screened[*row as usize])).collect();
        prop_assert_eq!(numbers(&rows), expected);
        prop_assert_eq!(done.kept + done.excluded, screened.len() as u64);
        prop_assert_eq!(done.reasons.values().sum::<u64>(), done.excluded);
    }

    #[test]
    fn rules_come_back_from_their_files(eighths in any::<i32>(), row in any::<u64>()) {
        for keep in [Keep::Scored, at_most(f64::from(eighths) / 8.0), Keep::Rows(BTreeSet::from([(PathBuf::from("a b/ü.jsonl"), row)]))] {
            prop_assert_eq!(serde_json::from_str::<Keep>(&serde_json::to_string(&keep).unwrap()).unwrap(), keep);
        }
    }
}
