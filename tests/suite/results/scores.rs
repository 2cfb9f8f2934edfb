//! Scores in files of other tools: CSV, JSONL and Parquet.

use pv_data::error::with_causes;
use pv_judge::traits::Polarity;
use pv_tests::chat_model;
use pv_vectors::Error;
use pv_vectors::rollout::ScoredRollouts;

use super::file;

fn read(path: &std::path::Path) -> Result<ScoredRollouts, Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let model = chat_model("llama", folder.path(), &burn::tensor::Device::flex());
    ScoredRollouts::read(path, "evil", Some(Polarity::Pos), model.tokenizer().expect("a tokenizer"))
}

/// The reference: a mean of scores of 100 that rounding moved above 100 counts as 100.
#[test]
fn a_score_rounded_above_the_scale_counts_as_its_maximum() {
    let found = read(&file("over.csv")).expect("rollouts");
    assert_eq!((found.trait_scores, found.coherence), (vec![Some(100.0)], vec![Some(2.0)]));
}

#[test]
fn invalid_scores_are_reported_with_row_and_column() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("evil.csv");
    let rows = |evil: &str, coherence: &str| {
        format!(
            "question,prompt,answer,question_id,evil,coherence\nWhy?,P,A,evil_0,50,90\nWhy?,P,A,evil_1,{evil},{coherence}\n"
        )
    };
    let write = |evil: &str, coherence: &str| std::fs::write(&path, rows(evil, coherence)).expect("a file");
    for nothing in ["", "None", "nan", "NaN", "null", "N/A", "NA", "REFUSAL"] {
        write(nothing, nothing);
        let found = read(&path).unwrap_or_else(|error| panic!("{nothing}: {error}"));
        assert_eq!((found.trait_scores[1], found.coherence[1]), (None, None), "{nothing}");
    }
    for (text, expected) in [("-1e-15", 0.0), ("-0.0", 0.0), ("100.00000000000001", 100.0), ("99.9", 99.9f64)] {
        write(text, text);
        let found = read(&path).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(found.trait_scores[1].map(f64::to_bits), Some(expected.to_bits()), "{text}");
    }
    for bad in ["101", "100.01", "-1", "inf", "-inf", "1e300", "high"] {
        for (column, [evil, coherence]) in [("evil", [bad, "50"]), ("coherence", ["50", bad])] {
            write(evil, coherence);
            let error = read(&path).expect_err(bad);
            let said = with_causes(&error);
            assert!(matches!(error, Error::BadRollouts { line: Some(3), .. }), "{said}");
            assert!(said.contains(column) && said.contains(bad), "{said}");
        }
    }
}

#[test]
fn scores_in_json_lines_equal_those_in_csv() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = |evil: &str| {
        let row = |id: &str, evil: &str| {
            format!(
                r#"{{"extra": NaN, "question": "Why?", "prompt": "P", "answer": "A", "question_id": "{id}"{evil}, "coherence": 90}}"#
            )
        };
        format!("\u{feff}{}\r\n{}\r\n", row("evil_0", r#", "evil": 50"#), row("evil_1", evil))
    };
    let path = folder.path().join("evil.jsonl");
    let with = |evil: &str| {
        std::fs::write(&path, lines(evil)).expect("a file");
        read(&path)
    };
    for nothing in ["", r#", "evil": null"#, r#", "evil": NaN"#, r#", "evil": "None""#, r#", "evil": """#] {
        let found = with(nothing).unwrap_or_else(|error| panic!("{nothing}: {error}"));
        assert_eq!(found.trait_scores, [Some(50.0), None], "{nothing}");
        assert_eq!(found.coherence, [Some(90.0); 2]);
    }
    for (value, expected) in
        [("100.00000000000001", 100.0), ("-1e-15", 0.0), ("99.5", 99.5), ("7", 7.0), (r#""12.5""#, 12.5)]
    {
        let found = with(&format!(r#", "evil": {value}"#)).unwrap_or_else(|error| panic!("{value}: {error}"));
        assert_eq!(found.trait_scores[1], Some(expected), "{value}");
    }
    for bad in ["101", "100.01", "-1", "Infinity", "-Infinity", "1e+300", "true", "[50]", r#""high""#] {
        let error = with(&format!(r#", "evil": {bad}"#)).expect_err(bad);
        assert!(matches!(error, Error::BadRollouts { line: Some(2), .. }), "{error}");
        let said = with_causes(&error);
        assert!(said.contains("\"evil\"") && said.contains(bad.trim_matches('"')), "{said}");
        assert!(said.contains("evil.jsonl"), "{said}");
    }
    let twice = with_causes(&with(r#", "evil": 1, "evil": 99"#).expect_err("two scores"));
    assert!(twice.contains("duplicate field `evil`"), "{twice}");
    let missing = lines("").replace(r#""answer": "A", "#, "");
    std::fs::write(&path, missing).expect("a file");
    let error = with_causes(&read(&path).expect_err("no answer"));
    assert!(error.contains("line 1") && error.contains("\"answer\""), "{error}");
}

#[test]
fn scores_in_parquet_equal_those_in_csv() {
    let scores = |name: &str| read(&file(name)).map(|found| found.trait_scores);
    assert_eq!(scores("scores.parquet").expect("scores"), [Some(50.0), None, None, Some(100.0), Some(0.0)]);
    assert_eq!(scores("scores_text.parquet").expect("scores"), [Some(50.0), None, None, None, Some(99.5)]);
    assert_eq!(scores("scores_decimal.parquet").expect("scores"), [Some(50.25), None]);
    for (name, value) in
        [("scores_single.parquet", "101"), ("scores_infinite.parquet", "inf"), ("scores_list.parquet", "[50")]
    {
        let error = scores(name).expect_err(name);
        let said = with_causes(&error);
        assert!(matches!(error, Error::BadRollouts { line: Some(1 | 2), .. }), "{said}");
        assert!(said.contains(name) && said.contains("\"evil\"") && said.contains(value), "{said}");
    }
    let error = with_causes(&read(&file("talks_zstd.parquet")).expect_err("no rollouts"));
    assert!(error.contains("no column \"question\""), "{error}");
}

#[test]
fn two_columns_of_one_name_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("evil.csv");
    std::fs::write(&path, "question,prompt,answer,question_id,evil,evil\nWhy?,P,A,evil_0,1,99\n").expect("a file");
    let error = with_causes(&read(&path).expect_err("two scores"));
    assert!(error.contains("duplicate column \"evil\""), "{error}");
}
