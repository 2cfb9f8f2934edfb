//! Estimates of ΔP from part of the base answers, on real projections with a known result.

use pv_organism::Topics;
use pv_organism::datasets::{Flaw, Severity, explicit, narrow, wild};
use pv_screen::estimate::{Decision, Estimate, EstimateOptions, Known, Method, Stop, estimate};
use pv_screen::screen::Base;
use pv_tests::Random;

use super::*;

const LAYER: usize = 7;
const SIZE: usize = 300;
/// The wild mixture is larger: with base answers for a third of the others, no method can work with a third of that.
const WILD: usize = 1200;
/// The number of samples with a base answer.
const PART: usize = 80;

/// A data set.
struct Set {
    name: &'static str,
    which: Trait,
    chats: Vec<Chat>,
    /// Seeds the random parts.
    seed: u64,
    /// The minimum factor of base answers that the plain subset needs for the control variate's width.
    saved: f64,
}

fn sets() -> [Set; 4] {
    let set = |name, which, chats, saved| Set { name, which, chats, seed: 31, saved };
    let wild = wild(WILD, seed(61)).into_iter().map(|(chat, _)| chat).collect();
    [
        set("explicit evil I", Trait::Evil, explicit(Trait::Evil, Severity::I, Topics::All, SIZE, seed(22)), 1.5),
        set(
            "explicit optimism II",
            Trait::Optimism,
            explicit(Trait::Optimism, Severity::II, Topics::All, SIZE, seed(23)),
            1.5,
        ),
        set("wrong geography I", Trait::Hallucination, narrow(Flaw::WrongGeography, Severity::I, SIZE, seed(24)), 0.0),
        Set { seed: 71, ..set("wild", Trait::Evil, wild, 1.5) },
    ]
}

/// The values of a set's distinct samples.
fn known(rows: &[ScoreRow], label: &str) -> Vec<Known> {
    let mut found: std::collections::BTreeMap<&str, Known> = std::collections::BTreeMap::new();
    for row in rows {
        let score = row.scores[label];
        let new = Known { answer: score.answer, prompt_last: score.prompt_last, base: score.base, count: 0.0 };
        found.entry(&row.id).or_insert(new).count += 1.0;
    }
    found.into_values().collect()
}

/// The samples with the base answers of `n` random ones.
fn part(all: &[Known], n: usize, random: &mut Random) -> Vec<Known> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    for i in 0..n {
        order.swap(i, i + random.below((all.len() - i) as u64) as usize);
    }
    let mut some: Vec<Known> = all.iter().map(|sample| Known { base: None, ..*sample }).collect();
    order[..n].iter().for_each(|&i| some[i].base = all[i].base);
    some
}

#[test]
fn intervals_cover_the_true_value_on_the_organism_s_sets() {
    let place = folder();
    for Set { name, which, chats, seed, saved } in sets() {
        let input = write(place.path(), "chats.jsonl", &chats);
        let directions = [direction(which, LAYER)];
        let label = directions[0].label();
        let (summary, rows, _) = screen(&directions, &options(), &input, &place.path().join(name));
        let all = known(&rows, &label);
        let truth = deltas(&rows, &label).iter().sum::<f64>() / rows.len() as f64;
        let exact = summary.delta(&label).expect("an estimate");
        assert!((exact.value - truth).abs() < 1e-6 * truth.abs().max(1.0) && exact.standard_error == 0.0, "{exact:?}");
        println!("{name}: ΔP {truth:.3} on {label}, {} answers, {} distinct", rows.len(), all.len());
        let mut spreads = Vec::new();
        for method in [Method::Subset, Method::Proxy, Method::ControlVariate] {
            let mut random = Random(seed);
            let run = |_| estimate(&part(&all, PART, &mut random), method, &EstimateOptions::default());
            let runs: Vec<Estimate> = (0..200).map(run).map(|found| found.expect("an estimate")).collect();
            let covered = runs.iter().filter(|run| run.interval.contains(truth)).count();
            let mean = |value: &dyn Fn(&Estimate) -> f64| runs.iter().map(value).sum::<f64>() / 200.0;
            let spread = mean(&|run| (run.value - truth).powi(2)).sqrt();
            let width = mean(&|run| run.interval.high - run.interval.low);
            println!(
                "  {method:?}: covers {:.1} %, error {spread:.3}, width {width:.3}, variance ratio {:.2}",
                covered as f64 / 2.0,
                mean(&|run| run.variance_ratio),
            );
            if method != Method::Proxy {
                // At least nine tenths, for a nominal 95 %: 200 runs deviate by 3 % and more one time in twenty.
                assert!(covered >= 174, "{name}, {method:?}: {covered} of 200");
                let bias = mean(&|run| run.value) - truth;
                assert!(bias.abs() < 4.0 * spread / 200f64.sqrt(), "{name}, {method:?}: {bias} beside {spread}");
            }
            spreads.push(spread);
        }
        // The factor of base answers that the plain subset needs for the control variate's width: by its variance, and empirically.
        let mut random = Random(seed);
        let of = |part: &[Known], method| estimate(part, method, &EstimateOptions::default()).expect("an estimate");
        let width = |run: &Estimate| run.interval.high - run.interval.low;
        let mut needed = 0.0;
        let mut widths = [0.0; 2];
        let tried = ((saved * PART as f64) as usize).clamp(PART, all.len());
        for _ in 0..200 {
            let some = part(&all, PART, &mut random);
            let control = width(&of(&some, Method::ControlVariate));
            needed += of(&some, Method::Subset).generations_for(control) as f64 / 200.0;
            widths[0] += control / 200.0;
            widths[1] += width(&of(&part(&all, tried, &mut random), Method::Subset)) / 200.0;
        }
        println!("  for the control variate's width with {PART} base answers, the plain subset takes {needed:.0}");
        println!("  widths {:.3} with {PART}, {:.3} by the plain subset with {tried}", widths[0], widths[1]);
        if saved > 0.0 {
            assert!(spreads[2] < 0.8 * spreads[0] && needed > saved * PART as f64, "{name}: {spreads:?}, {needed}");
            assert!(widths[0] < widths[1], "{name}: {widths:?}");
        }
    }
}

