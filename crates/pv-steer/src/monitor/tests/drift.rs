//! Drift: the sums, the rate of false alarms, and the delay of detection.

use super::super::*;
use super::{answer, calibration, normal, random, watches};
use crate::Error;

#[test]
fn the_sums_are_those_of_the_formula() {
    let options = CusumOptions { k: 0.5, h: 2.0, sides: Sides::Both };
    let mut cusum = Cusum::new(options).expect("a CUSUM");
    let steps = [
        (1.0, (0.5, 0.0), None),
        (-2.0, (0.0, 1.5), None),
        (-1.5, (0.0, 2.5), Some((Side::Below, 2.5))),
        (3.0, (2.5, 0.0), Some((Side::Above, 2.5))),
        (0.5, (2.5, 0.0), Some((Side::Above, 2.5))),
        (0.0, (2.0, 0.0), None),
    ];
    for (z, sums, alarm) in steps {
        assert_eq!(cusum.push(z), alarm, "at {z}");
        assert_eq!(cusum.sums(), sums);
    }
    cusum.reset();
    assert_eq!(cusum, Cusum::new(options).expect("a CUSUM"));
    for (sides, side) in [(Sides::Rising, Side::Above), (Sides::Falling, Side::Below)] {
        let mut cusum = Cusum::new(CusumOptions { sides, ..options }).expect("a CUSUM");
        let alarms: Vec<_> = [9.0, -20.0].into_iter().filter_map(|z| cusum.push(z)).collect();
        assert!(alarms.len() == 1 && alarms[0].0 == side, "{alarms:?}");
    }
    for (k, h) in [(-0.1, 5.0), (f64::NAN, 5.0), (0.5, 0.0), (0.5, f64::INFINITY)] {
        let error = Cusum::new(CusumOptions { k, h, sides: Sides::Both }).expect_err("refused");
        assert!(error.to_string().contains(&format!("k = {k} and h = {h}")), "{error}");
    }
}

/// The mean number of values until an alarm, over `runs` runs of normal values with this mean.
fn run_length(options: CusumOptions, mean: f64, runs: usize, seed: u64) -> f64 {
    let mut random = random(seed);
    let mut turns = 0;
    for _ in 0..runs {
        let mut cusum = Cusum::new(options).expect("a CUSUM");
        turns += 1;
        while cusum.push(mean + normal(&mut random)).is_none() {
            turns += 1;
        }
    }
    turns as f64 / runs as f64
}

/// Compared with the run lengths in tables (Montgomery, Introduction to Statistical Quality Control, for both sides
/// with k = 1/2: 168 and 8.38 with h = 4, 465 and 10.4 with h = 5); one side alone gives half the false alarms.
#[test]
fn run_lengths_are_those_of_the_tables() {
    for (h, sides, mean, expected, runs) in [
        (4.0, Sides::Both, 0.0, 168.0, 2_000),
        (5.0, Sides::Both, 0.0, 465.0, 2_000),
        (5.0, Sides::Rising, 0.0, 930.0, 2_000),
        (4.0, Sides::Both, 1.0, 8.38, 2_000),
        (5.0, Sides::Rising, 1.0, 10.4, 2_000),
        (5.0, Sides::Falling, -1.0, 10.4, 2_000),
    ] {
        let found = run_length(CusumOptions { k: 0.5, h, sides }, mean, runs, 5);
        // Run lengths of false alarms are nearly exponential: the standard error of the mean is 1/√runs of it; four of
        // these are allowed.
        assert!((found / expected - 1.0).abs() < 0.09, "h = {h}, {sides:?}, mean {mean}: {found:.1}, not {expected}");
    }
}

#[test]
fn a_small_drift_is_found_that_no_turn_shows() {
    let calibration = calibration(5_000);
    let mut random = random(8);
    let mut drift = Drift::new(&watches(), &calibration, CusumOptions::default()).expect("a conversation");
    let (mut turns, mut first) = (Turns::default(), None);
    for turn in 0..60 {
        // The third direction rises by 1.2 standard deviations from turn 20 on; turn 10 is empty.
        let shift = if turn >= 20 { 1.2 } else { 0.0 };
        let mut value =
            |i: usize, shift: f64| (10.0 * i as f64 + (i + 1) as f64 * (normal(&mut random) + shift)) as f32;
        let values = [value(0, 0.0), value(1, 0.0), value(2, shift)];
        let answer = if turn == 10 { answer(&values, &[]) } else { answer(&[0.0; 3], &[&values, &values]) };
        turns.push(&answer);
        for alarm in drift.push(&answer).expect("a turn") {
            assert_eq!((alarm.trait_name.as_str(), alarm.layer.index(), alarm.side), ("optimism", 3, Side::Above));
            assert!(alarm.turn == turn && alarm.sum > alarm.limit);
            first = first.or(Some(turn));
        }
    }
    let first = first.expect("an alarm");
    assert!((21..40).contains(&first), "found at turn {first}");
    assert!(drift.sums(2).expect("watched").0 > 5.0);
    let means: Vec<Option<f32>> = turns.means(1).collect();
    assert_eq!((means.len(), means[10], turns.turns[10].tokens, turns.turns[9].tokens), (60, None, 0, 2));
    assert_eq!(means[11], turns.turns[11].mean.as_ref().map(|mean| mean[1]));
}

#[test]
fn a_conversation_needs_a_calibration_of_its_directions() {
    let options = CusumOptions::default();
    let error = Drift::new(&watches(), &calibration(1), options).expect_err("one reading has no spread");
    assert!(error.to_string().contains("1 readings of the kind response_mean"), "{error}");
    let mut drift = Drift::new(&watches(), &calibration(9), options).expect("a conversation");
    assert!(matches!(
        drift.push(&answer(&[], &[&[1.0]])),
        Err(Error::Monitor(MonitorError::OtherReadings { expected: 3, found: 1 }))
    ));
    assert!(matches!(
        drift.push(&answer(&[], &[&[1.0, 0.0, f32::INFINITY]])),
        Err(Error::Monitor(MonitorError::NotFinite { .. }))
    ));
    assert_eq!(drift.sums(0), Some((0.0, 0.0)));
}
