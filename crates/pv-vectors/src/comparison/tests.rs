use pv_hooks::Layer;
use serde_json::Value;

use super::*;
use crate::activations::mean_difference;
use crate::uncertainty::tests::{Clouds, cases, floats, reference};

fn table(value: &Value) -> Vec<f32> {
    floats(value).into_iter().map(|value| value as f32).collect()
}

fn rows<'a>(values: &'a [f32], case: &Value) -> Activations<'a> {
    let d = case["d"].as_u64().expect("a width") as usize;
    Activations::of_rows(Layer::hidden_state(2), values, d).expect("rows")
}

fn questions(value: &Value) -> Vec<usize> {
    serde_json::from_value(value.clone()).expect("numbers")
}

#[test]
fn components_are_those_of_numpys_svd() {
    for case in cases(&reference(), "principal") {
        let (pos, neg) = (table(&case["pos"]), table(&case["neg"]));
        let (pos, neg) = (rows(&pos, &case), rows(&neg, &case));
        for (name, centring) in [("origin", Centring::Origin), ("mean", Centring::Mean)] {
            let found = principal_component(&pos, &neg, centring).expect("a component");
            let axis = floats(&case[name]["axis"]);
            let explained = case[name]["explained"].as_f64().expect("a number");
            assert!((found.explained - explained).abs() < 1e-9, "{} against {explained}", found.explained);
            let gap = found.direction.values().iter().zip(&axis).map(|(a, b)| (f64::from(*a) - b).abs());
            let gap = gap.fold(0.0, f64::max);
            assert!(gap < 1e-6, "{name}: {gap}");
        }
    }
}

#[test]
fn probes_are_scikit_learns() {
    for case in cases(&reference(), "probe") {
        let (pos, neg) = (table(&case["pos"]), table(&case["neg"]));
        let (p, n) = (questions(&case["pos_questions"]), questions(&case["neg_questions"]));
        let pos = rows(&pos, &case).by_question(&p).expect("one per row");
        let neg = rows(&neg, &case).by_question(&n).expect("one per row");
        let c = case["c"].as_f64().expect("a number");
        // Five folds of five questions: each question is left out once, whatever the seed.
        let options = ProbeOptions { regularisation: Regularisation::C(c), folds: 5, seed: 3 };
        let found = probe(&pos, &neg, &options).expect("a probe");
        let weights = floats(&case["weights"]);
        let norm = weights.iter().map(|w| w * w).sum::<f64>().sqrt();
        assert!((found.weight / norm - 1.0).abs() < 1e-6, "C {c}: {} against {norm}", found.weight);
        for (ours, reference) in found.direction.values().iter().zip(&weights) {
            assert!((f64::from(*ours) - reference / norm).abs() < 1e-6, "C {c}: {ours} against {}", reference / norm);
        }
        for (row, logit) in pos.rows().chain(neg.rows()).zip(floats(&case["logits"])) {
            let row = row.to_slice().expect("neighbours in memory");
            let ours = found.logit(row).expect("one width");
            // The unit vector is rounded to f32, and the rows lie far from the origin.
            let size = crate::vector::dot(row, row).sqrt() * norm;
            assert!((ours - logit).abs() < 1e-6 * (1.0 + size), "C {c}: {ours} against {logit}");
        }
        assert!((found.held_out_accuracy - case["accuracy"].as_f64().expect("a number")).abs() < 1e-12);
        assert!((found.held_out_auc - case["auc"].as_f64().expect("a number")).abs() < 1e-12);
        let share = pos.len().max(neg.len()) as f64 / (pos.len() + neg.len()) as f64;
        assert_eq!(found.baseline, share);
    }
}

