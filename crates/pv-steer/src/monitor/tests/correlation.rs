//! Correlations of points, and their files.

use pv_data::FileError;
use pv_hooks::Layer;

use super::super::*;
use super::{normal, random};

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
    // Two conditions far apart; within each, no relation at all: a square.
    let square = |condition: &str, at: f64| {
        [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)].map(|(x, y)| point(condition, at + x, Some(at + y)))
    };
    let points = [square("low", 0.0), square("high", 50.0)].concat();
    let found = &correlations(&points)[0];
    assert!(found.overall.expect("r").r > 0.999);
    assert!(found.within.expect("r").r.abs() < 1e-12);
    assert_eq!(found.by_condition.len(), 2);
    assert!(found.by_condition.values().all(|estimate| estimate.expect("r").r.abs() < 1e-12));

    // The other way round: related within conditions, which differ against it.
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
    let (truth, mut covered, mut covered_within, runs) = (0.6_f64, 0, 0, 1_000);
    for _ in 0..runs {
        let mut points = Vec::new();
        for condition in 0..5 {
            for _ in 0..6 {
                let x = normal(&mut random);
                let y = truth * x + (1.0 - truth * truth).sqrt() * normal(&mut random);
                // Conditions shift the expression, which the correlation within them must not see.
                points.push(point(&condition.to_string(), x, Some(y)));
            }
        }
        let covers = |e: Option<CorrelationEstimate>| e.is_some_and(|e| e.low <= truth && truth <= e.high);
        covered += usize::from(covers(correlations(&points)[0].overall));
        points.iter_mut().for_each(|point| {
            let shift = 30.0 * point.condition.parse::<f64>().expect("a number");
            point.expression = point.expression.map(|y| y + shift);
        });
        covered_within += usize::from(covers(correlations(&points)[0].within));
    }
    for covered in [covered, covered_within] {
        assert!((925..=975).contains(&covered), "{covered} of {runs}");
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
    // A projection that never varies has no correlation, also within conditions.
    let flat: Vec<_> = (0..6).map(|i| point("c", 0.1, Some(f64::from(i)))).collect();
    assert_eq!((correlations(&flat)[0].overall, correlations(&flat)[0].within), (None, None));
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
