//! Calibrations of whole answers: false alarms per answer, and the variance of means by the answers' lengths.
#![allow(clippy::print_stdout, reason = "a test shows what it measured")]

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::super::*;
use super::{model, normal, random, watch};
use crate::Error;

/// The share of a token's projection that is carried over from the token before.
const CARRIED: f64 = 0.7;
const BETWEEN: f64 = 0.5;

fn one() -> Vec<Watch> {
    vec![watch("evil", 3, &[1.0, 2.0])]
}

/// An ordinary answer: an individual level, and correlated tokens of variance 1 around it.
fn ordinary(random: &mut ChaCha8Rng, tokens: usize) -> Answer {
    let mut answer = Answer::default();
    let level = 3.0 + BETWEEN * normal(random);
    answer.add(At::PromptLast, vec![(level + normal(random)) as f32]);
    let mut noise = normal(random);
    for token in 0..tokens {
        answer.add(At::Token(token), vec![(level + noise) as f32]);
        noise = CARRIED * noise + (1.0 - CARRIED * CARRIED).sqrt() * normal(random);
    }
    answer
}

/// The variance of a mean over this many tokens: exactly that of an autoregressive process.
fn variance(tokens: usize) -> f64 {
    let n = tokens as f64;
    let pairs: f64 = (1..tokens).map(|lag| 2.0 * (n - lag as f64) * CARRIED.powi(lag as i32)).sum();
    BETWEEN * BETWEEN + (n + pairs) / (n * n)
}

/// Answers of very different lengths.
fn lengths(random: &mut ChaCha8Rng) -> usize {
    if random.random::<f64>() < 0.5 { random.random_range(10..30) } else { random.random_range(150..400) }
}

fn calibrated(answers: usize, seed: u64) -> Calibration {
    let (mut random, mut calibrator) = (random(seed), Calibrator::new(&one()).unwrap());
    for _ in 0..answers {
        let tokens = lengths(&mut random);
        calibrator.add_answer(&ordinary(&mut random, tokens)).unwrap();
    }
    calibrator.finish(&model())
}

fn rule(kind: Kind, side: Side, threshold: Threshold) -> AlarmRule {
    AlarmRule { trait_name: "evil".to_owned(), layer: None, kind, side, threshold }
}

#[test]
fn one_long_answer_is_one_answer() {
    let mut calibrator = Calibrator::new(&one()).unwrap();
    calibrator.add_answer(&ordinary(&mut random(1), 5_000)).unwrap();
    let calibration = calibrator.finish(&model());
    assert_eq!(calibration.distribution(0, Kind::Token).unwrap().n(), 5_000);
    assert_eq!(calibration.answers(0, Kind::Token), Some(1));
    for threshold in [Threshold::Quantile(0.99), Threshold::FalseAlarms(0.01)] {
        let error = Alarms::new(&one(), &[rule(Kind::Token, Side::Above, threshold)], Some(&calibration)).unwrap_err();
        assert!(matches!(error, Error::Monitor(MonitorError::TooFewAnswers { found: 1, .. })), "{error}");
    }
    // A hundred answers are enough, however short.
    let mut calibrator = Calibrator::new(&one()).unwrap();
    let mut random = random(2);
    (0..100).for_each(|_| calibrator.add_answer(&ordinary(&mut random, 3)).unwrap());
    let calibration = calibrator.finish(&model());
    for kind in [Kind::Token, Kind::PromptLast, Kind::ResponseMean] {
        for (side, share) in [(Side::Above, 0.99), (Side::Below, 0.01)] {
            let rules = [rule(kind, side, Threshold::Quantile(share)), rule(kind, side, Threshold::FalseAlarms(0.01))];
            assert!(Alarms::new(&one(), &rules, Some(&calibration)).is_ok(), "{kind:?}, {side:?}");
        }
        let further = rule(kind, Side::Above, Threshold::FalseAlarms(0.005));
        assert!(matches!(
            Alarms::new(&one(), &[further], Some(&calibration)),
            Err(Error::Monitor(MonitorError::TooFewAnswers { .. }))
        ));
    }
    // The prompts' tokens were not read.
    let unread = rule(Kind::PromptToken, Side::Above, Threshold::FalseAlarms(0.1));
    assert!(matches!(
        Alarms::new(&one(), &[unread], Some(&calibration)),
        Err(Error::Monitor(MonitorError::TooFewAnswers { found: 0, .. }))
    ));
    for rate in [0.0, 1.0, f64::NAN] {
        let bad = rule(Kind::Token, Side::Above, Threshold::FalseAlarms(rate));
        assert!(Alarms::new(&one(), &[bad], Some(&calibration)).unwrap_err().to_string().contains("between 0 and 1"));
    }
}

