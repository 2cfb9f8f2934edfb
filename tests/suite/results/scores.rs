//! Scores in CSV files of other tools.

use pv_judge::Polarity;
use pv_tests::chat_model;
use pv_vectors::{CsvRollouts, Error};

use super::file;

fn read(path: &std::path::Path) -> Result<CsvRollouts, Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let model = chat_model("llama", folder.path(), &burn::tensor::Device::flex());
    CsvRollouts::read(path, "evil", Some(Polarity::Pos), model.tokenizer().expect("a tokenizer"))
}

/// The case: what the mean of scores of 100 may come to is 100.
#[test]
fn a_score_that_rounding_took_beyond_the_scale_is_its_end() {
    let found = read(&file("over.csv")).expect("rollouts");
    assert_eq!((found.trait_scores, found.coherence), (vec![Some(100.0)], vec![Some(2.0)]));
}

#[test]
fn what_is_no_score_is_named_with_its_row_and_column() {
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
            let said = error.to_string();
            assert!(matches!(error, Error::BadCsv { line: Some(3), .. }), "{said}");
            assert!(said.contains(column) && said.contains(bad), "{said}");
        }
    }
}