#[test]
fn all_find_a_planted_direction() {
    // More dimensions than rows, and fewer.
    for (questions, d) in [(12, 200), (60, 30)] {
        let clouds = Clouds::new(questions, 3, d, 10.0, 0.3, 8);
        let (pos, neg) = clouds.by_question();
        let mean = mean_difference(&pos, &neg).and_then(|v| v.unit()).expect("a direction");
        let component = principal_component(&pos, &neg, Centring::Origin).expect("a component");
        let probe = probe(&pos, &neg, &ProbeOptions::default()).expect("a probe");
        for (name, direction) in [("mean", &mean), ("component", &component.direction), ("probe", &probe.direction)] {
            assert!(direction.values()[0] > 0.85, "{name}: {}", direction.values()[0]);
        }
        assert!(component.explained > 0.1 && probe.held_out_accuracy == 1.0, "{component:?} {probe:?}");
        // Around the mean, the pairs differ by noise only.
        let centred = principal_component(&pos, &neg, Centring::Mean).expect("a component");
        assert!(centred.direction.values()[0].abs() < 0.7 && centred.explained < component.explained);
    }
}

#[test]
fn noise_is_not_told_apart() {
    let clouds = Clouds::new(30, 4, 50, 0.0, 0.0, 9);
    let (pos, neg) = clouds.by_question();
    let probe = probe(&pos, &neg, &ProbeOptions::default()).expect("a probe");
    assert!((probe.held_out_accuracy - 0.5).abs() < 0.15, "{}", probe.held_out_accuracy);
}

#[test]
fn relative_strength_does_not_depend_on_the_scale() {
    let fit = |scale: f32| {
        let clouds = Clouds::new(10, 3, 12, 2.0, 0.3, 10);
        let (pos, neg) = clouds.sides();
        let scaled = |side: &Activations<'_>| side.values().iter().map(|value| value * scale).collect::<Vec<f32>>();
        let (pos, neg) = (scaled(&pos), scaled(&neg));
        let side = |values| Activations::of_rows(Layer::hidden_state(3), values, 12).expect("rows");
        probe(&side(&pos), &side(&neg), &ProbeOptions::default()).expect("a probe")
    };
    let (plain, large) = (fit(1.0), fit(1024.0));
    assert!((plain.weight / large.weight / 1024.0 - 1.0).abs() < 1e-6, "{} {}", plain.weight, large.weight);
    assert_eq!(plain.held_out_accuracy, large.held_out_accuracy);
}

#[test]
fn a_separable_pair_with_almost_no_penalty_converges() {
    let clouds = Clouds::new(8, 2, 100, 4.0, 0.3, 11);
    let (pos, neg) = clouds.sides();
    for c in [1e-12, 1e8] {
        let options = ProbeOptions { regularisation: Regularisation::RelativeC(c), ..ProbeOptions::default() };
        let probe = probe(&pos, &neg, &options).expect("a probe");
        assert!(probe.weight.is_finite() && probe.weight > 0.0);
    }
}

#[test]
fn what_has_no_direction_is_refused() {
    let layer = Layer::hidden_state(1);
    let rows = |values| Activations::of_rows(layer, values, 2).expect("rows");
    let (a, b) = (rows(&[1.0, 2.0, 3.0, 5.0]), rows(&[0.0, 1.0, 2.0, 4.0]));
    assert!(matches!(principal_component(&a, &a, Centring::Origin), Err(Error::NoDirection { .. })));
    // All pairs differ by the same.
    assert!(principal_component(&a, &b, Centring::Origin).is_ok());
    assert!(matches!(principal_component(&a, &b, Centring::Mean), Err(Error::NoDirection { .. })));
    let one = rows(&[1.0, 2.0]);
    assert!(matches!(principal_component(&a, &one, Centring::Origin), Err(Error::Unlike { .. })));
    let same = rows(&[7.0, 7.0, 7.0, 7.0]);
    let two = |c| ProbeOptions { regularisation: c, folds: 2, seed: 0 };
    assert!(matches!(probe(&same, &same, &two(Regularisation::C(1.0))), Err(Error::NoDirection { .. })));
    for c in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        for c in [Regularisation::C(c), Regularisation::RelativeC(c)] {
            assert!(matches!(probe(&a, &b, &two(c)), Err(Error::Setting(_))), "{c:?}");
        }
    }
    assert!(matches!(probe(&a, &b, &ProbeOptions::default()), Err(Error::TooFewUnits { .. })));
    let huge = [f32::MAX, -f32::MAX, f32::MAX, f32::MAX];
    let result = probe(&rows(&huge), &b, &two(Regularisation::RelativeC(1.0)));
    assert!(result.is_ok_and(|probe| probe.weight.is_finite()));
}
