//! Correlations of points, and their files.

use pv_data::FileError;
use pv_hooks::Layer;

use super::super::*;
use super::{normal, random};
use crate::Error;

fn point(condition: &str, projection: f64, expression: Option<f64>) -> MonitoringPoint {
    MonitoringPoint {
        prompt: format!("{condition}, \"{projection}\""),
        condition: condition.to_owned(),
        trait_name: "evil".to_owned(),
        layer: Layer::hidden_state(4),
        projection,
        expression,
        n: if expression.is_some() { 10 } else { 0 },
    }
}

#[test]
fn conditions_may_explain_everything() {
    // Two conditions far apart; within each, a square without any relation.
    let square = |condition: &str, at: f64| {
        [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)].map(|(x, y)| point(condition, at + x, Some(at + y)))
    };
    let points = [square("low", 0.0), square("high", 50.0)].concat();
    let found = &correlations(&points)[0];
    assert!(found.overall.expect("r").r > 0.999);
    assert!(found.within.expect("r").r.abs() < 1e-12);
    assert_eq!(found.by_condition.len(), 2);
    assert!(found.by_condition.values().all(|estimate| estimate.expect("r").r.abs() < 1e-12));

    // The reverse: related within conditions, which differ in the opposite direction.
    let line = |condition: &str, x: f64, y: f64| {
        [0.0, 1.0, 2.0, 3.0].map(|step| point(condition, x + step, Some(y + 2.0 * step)))
    };
    let points = [line("a", 0.0, 90.0), line("b", 50.0, 0.0)].concat();
    let found = &correlations(&points)[0];
    let within = found.within.expect("r");
    assert!((within.r - 1.0).abs() < 1e-12 && within.n == 8 && found.overall.expect("r").r < 0.0);
}

#[test]
fn intervals_cover_the_truth_as_often_as_they_say() {
    let mut random = random(12);
    let (truth, mut covered, mut covered_within, runs) = (0.6_f64, 0, 0, 200);
    for _ in 0..runs {
        let mut points = Vec::new();
        for condition in 0..5 {
            for _ in 0..6 {
                let x = normal(&mut random);
                let y = truth * x + (1.0 - truth * truth).sqrt() * normal(&mut random);
                // Conditions shift the expression, which must not affect the correlation within them.
                points.push(point(&condition.to_string(), x, Some(y)));
            }
        }
        let covers = |e: Option<CorrelationEstimate>| e.is_some_and(|e| e.interval().contains(truth));
        covered += usize::from(covers(correlations(&points)[0].overall));
        points.iter_mut().for_each(|point| {
            let shift = 30.0 * point.condition.parse::<f64>().expect("a number");
            point.expression = point.expression.map(|y| y + shift);
        });
        covered_within += usize::from(covers(correlations(&points)[0].within));
    }
    for covered in [covered, covered_within] {
        // 95 % of 200, and four standard errors.
        assert!((178..=200).contains(&covered), "{covered} of {runs}");
    }
}

#[test]
fn traits_and_layers_are_apart_and_gaps_are_left_out() {
    let mut points: Vec<_> = (0..6).map(|i| point("c", f64::from(i), Some(f64::from(i)))).collect();
    points.push(point("c", 1e9, None));
    let mut other: Vec<_> =
        points.iter().cloned().map(|p| MonitoringPoint { projection: -p.projection, ..p }).collect();
    other.iter_mut().for_each(|point| point.layer = Layer::hidden_state(5));
    points.extend(other);
    points.push(MonitoringPoint { trait_name: "optimism".to_owned(), ..point("c", 0.0, Some(1.0)) });
    let found = correlations(&points);
    let names: Vec<_> = found.iter().map(|c| (c.trait_name.as_str(), c.layer.index())).collect();
    assert_eq!(names, [("evil", 4), ("evil", 5), ("optimism", 4)]);
    for (found, r) in found.iter().zip([1.0, -1.0]) {
        let overall = found.overall.expect("r");
        assert!((overall.r - r).abs() < 1e-12 && overall.n == 6 && (found.spearman.expect("rho") - r).abs() < 1e-12);
    }
    assert_eq!(found[2].overall, None);
    assert_eq!(correlations(&[]), []);
    // A constant projection has no correlation, also within conditions.
    let flat: Vec<_> = (0..6).map(|i| point("c", 0.1, Some(f64::from(i)))).collect();
    assert_eq!((correlations(&flat)[0].overall, correlations(&flat)[0].within), (None, None));
}

/// Ten copies of each point are ten answers to its prompt and add no information.
#[test]
fn points_of_one_prompt_are_drawn_together() {
    let mut random = random(3);
    let points: Vec<_> = (0..30)
        .map(|i| {
            let x = normal(&mut random);
            point(if i % 2 == 0 { "a" } else { "b" }, x, Some(0.6 * x + normal(&mut random)))
        })
        .collect();
    let copies: Vec<_> = points.iter().flat_map(|point| vec![point.clone(); 10]).collect();
    let (one, ten) = (correlations(&points).remove(0), correlations(&copies).remove(0));
    let close = |a: Option<CorrelationEstimate>, b: Option<CorrelationEstimate>| {
        let (a, b) = (a.expect("r"), b.expect("r"));
        assert_eq!(a.n, b.n);
        for (a, b) in [(a.r, b.r), (a.low, b.low), (a.high, b.high)] {
            assert!((a - b).abs() < 1e-9, "{a} and {b}");
        }
    };
    close(one.overall, ten.overall);
    close(one.within, ten.within);
    one.by_condition.values().zip(ten.by_condition.values()).for_each(|(one, ten)| close(*one, *ten));
    let (one, ten) = (one.spearman_interval.expect("an interval"), ten.spearman_interval.expect("an interval"));
    assert!((one.low - ten.low).abs() < 1e-9 && (one.high - ten.high).abs() < 1e-9 && one.contains(0.5), "{one:?}");
}

#[test]
fn correlations_of_earlier_versions_are_read() {
    let text = r#"{"trait":"evil","layer":4,"overall":{"r":0.5,"low":0.1,"high":0.8,"n":20},"spearman":0.4,
        "within":null,"by_condition":{"a":null}}"#;
    let read: MonitoringCorrelation = serde_json::from_str(text).expect("an earlier version's");
    assert_eq!((read.spearman_interval, read.overall.map(|found| found.interval().contains(0.5))), (None, Some(true)));
    let written = serde_json::to_value(&read).expect("JSON");
    assert_eq!(written, serde_json::from_str::<serde_json::Value>(text).expect("JSON"));
}

#[test]
fn points_survive_their_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("points.csv");
    let points = [point("shots, 5", 0.1 + 0.2, Some(100.0 / 3.0)), point("", -1e-9, None)];
    write_points(&path, &points).expect("a file");
    assert_eq!(read_points(&path).expect("points"), points);
    let text = std::fs::read_to_string(&path).expect("a file");
    assert!(text.starts_with("prompt,condition,trait,layer,projection,expression,n\n"), "{text}");
    std::fs::write(&path, text.replace("evil", "evil,1")).expect("a file");
    let error = read_points(&path).expect_err("a column too many");
    assert!(error.to_string().contains("is not a table of points"), "{error}");
    assert!(matches!(read_points(folder.path().join("none.csv")), Err(Error::File(FileError::Read { .. }))));
}