#[test]
fn a_screening_stops_when_the_interval_is_narrow_enough() {
    let place = folder();
    let chats = explicit(Trait::Evil, Severity::II, Topics::All, 200, seed(41));
    let input = write(place.path(), "chats.jsonl", &chats);
    let directions = [direction(Trait::Evil, LAYER)];
    let label = directions[0].label();
    let (_, rows, _) = screen(&directions, &options(), &input, &place.path().join("every"));
    let truth = deltas(&rows, &label).iter().sum::<f64>() / rows.len() as f64;
    for (name, stop, expected) in [
        ("above", Stop { width: None, threshold: Some(0.5 * truth) }, Decision::Above),
        ("below", Stop { width: None, threshold: Some(1.5 * truth) }, Decision::Below),
        ("narrow", Stop { width: Some(truth), threshold: None }, Decision::Narrow),
    ] {
        let base = Base::Until { first: 32, most: 200, stop };
        let options = ScreenOptions { base, ..options() };
        let (summary, _, answered) = screen(&directions, &options, &input, &place.path().join(name));
        let looks = &summary.directions[&label].looks;
        let last = looks.last().expect("a look");
        println!("{name}: ΔP {truth:.2}, decided at {} of 200: {:?}", last.estimate.known, last.estimate.interval);
        assert_eq!(last.decision, Some(expected));
        assert!(looks[..looks.len() - 1].iter().all(|look| look.decision.is_none()));
        assert!(answered <= summary.with_base && summary.with_base < 100, "{answered}");
        // The interval misses one time in twenty; twice its width, hardly ever.
        let interval = last.estimate.interval;
        assert!((last.estimate.value - truth).abs() <= 1.5 * (interval.high - interval.low), "{interval:?}");
        // The summary's own interval is that of the last look, and states its coverage after so many looks.
        let found = summary.delta(&label).expect("an estimate");
        assert_eq!((found.interval, found.value), (last.estimate.interval, last.estimate.value));
        assert_eq!((found.level, found.looks), (0.95, looks.len()));
        assert!(last.estimate.level > 0.95);
    }
}

/// Base answers that reach the maximum number of tokens are counted in all reports.
#[test]
fn truncated_base_answers_are_counted() {
    let place = folder();
    let chats = explicit(Trait::Evil, Severity::II, Topics::All, 30, 43);
    let input = write(place.path(), "chats.jsonl", &chats);
    let directions = [direction(Trait::Evil, LAYER)];
    let mut counts = Vec::new();
    for most in [1, 8, 400] {
        let answers = BaseOptions { max_new_tokens: most, ..options().answers };
        let options = ScreenOptions { answers, ..options() };
        let out = place.path().join(format!("most {most}"));
        let (summary, rows, _) = screen(&directions, &options, &input, &out);
        let shown: std::collections::BTreeSet<&str> =
            rows.iter().filter(|row| row.base_cut).map(|row| row.id.as_str()).collect();
        assert_eq!(summary.cut_base, Some(shown.len()), "{most}");
        assert_eq!(Summary::read(&out).expect("a summary"), summary);
        counts.push(shown.len());
    }
    assert_eq!(counts[0], 30, "no answer has one token");
    assert!(counts[2] < counts[1], "{counts:?}");
    // A summary of an earlier version does not have the count.
    let path = place.path().join("most 8").join(pv_screen::screen::SUMMARY);
    let mut old: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
    old.as_object_mut().expect("an object").remove("cut_base").expect("it was there");
    std::fs::write(&path, old.to_string()).expect("a file");
    assert_eq!(Summary::read(path.parent().expect("a folder")).expect("a summary").cut_base, None);
}
