#![allow(clippy::print_stdout, reason = "a test shows what it measured")]

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::*;

/// Samples in which the base answer's projection is a linear function of the prompt's projection, plus noise.
fn population(n: usize, noise: f64, seed: u64) -> Vec<Known> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = || (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
    let sample = |i: usize| {
        let prompt_last = 3.0 + 2.0 * normal();
        // Skewed: some samples are outliers.
        let answer = 1.0 + normal() + if i.is_multiple_of(10) { 6.0 + normal().abs() } else { 0.0 };
        let base = 0.5 + 0.8 * prompt_last + noise * normal();
        Known { answer, prompt_last, base: Some(base), count: if i.is_multiple_of(7) { 3.0 } else { 1.0 } }
    };
    (0..n).map(sample).collect()
}

fn truth(all: &[Known]) -> f64 {
    let rows: f64 = all.iter().map(|s| s.count).sum();
    all.iter().map(|s| s.count * s.delta().expect("all are known")).sum::<f64>() / rows
}

/// The same samples, with the base answers of a random subset only.
fn part(all: &[Known], n: usize, seed: u64) -> Vec<Known> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut some: Vec<Known> = all.iter().map(|s| Known { base: None, ..*s }).collect();
    order[..n].iter().for_each(|&i| some[i].base = all[i].base);
    some
}

#[test]
fn intervals_cover_and_the_control_variate_needs_fewer_answers() {
    let all = population(1000, 0.5, 1);
    let truth = truth(&all);
    let mut variances = Vec::new();
    for (method, interval) in [
        (Method::Subset, IntervalKind::T),
        (Method::Subset, IntervalKind::Bootstrap { resamples: 800 }),
        (Method::ControlVariate, IntervalKind::T),
        (Method::ControlVariate, IntervalKind::Bootstrap { resamples: 800 }),
        (Method::Proxy, IntervalKind::T),
    ] {
        let options = EstimateOptions { interval, ..EstimateOptions::default() };
        let runs: Vec<Estimate> =
            (0..400).map(|seed| estimate(&part(&all, 80, seed), method, &options).expect("an estimate")).collect();
        let covered = runs.iter().filter(|run| run.interval.contains(truth)).count();
        let bias = runs.iter().map(|run| run.value).sum::<f64>() / 400.0 - truth;
        let spread = (runs.iter().map(|run| (run.value - truth).powi(2)).sum::<f64>() / 400.0).sqrt();
        let said = runs.iter().map(|run| run.standard_error).sum::<f64>() / 400.0;
        // 93 % of 400, and a bias within three standard errors of the mean of 400.
        assert!(covered >= 372, "{method:?}, {interval:?}: {covered} of 400");
        assert!(bias.abs() < 3.0 * spread / 20.0, "{method:?}: {bias} beside {spread}");
        assert!((said / spread - 1.0).abs() < 0.2, "{method:?}: {said} and {spread}");
        variances.push(spread * spread);
    }
    assert!(variances[2] < 0.4 * variances[0], "{variances:?}");
}

#[test]
fn where_the_prompt_tells_nothing_the_control_variate_says_so() {
    let mut all = population(600, 3.0, 2);
    for sample in &mut all {
        // The difference is independent of both features.
        let delta = sample.base.expect("known") - 0.8 * sample.prompt_last;
        sample.base = Some(sample.answer - delta);
    }
    let ratios: Vec<f64> = (0..50)
        .map(|seed| estimate(&part(&all, 60, seed), Method::ControlVariate, &EstimateOptions::default()))
        .map(|estimate| estimate.expect("an estimate").variance_ratio)
        .collect();
    let mean = ratios.iter().sum::<f64>() / 50.0;
    assert!(mean > 0.97, "{mean}");
}

#[test]
fn with_all_answers_there_is_no_error() {
    let all = population(50, 1.0, 3);
    for method in [Method::Subset, Method::ControlVariate] {
        let found = estimate(&all, method, &EstimateOptions::default()).expect("an estimate");
        assert!((found.value - truth(&all)).abs() < 1e-9 && found.standard_error == 0.0, "{found:?}");
        let more = estimate(&all, method, &EstimateOptions { finite: false, ..EstimateOptions::default() });
        assert!(more.expect("an estimate").standard_error > 0.0);
    }
}

#[test]
fn looking_often_is_paid_for() {
    let all = population(2000, 1.0, 4);
    let truth = truth(&all);
    let t = EstimateOptions { interval: IntervalKind::T, ..EstimateOptions::default() };
    let (mut wrong, mut stopped) = (0, 0);
    for seed in 0..300 {
        let stop = Stop { width: None, threshold: Some(truth) };
        let mut sequential = Sequential::new(stop, Method::Subset, t);
        for n in [32, 64, 128, 256, 512] {
            if sequential.look(&part(&all, n, seed)).expect("a look").decision.is_some() {
                // The true value is the threshold itself, so every decision is wrong.
                wrong += 1;
                break;
            }
        }
        let narrow = Stop { width: Some(1.5), threshold: None };
        let mut sequential = Sequential::new(narrow, Method::ControlVariate, t);
        let looks = [32, 64, 128, 256, 512].map(|n| sequential.look(&part(&all, n, seed)).expect("a look"));
        let last = looks.iter().find(|look| look.decision == Some(Decision::Narrow));
        stopped += usize::from(last.is_some_and(|look| look.estimate.interval.contains(truth)));
    }
    // 5 % of 300, and three standard errors.
    assert!(wrong <= 26, "{wrong} of 300");
    assert!(stopped >= 279, "{stopped} of 300");
}

