use super::*;

fn record(question: &str, prompt: &str, answer: &str, question_id: &str) -> Record {
    let place = Place { question: 0, pair: 0, polarity: Polarity::Pos, rollout: 0 };
    Record {
        question_id: question_id.to_owned(),
        place,
        question: question.to_owned(),
        prompt: prompt.to_owned(),
        answer: answer.to_owned(),
        tokens: Vec::new(),
        seed: None,
        finish: None,
    }
}

/// The output of Python's csv module for the same rows (`lineterminator="\n"`, as in pandas).
const PYTHON: &str = "question,prompt,answer,question_id,evil,coherence\n\"Why, \"\"really\"\"?\",\"<user>Why\n<assistant>\",Plain.,evil_0_pos_1,12.5,90\nWhy?,\"<user>Why\n<assistant>\",\"line one\nline \"\"two\"\", three\n\n\",evil_0_neg_1,,\né ☂,p,\"ends with cr\r\nand lf\",evil_12_pos_0,0,100\nq,p,,evil_0_pos_1,,7\n";

#[test]
fn files_are_those_of_pythons_csv_module() {
    let rows = [
        (record("Why, \"really\"?", "<user>Why\n<assistant>", "Plain.", "evil_0_pos_1"), Some(12.5), Some(90.0)),
        (record("Why?", "<user>Why\n<assistant>", "line one\nline \"two\", three\n\n", "evil_0_neg_1"), None, None),
        (record("é ☂", "p", "ends with cr\r\nand lf", "evil_12_pos_0"), Some(0.0), Some(100.0)),
        (record("q", "p", "", "evil_0_pos_1"), None, Some(7.0)),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evil.csv");
    write_csv(&path, "evil", rows.iter().map(|(record, shown, coherence)| (record, *shown, *coherence))).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), PYTHON);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left");
}

#[test]
fn ids_name_places() {
    use Polarity::{Neg, Pos};
    let found = |id: &str, trait_name, given| place(id, trait_name, given).unwrap();
    assert_eq!(found("evil_3_pos_2", "evil", None), (3, Pos, 2));
    assert_eq!(found("evil_3_neg_2", "evil", Some(Neg)), (3, Neg, 2));
    assert_eq!(found("evil_14", "evil", Some(Pos)), (14, Pos, 0));
    assert_eq!(found("two_words_3_neg_0", "two_words", None), (3, Neg, 0));
    assert!(matches!(place("evil_3", "evil", None), Err(RolloutsFileError::NoPolarity { .. })));
    let other = place("evil_3_neg_2", "evil", Some(Pos));
    assert!(matches!(other, Err(RolloutsFileError::OtherPolarity { found: Neg, given: Pos, .. })), "{other:?}");
    for (id, polarity) in [
        ("evil_x_pos_2", None),
        ("evil_3_maybe_2", None),
        ("evil_3_pos", None),
        ("evil_3_pos_2_1", None),
        ("evil3_pos_2", None),
        ("kind_3_pos_2", None),
        ("", None),
    ] {
        assert!(matches!(place(id, "evil", polarity), Err(RolloutsFileError::Id { .. })), "{id}");
    }
}

#[test]
fn scores_are_numbers_or_nothing() {
    for (text, expected) in [
        ("12.5", 12.5),
        (" 0 ", 0.0),
        ("1e2", 100.0),
        // Possible means of 100s, in f64 and in f32, and a sum that cancels.
        ("100.00000000000001", 100.0),
        ("100.00001", 100.0),
        ("-1e-15", 0.0),
        ("-0.00001", 0.0),
        ("99.99999999999999", 99.999_999_999_999_99),
    ] {
        assert_eq!(score(text), Ok(Some(expected)), "{text}");
    }
    for zero in ["-0", "-0.0", "-1e-15"] {
        assert!(score(zero).unwrap().is_some_and(|zero| zero.is_sign_positive()), "{zero} has a sign");
    }
    for nothing in
        ["", "nan", "NaN", "-nan", "  ", "None", "none", "null", "NULL", "N/A", "NA", "<NA>", "#N/A", "REFUSAL"]
    {
        assert_eq!(score(nothing), Ok(None), "{nothing:?}");
    }
    for bad in ["100.001", "-0.001", "101", "-1", "inf", "-inf", "Infinity", "1e999", "1,5", "85%", "no"] {
        assert_eq!(score(bad), Err(InvalidScore), "{bad}");
    }
}

proptest::proptest! {
    /// A score that is written and read is equal to the last bit.
    #[test]
    fn scores_come_back_to_the_last_bit(score in 0.0..=100.0f64) {
        proptest::prop_assert_eq!(super::score(&pv_data::tables::number_field(Some(score))).map(|s| s.map(f64::to_bits)), Ok(Some(score.to_bits())));
    }
}