#[test]
fn false_alarms_are_as_many_answers_as_were_asked_for() {
    let calibration = calibrated(2_000, 3);
    let mut random = random(4);
    let fresh: Vec<Answer> = (0..4_000)
        .map(|_| {
            let tokens = lengths(&mut random);
            ordinary(&mut random, tokens)
        })
        .collect();
    for kind in [Kind::PromptLast, Kind::Token, Kind::ResponseMean] {
        for side in [Side::Above, Side::Below] {
            for rate in [0.1, 0.02] {
                let rules = [rule(kind, side, Threshold::FalseAlarms(rate))];
                let alarms = Alarms::new(&one(), &rules, Some(&calibration)).unwrap();
                let found = &alarms.false_alarms(&fresh)[0];
                assert_eq!((found.kind, found.side, found.found.answers), (kind, side, 4_000));
                // Five standard errors of both samples, and the error of the sketch.
                let bound = 5.0 * (rate * (1.0 - rate) * (1.0 / 2_000.0 + 1.0 / 4_000.0)).sqrt() + 0.002;
                let raised = found.found.rate().unwrap();
                assert!((raised - rate).abs() < bound, "{kind:?}, {side:?}: {raised}, not {rate} ± {bound:.4}");
            }
        }
    }
    // With a quantile of the tokens, nearly every long answer raises an alarm, and the report shows it.
    let rules = [rule(Kind::Token, Side::Above, Threshold::Quantile(0.99))];
    let by_token = Alarms::new(&one(), &rules, Some(&calibration)).unwrap().false_alarms(&fresh);
    assert!(by_token[0].found.rate().unwrap() > 0.1, "{by_token:?}");
    // Answers without the readings do not count.
    assert_eq!(by_token[0].found.answers, 4_000);
    let empty = ordinary(&mut random, 0);
    let rules = [rule(Kind::ResponseMean, Side::Above, Threshold::Value(0.0))];
    let none = Alarms::new(&one(), &rules, None).unwrap().false_alarms([&empty]);
    assert_eq!(none[0].found, FalseAlarms::default());
}

#[test]
fn a_calibration_measures_its_alarms_on_answers_that_it_has_not_seen() {
    let calibration = calibrated(3_000, 5);
    let held_out = calibration.held_out(0);
    assert_eq!(held_out.len(), 3 * 2 * 3, "kinds, sides and rates; prompts' tokens were not read");
    for HeldOut { kind, side, rate, found } in held_out {
        assert_eq!(found.answers, 3_000, "{kind:?}");
        // Each threshold comes from 1500 answers and is measured on 1500: five standard errors of that.
        let bound = 5.0 * (rate * (1.0 - rate) * (1.0 / 1_500.0 + 1.0 / 1_500.0) / 2.0).sqrt() + 0.002;
        assert!((found.rate().unwrap() - rate).abs() < bound, "{kind:?}, {side:?}, {rate}: {found:?}");
        assert!(found.interval().contains(found.rate().unwrap()));
    }
    // Too few answers for a rate give no result.
    let few = calibrated(30, 6);
    assert!(few.held_out(0).iter().all(|held| held.rate == 0.1), "{:?}", few.held_out(0));
    assert!(calibrated(10, 7).held_out(0).is_empty());
}