#[test]
fn what_cannot_be_estimated_is_refused() {
    let all = population(50, 1.0, 5);
    let options = EstimateOptions::default();
    assert!(matches!(estimate(&part(&all, 15, 0), Method::Subset, &options), Err(Error::TooFew { found: 15, .. })));
    let mut bad = all.clone();
    bad[3].answer = f64::NAN;
    assert!(estimate(&bad, Method::Subset, &options).is_err());
    assert!(estimate(&all, Method::Subset, &EstimateOptions { level: 1.0, ..options }).is_err());
    // Features that do not vary.
    let flat: Vec<Known> = all.iter().map(|s| Known { answer: 1.0, prompt_last: 2.0, ..*s }).collect();
    let found = estimate(&part(&flat, 20, 0), Method::ControlVariate, &options).expect("an estimate");
    assert!(found.value.is_finite());
}

#[test]
fn fewer_generations_for_wider_intervals() {
    let found = estimate(&part(&population(1000, 0.5, 6), 100, 0), Method::Subset, &EstimateOptions::default());
    let found = found.expect("an estimate");
    let width = found.interval.high - found.interval.low;
    let needed = found.generations_for(width);
    assert!((90..=105).contains(&needed), "{needed}");
    assert!(found.generations_for(width / 2.0) > 2 * needed && found.generations_for(0.0) == 1000);
}

/// Grows subsets until a rule stops, then computes the interval with and without the correction for the number of
/// looks, and returns how often each misses the true value.
fn missed(all: &[Known], stop: Stop, method: Method, runs: u64) -> [f64; 2] {
    let t = EstimateOptions { interval: IntervalKind::T, ..EstimateOptions::default() };
    let truth = truth(all);
    let mut missed = [0; 2];
    for seed in 0..runs {
        let mut sequential = Sequential::new(stop, Method::ControlVariate, EstimateOptions { seed, ..t });
        let mut known = Vec::new();
        for n in [32, 64, 128, 256, 512] {
            known = part(all, n, 1000 + seed);
            if sequential.look(&known).expect("a look").decision.is_some() {
                break;
            }
        }
        for (missed, looks) in missed.iter_mut().zip([sequential.looks(), 0]) {
            let found = after_looks(&known, method, &t, looks).expect("an estimate");
            assert_eq!((found.level, found.looks), (0.95, looks));
            *missed += u64::from(!found.interval.contains(truth));
        }
    }
    missed.map(|missed| missed as f64 / runs as f64)
}

#[test]
fn an_interval_after_stopping_covers_as_it_says() {
    let runs = 600;
    let all = population(2000, 1.0, 9);
    let truth = truth(&all);
    // One look in twenty may miss, plus four standard errors.
    let most = 0.05 + 4.0 * (0.05f64 * 0.95 / runs as f64).sqrt();
    for stop in [
        Stop { width: Some(1.5), threshold: None },
        Stop { width: None, threshold: Some(truth) },
        Stop { width: Some(0.8), threshold: Some(truth + 0.3) },
    ] {
        for method in [Method::Subset, Method::ControlVariate] {
            let [corrected, uncorrected] = missed(&all, stop, method, runs);
            println!("{stop:?}, {method:?}: missed {corrected:.3}, uncorrected {uncorrected:.3}");
            assert!(corrected <= most, "{stop:?}, {method:?}: {corrected} > {most}");
            assert!(corrected <= uncorrected, "the corrected interval is the wider one");
        }
    }
    // This rule continues until the interval excludes a value. If that is the true value, an interval at the
    // uncorrected level misses it in every run that stops, and so more often than its level states.
    let plain = EstimateOptions { interval: IntervalKind::T, ..EstimateOptions::default() };
    let wrong = (0..runs).filter(|seed| {
        [32, 64, 128, 256, 512].iter().any(|n| {
            let found = estimate(&part(&all, *n, 1000 + seed), Method::Subset, &plain).expect("an estimate");
            !found.interval.contains(truth)
        })
    });
    let wrong = wrong.count() as f64 / runs as f64;
    assert!(wrong > most + 0.02, "stopping at will misses in {wrong}");
}

#[test]
fn estimates_of_a_fixed_size_say_nothing_of_looks() {
    let all = part(&population(400, 1.0, 10), 80, 0);
    let options = EstimateOptions::default();
    let fixed = after_looks(&all, Method::Subset, &options, 0).expect("an estimate");
    assert_eq!(fixed, estimate(&all, Method::Subset, &options).expect("an estimate"));
    let text = serde_json::to_string(&fixed).expect("JSON");
    assert!(!text.contains("looks"), "{text}");
    assert_eq!(serde_json::from_str::<Estimate>(&text).expect("an estimate of an earlier version").looks, 0);
    let third = after_looks(&all, Method::Subset, &options, 3).expect("an estimate");
    assert!(third.interval.low < fixed.interval.low && third.interval.high > fixed.interval.high);
    // The interval is that of one look at 1 − 0.05 / 12.
    let look = estimate(&all, Method::Subset, &EstimateOptions { level: 1.0 - 0.05 / 12.0, ..options });
    assert_eq!(third.interval, look.expect("an estimate").interval);
    let text = serde_json::to_string(&third).expect("JSON");
    let read: Estimate = serde_json::from_str(&text).expect("an estimate");
    assert_eq!((read.looks, read.level, read.known), (3, 0.95, third.known));
}
