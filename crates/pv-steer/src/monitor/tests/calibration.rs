//! Calibrations: their values and their files.

use pv_data::FileError;
use pv_data::error::with_causes;
use serde_json::Value;

use super::super::*;
use super::{answer, calibration, model, reading, watch, watches};
use crate::Error;

#[test]
fn a_reading_is_told_in_standard_deviations_and_ranks() {
    let calibration = calibration(4_000);
    // Each direction is one standard deviation above its mean, except the last, which is two below.
    let reading = reading(At::Token(9), &[1.0, 12.0, 14.0]);
    for (z, expected) in calibration.z(&reading).into_iter().zip([1.0, 1.0, -2.0]) {
        assert!((z.expect("known") - expected).abs() < 0.15, "{z:?}, not {expected}");
    }
    for (rank, expected) in calibration.ranks(&reading).into_iter().zip([0.841, 0.841, 0.023]) {
        assert!((rank.expect("known") - expected).abs() < 0.03, "{rank:?}, not {expected}");
    }
}

#[test]
fn an_answer_gives_each_kind_of_reading() {
    let mut calibrator = Calibrator::new(&watches()).expect("a calibrator");
    let mut whole = answer(&[1.0, 2.0, 3.0], &[&[0.0, 0.0, 5.0], &[2.0, 4.0, 7.0]]);
    for (i, value) in [8.0, 9.0, 10.0].into_iter().enumerate() {
        whole.add(At::PromptToken(i), vec![0.0, 0.0, value]);
    }
    calibrator.add_answer(&whole).expect("readings");
    calibrator.add_answer(&answer(&[3.0, 2.0, 1.0], &[])).expect("an empty answer");
    let calibration = calibrator.finish(&model());
    let of = |kind| {
        let distribution = calibration.distribution(2, kind).expect("watched");
        (distribution.n(), distribution.mean())
    };
    assert_eq!(of(Kind::PromptToken), (3, Some(9.0)));
    assert_eq!(of(Kind::PromptLast), (2, Some(2.0)));
    assert_eq!(of(Kind::Token), (2, Some(6.0)));
    assert_eq!(of(Kind::ResponseMean), (1, Some(6.0)));
    assert!(calibration.distribution(3, Kind::Token).is_none());
}

#[test]
fn what_is_no_reading_is_refused() {
    let mut calibrator = Calibrator::new(&watches()).expect("a calibrator");
    let error = calibrator.add(&reading(At::PromptLast, &[1.0])).expect_err("too short");
    assert_eq!(error.to_string(), "a reading has 1 values, but 3 directions are watched");
    let error = calibrator.add(&reading(At::PromptLast, &[1.0, f32::NAN, 0.0])).expect_err("no number");
    assert_eq!(error.to_string(), "a projection on evil at layer 5 (after block 4) is not finite");
    assert_eq!(calibrator.finish(&model()).distribution(0, Kind::PromptLast).expect("watched").n(), 0);
    assert!(matches!(Calibrator::new(&[]), Err(Error::Monitor(MonitorError::NoWatches))));
    let twice = [watch("evil", 3, &[1.0]), watch("evil", 3, &[2.0])];
    let error = Calibrator::new(&twice).expect_err("ambiguous");
    assert_eq!(error.to_string(), "evil is watched twice at layer 3 (after block 2); give one of them another name");
}

#[test]
fn a_file_says_the_same_as_what_was_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = Calibration::path_beside(folder.path().join("evil.safetensors"));
    assert!(path.ends_with("evil.calibration.json"));
    let calibration = calibration(500);
    calibration.save(&path).expect("a file");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "a temporary file is left");
    let all = watches();
    let loaded = Calibration::load(&path, &all, &model()).expect("fits");
    for kind in Kind::ALL {
        for number in 0..all.len() {
            let [ours, theirs] = [&loaded, &calibration].map(|c| c.distribution(number, kind).expect("watched"));
            assert_eq!((ours.n(), ours.min(), ours.max()), (theirs.n(), theirs.min(), theirs.max()));
            for share in [0.01, 0.3, 0.5, 0.99] {
                assert_eq!(ours.quantile(share), theirs.quantile(share));
            }
            let close = |a: Option<f64>, b: Option<f64>| (a.expect("a number") - b.expect("a number")).abs() < 1e-12;
            assert!(close(ours.mean(), theirs.mean()) && close(ours.sd(), theirs.sd()));
        }
    }
    // Fewer directions in another order get their own entries.
    let some = [all[2].clone(), all[0].clone()];
    let loaded = Calibration::load(&path, &some, &model()).expect("fits");
    let mean =
        |c: &Calibration, number| c.distribution(number, Kind::Token).and_then(Distribution::mean).expect("a mean");
    assert!((mean(&loaded, 0) - mean(&calibration, 2)).abs() < 1e-12);
    assert!((mean(&loaded, 1) - mean(&calibration, 0)).abs() < 1e-12);
    // Percentiles are written for human readers.
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).expect("bytes")).expect("JSON");
    let shown = json["directions"][1]["token"]["percentiles"].as_array().expect("percentiles");
    assert_eq!(shown.len(), 9);
    assert!((shown[4][1].as_f64().expect("a number") - 10.0).abs() < 0.5, "{shown:?}");
    // A file of a version that did not read prompt tokens lacks only those.
    for direction in json["directions"].as_array_mut().expect("directions") {
        direction.as_object_mut().expect("an object").remove("prompt_token").expect("it was there");
    }
    std::fs::write(&path, json.to_string()).expect("a file");
    let old = Calibration::load(&path, &all, &model()).expect("fits");
    let n = |kind| old.distribution(1, kind).expect("watched").n();
    assert_eq!((n(Kind::PromptToken), n(Kind::Token)), (0, 500));
}