#[test]
fn what_is_known_of_answers_is_in_the_file_and_old_files_say_that_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evil.calibration.json");
    let calibration = calibrated(400, 8);
    calibration.save(&path).unwrap();
    let loaded = Calibration::load(&path, &one(), &model()).unwrap();
    assert_eq!(loaded.held_out(0), calibration.held_out(0));
    let [ours, theirs] = [&loaded, &calibration].map(|c| c.variance(0).unwrap());
    assert!((ours.between - theirs.between).abs() < 1e-12 && (ours.within - theirs.within).abs() < 1e-12);
    let thresholds = |calibration: &Calibration| {
        let rules = [rule(Kind::Token, Side::Above, Threshold::FalseAlarms(0.05))];
        Alarms::new(&one(), &rules, Some(calibration)).map(|alarms| alarms.false_alarms([])[0].threshold)
    };
    assert_eq!(thresholds(&loaded).unwrap(), thresholds(&calibration).unwrap());
    // In the format of the earlier version.
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["directions"][0].as_object_mut().unwrap().remove("answers").unwrap();
    std::fs::write(&path, json.to_string()).unwrap();
    let old = Calibration::load(&path, &one(), &model()).unwrap();
    assert!(old.held_out(0).is_empty() && old.variance(0).is_none());
    assert!(matches!(thresholds(&old), Err(Error::Monitor(MonitorError::TooFewAnswers { found: 0, .. }))));
    let means = [rule(Kind::ResponseMean, Side::Above, Threshold::FalseAlarms(0.05))];
    assert!(Alarms::new(&one(), &means, Some(&old)).is_ok(), "one reading in an answer is known");
    assert!(Drift::new(&one(), &old, CusumOptions::default()).is_ok());
    // If it is unknown for some answers, it is unknown for all.
    let both = calibration.clone().merged(&old).unwrap();
    assert!(both.held_out(0).is_empty() && both.variance(0).is_none());
    let nothing = Calibrator::new(&one()).unwrap().finish(&model());
    let same = calibration.clone().merged(&nothing).unwrap();
    assert_eq!(same.held_out(0), calibration.held_out(0));
}

#[test]
fn calibrations_are_merged_as_if_made_in_one() {
    let (first, second) = (calibrated(600, 9), calibrated(800, 10));
    let both = first.clone().merged(&second).unwrap();
    for (held, (a, b)) in both.held_out(0).iter().zip(first.held_out(0).iter().zip(second.held_out(0))) {
        assert_eq!((held.kind, held.side, held.rate), (a.kind, a.side, a.rate));
        assert_eq!(held.found.answers, a.found.answers + b.found.answers);
        assert_eq!(held.found.raised, a.found.raised + b.found.raised);
    }
    let mut calibrator = Calibrator::new(&one()).unwrap();
    for (answers, seed) in [(600, 9), (800, 10)] {
        let mut random = random(seed);
        for _ in 0..answers {
            let tokens = lengths(&mut random);
            calibrator.add_answer(&ordinary(&mut random, tokens)).unwrap();
        }
    }
    let (whole, parts) = (calibrator.finish(&model()).variance(0).unwrap(), both.variance(0).unwrap());
    assert!((whole.between - parts.between).abs() < 1e-9 && (whole.within - parts.within).abs() < 1e-9);
    assert_eq!(both.answers(0, Kind::Token), Some(1_400));
}

#[test]
fn the_spread_of_means_follows_the_length() {
    let calibration = calibrated(4_000, 11);
    let parts = calibration.variance(0).unwrap();
    for tokens in [12, 20, 200, 350] {
        let expected = variance(tokens).sqrt();
        assert!((parts.sd(tokens) / expected - 1.0).abs() < 0.08, "{tokens}: {} not {expected}", parts.sd(tokens));
    }
    // One standard deviation for all is wrong for either length.
    let all = calibration.distribution(0, Kind::ResponseMean).unwrap().sd().unwrap();
    assert!(all < 0.9 * variance(12).sqrt() && all > 1.1 * variance(350).sqrt(), "{all}");
    // Answers of one token cannot be halved.
    let mut calibrator = Calibrator::new(&one()).unwrap();
    let mut random = random(12);
    (0..50).for_each(|_| calibrator.add_answer(&ordinary(&mut random, 1)).unwrap());
    assert_eq!(calibrator.finish(&model()).variance(0), None);
}

