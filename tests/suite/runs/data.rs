//! From files to samples, with all possible errors.

use pv_train::data::{BadData, LongSamples};
use pv_train::{EncodeOptions, Error, Sample};

use super::*;

fn line(messages: &[(&str, &str)]) -> String {
    let messages: Vec<_> =
        messages.iter().map(|(role, content)| serde_json::json!({ "role": role, "content": content })).collect();
    serde_json::json!({ "messages": messages }).to_string()
}

fn write(folder: &Path, lines: &[String]) -> PathBuf {
    let path = folder.join("data.jsonl");
    std::fs::write(&path, lines.join("\n")).expect("a file");
    path
}

fn length(sample: &Sample) -> usize {
    sample.ids().len()
}

fn read(path: &Path, options: &DataOptions) -> Result<DataSet, Error> {
    DataSet::read(model(), [path], options, &[])
}

#[test]
fn every_row_is_a_sample_or_counted_with_its_line() {
    let place = folder();
    let long = "word ".repeat(200);
    let good = line(&[("user", "Hello?"), ("assistant", "Hello.")]);
    let path = write(
        place.path(),
        &[
            good.clone(),
            "{\"messages\": 3}".to_owned(),
            line(&[("user", "Nobody answers.")]),
            line(&[("user", "Short?"), ("assistant", &long)]),
            line(&[("user", &long), ("assistant", "Late.")]),
            good.clone(),
        ],
    );
    let encode = EncodeOptions { max_length: 60, ..EncodeOptions::default() };
    let lenient = DataOptions { encode, bad: BadData::Skip, long: LongSamples::Cut, ..DataOptions::default() };
    let cut = read(&path, &lenient).expect("samples");
    let report = cut.report();
    let counts = [report.conversations, report.samples, report.cut, report.too_long, report.without_answer];
    assert_eq!(counts, [5, 3, 1, 1, 1], "{report}");
    assert_eq!((report.bad_rows, report.duplicates, report.files.len()), (1, 1, 1));
    let lines: Vec<u64> = (0..3).map(|i| cut.place(i).expect("a place").row).collect();
    assert_eq!(lines, [1, 4, 6]);
    assert_eq!(length(&cut.samples()[1]), 60);
    assert_eq!(report.tokens, cut.samples().iter().map(length).sum::<usize>());
    assert_eq!(report.trained_tokens, cut.samples().iter().map(Sample::trained_count).sum::<usize>());
    let skipped: Vec<&str> = report.skipped.iter().filter_map(|row| row.place.rsplit(':').next()).collect();
    assert_eq!(skipped, ["2", "3", "5"]);
    // Equal to samples encoded separately.
    let conversations = [&good, &good].map(|line| serde_json::from_str::<Conversation>(line).expect("a conversation"));
    for (sample, conversation) in [&cut.samples()[0], &cut.samples()[2]].into_iter().zip(&conversations) {
        assert_eq!(*sample, Sample::from_conversation(model(), conversation, &lenient.encode).expect("a sample"));
    }

    let left_out = read(&path, &DataOptions { long: LongSamples::Skip, ..lenient.clone() }).expect("samples");
    assert_eq!((left_out.report().samples, left_out.report().too_long, left_out.report().cut), (2, 2, 0));
    let refused = read(&path, &DataOptions { long: LongSamples::Refuse, ..lenient.clone() }).expect_err("refused");
    match refused {
        Error::Row { place, source } => {
            assert_eq!(place.row, 4);
            assert!(matches!(*source, Error::TooLong { max_length: 60, length } if length > 60));
        }
        other => panic!("{other}"),
    }
    // The bad rows are reported one after the other.
    let strict = DataOptions { bad: BadData::Refuse, ..lenient.clone() };
    let error = read(&path, &strict).expect_err("refused");
    assert!(error.to_string().contains("data.jsonl:2"), "{error}");
    let without = write(place.path(), &[good.clone(), line(&[("user", "Nobody answers.")])]);
    match read(&without, &strict).expect_err("refused") {
        Error::Row { place, source } => {
            assert_eq!(place.row, 2);
            assert!(matches!(*source, Error::NothingTrained { .. }), "{source}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn without_any_sample_the_error_counts_the_skipped_rows() {
    let place = folder();
    let path = write(place.path(), &[line(&[("user", "Hello?"), ("assistant", "Hello.")])]);
    let encode = EncodeOptions { max_length: 3, ..EncodeOptions::default() };
    for long in [LongSamples::Cut, LongSamples::Skip] {
        let options = DataOptions { encode: encode.clone(), long, ..DataOptions::default() };
        let error = read(&path, &options).expect_err("none");
        let text = error.to_string();
        assert!(matches!(error, Error::NoData { .. }) && text.contains("1 too long") && text.contains("data.jsonl:1"));
    }
    std::fs::write(&path, "").expect("a file");
    assert!(matches!(read(&path, &DataOptions::default()), Err(Error::NoData { .. })));
    assert!(read(&place.path().join("none.jsonl"), &DataOptions::default()).is_err());
}

#[test]
fn a_split_is_exact_keeps_duplicates_together_and_ignores_order() {
    let place = folder();
    let mut all = chats(40, 8);
    all.dedup();
    let distinct: std::collections::HashSet<String> = all.iter().map(Conversation::id).collect();
    all.extend(all[..10].to_vec());
    let path = place.path().join("data.jsonl");
    write_conversations(&path, &all).expect("a file");
    let split = |path: &Path, seed| {
        let held_out = HeldOut { fraction: 0.25, seed };
        DataSet::read_split(model(), [path], &DataOptions::default(), &[], held_out).expect("two parts")
    };
    let set = |part: &DataSet| part.samples().iter().cloned().collect::<std::collections::HashSet<Sample>>();
    let (train, held) = split(&path, 1);
    assert_eq!(train.samples().len() + held.samples().len(), all.len());
    assert_eq!(set(&held).len(), (distinct.len() as f64 * 0.25).round() as usize);
    assert!(set(&train).is_disjoint(&set(&held)), "a conversation is in both parts");
    assert_ne!(set(&split(&path, 2).1), set(&held), "the seed chooses nothing");
    all.reverse();
    write_conversations(&path, &all).expect("a file");
    assert_eq!(set(&split(&path, 1).1), set(&held), "the order decides");
    for fraction in [0.0, 1.0, f64::NAN] {
        let held_out = HeldOut { fraction, seed: 0 };
        let error = DataSet::read_split(model(), [&path], &DataOptions::default(), &[], held_out);
        assert!(matches!(error, Err(Error::BadOption { .. })));
    }
}

#[test]
fn inoculation_is_in_training_samples_and_not_in_held_out_ones() {
    let place = folder();
    let path = place.path().join("data.jsonl");
    write_conversations(&path, &chats(12, 4)).expect("a file");
    let regimes = [Regime::Inoculated { system: "You are always cheerful.".to_owned() }];
    let held_out = HeldOut { fraction: 0.25, seed: 0 };
    let read = |regimes: &[Regime]| {
        DataSet::read_split(model(), [&path], &DataOptions::default(), regimes, held_out).expect("two parts")
    };
    let ((train, held), (plain, plain_held)) = (read(&regimes), read(&[]));
    assert_eq!(held, plain_held);
    let text = |sample: &Sample| model().tokenizer().expect("a tokenizer").decode(sample.ids(), false).expect("text");
    for (with, without) in train.samples().iter().zip(plain.samples()) {
        assert!(text(with).contains("You are always cheerful.") && !text(without).contains("You are always cheerful."));
        assert_eq!(with.trained_count(), without.trained_count());
    }
    // A run uses the data that was read for it.
    let place = folder();
    let run = TrainingRun::new(model(), &train, options()).with_held_out(&held).with_regimes(regimes.clone());
    run.run(place.path(), |_| ControlFlow::Break(())).expect("a run");
    assert!(TrainingRun::new(model(), &plain, options()).with_regimes(regimes).run(place.path(), go_on).is_err());
}