#[test]
fn a_file_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c.json");
    calibration(50).save(&path).expect("a file");
    let refused = |watches: &[Watch], model: &pv_model::ModelIdentity| {
        with_causes(&Calibration::load(&path, watches, model).expect_err("does not fit"))
    };
    let all = watches();
    let mut other = model();
    other.name = "another".to_owned();
    assert_eq!(refused(&all, &other), "the calibration does not fit: its model is a model, but another is needed");
    let mut other = model();
    other.config_hash = "c1".to_owned();
    assert!(refused(&all, &other).contains("architecture hash is c0, but c1"));
    let mut other = model();
    other.template_hash = None;
    assert!(refused(&all, &other).contains("template's hash is 7e, but none"));
    // A finetuned copy of the same name.
    let mut other = model();
    other.weights = Some("e5".to_owned());
    assert!(refused(&all, &other).contains("weights' hash is e4, but e5"));
    // A file of an older version, with fewer fields.
    let older = folder.path().join("older.json");
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
    let said = file["model"].as_object_mut().expect("a model");
    ["dtype", "layers", "d_model", "weights"].iter().for_each(|key| assert!(said.remove(*key).is_some(), "{key}"));
    std::fs::write(&older, file.to_string()).expect("a file");
    assert!(Calibration::load(&older, &all, &model()).is_ok());
    for (name, layer) in [("kindness", 3), ("optimism", 5)] {
        let missing = refused(&[all[0].clone(), watch(name, layer, &[0.0, 1.0])], &model());
        assert!(missing.contains(&format!("direction of {name} at layer {layer}")) && missing.contains("missing"));
    }
    let changed = refused(&[watch("optimism", 3, &[0.001, 1.0])], &model());
    assert!(changed.contains("direction of optimism at layer 3 (after block 2)'s hash"), "{changed}");

    // Damaged files, each in one place.
    let text = std::fs::read_to_string(&path).expect("a file");
    let good: Value = serde_json::from_str(&text).expect("JSON");
    type Damage<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let damaged: [Damage<'_>; 6] = [
        ("its format is \"x\"", &|json| json["format"] = "x".into()),
        ("missing field", &|json| json["model"] = serde_json::json!({})),
        ("not in hex", &|json| json["directions"][0]["token"]["tdigest"] = "zz".into()),
        ("unreadable", &|json| json["directions"][0]["token"]["tdigest"] = "00".into()),
        ("of 50 readings, its moments are of 51", &|json| json["directions"][0]["token"]["n"] = 51.into()),
        ("no numbers", &|json| json["directions"][0]["token"]["sum_of_squared_deviations"] = (-1.0).into()),
    ];
    for (reason, damage) in damaged {
        let mut json = good.clone();
        damage(&mut json);
        std::fs::write(&path, json.to_string()).expect("a file");
        let error = refused(&all, &model());
        assert!(error.contains("is not a calibration") && error.contains(reason), "{error}");
    }
    std::fs::write(&path, &text[..text.len() / 2]).expect("a file");
    assert!(refused(&all, &model()).contains("is not a calibration"));
    let none = Calibration::load(folder.path().join("none.json"), &all, &model());
    assert!(matches!(none, Err(Error::File(FileError::Read { .. }))));
    let nowhere = calibration(2).save(folder.path().join("no/such/folder.json"));
    assert!(matches!(nowhere, Err(Error::File(FileError::Write { .. }))));
}

#[test]
fn calibrations_of_the_same_directions_merge() {
    let merged = calibration(300).merged(&calibration(200)).expect("the same directions");
    assert_eq!(merged.distribution(1, Kind::ResponseMean).expect("watched").n(), 500);
    let other = Calibrator::new(&watches()[..2]).expect("a calibrator").finish(&model());
    assert!(matches!(calibration(2).merged(&other), Err(Error::Monitor(MonitorError::Misfit { .. }))));
    let mut finetuned = model();
    finetuned.name = "finetuned".to_owned();
    let other = Calibrator::new(&watches()).expect("a calibrator").finish(&finetuned);
    let error = calibration(2).merged(&other).expect_err("another model");
    assert!(error.to_string().contains("finetuned"), "{error}");
}