/// The mean number of turns of ordinary answers of one length until a drift is detected.
fn run_length(calibration: &Calibration, tokens: usize, runs: usize, seed: u64) -> f64 {
    let mut random = random(seed);
    let options = CusumOptions { k: 0.5, h: 3.0, sides: Sides::Both };
    let mut turns = 0;
    for _ in 0..runs {
        let mut drift = Drift::new(&one(), calibration, options).unwrap();
        loop {
            turns += 1;
            if !drift.push(&ordinary(&mut random, tokens)).unwrap().is_empty() {
                break;
            }
        }
    }
    turns as f64 / runs as f64
}

/// With `h` = 3 and both sides, an ordinary conversation alarms about every 59 turns (two-sided CUSUM, k = 1/2),
/// whatever the length of its answers; with one standard deviation for all, short answers alarm many times as often as
/// long ones.
#[test]
fn false_drift_does_not_depend_on_the_length() {
    let calibration = calibrated(4_000, 13);
    let found = [12, 300].map(|tokens| run_length(&calibration, tokens, 400, 14));
    println!("turns until a false alarm: {found:?}");
    for turns in found {
        // The standard error of a run length is a twentieth of it; an error of a twelfth in the standard deviation adds
        // about a fifth.
        assert!((35.0..100.0).contains(&turns), "{found:?}");
    }
    let mut json = serde_json::to_value(&calibration).unwrap();
    json["directions"][0].as_object_mut().unwrap().remove("answers").unwrap();
    let old: Calibration = serde_json::from_value(json).unwrap();
    let before = [12, 300].map(|tokens| run_length(&old, tokens, 200, 15));
    assert!(before[1] > 4.0 * before[0], "{before:?}");
}

#[test]
fn alarms_come_back_from_their_files() {
    for value in [1.25, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE, 0.1] {
        for at in [At::PromptToken(3), At::PromptLast, At::Token(0), At::ResponseMean] {
            let reading = Reading { sequence: 7, at, values: vec![value, 1.0] };
            let read: Reading = serde_json::from_str(&serde_json::to_string(&reading).unwrap()).unwrap();
            assert_eq!((read.sequence, read.at, read.values[0].is_nan()), (7, at, value.is_nan()));
            assert!(value.is_nan() || read.values[0].to_bits() == value.to_bits(), "{value}");
            let rules = [rule(at.kind(), Side::Above, Threshold::Value(-1e30))];
            for alarm in Alarms::new(&one(), &rules, None).unwrap().check(&reading) {
                let read: Alarm = serde_json::from_str(&serde_json::to_string(&alarm).unwrap()).unwrap();
                assert!(read.value.to_bits() == value.to_bits() || (read.value.is_nan() && value.is_nan()));
                assert_eq!(Alarm { value: 0.0, ..read }, Alarm { value: 0.0, ..alarm });
            }
        }
    }
    // In the format of earlier versions.
    let old: Reading = serde_json::from_str(r#"{"sequence":1,"at":"prompt_last","values":[null,2.5]}"#).unwrap();
    assert!(old.values[0].is_nan() && old.values[1] == 2.5);
    for threshold in [Threshold::Value(0.1), Threshold::Quantile(0.99), Threshold::FalseAlarms(0.01)] {
        for kind in Kind::ALL {
            let rule = rule(kind, Side::Below, threshold);
            assert_eq!(serde_json::from_str::<AlarmRule>(&serde_json::to_string(&rule).unwrap()).unwrap(), rule);
        }
    }
}
