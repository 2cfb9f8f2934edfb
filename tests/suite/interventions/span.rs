//! Ablating several directions removes their span.

use pv_hooks::NoHook;
use pv_model::CausalLm;
use pv_steer::{Coefficient, Condition, Positions, Steerer};
use pv_vectors::Direction;

use super::{Ran, Run, WIDTH, around, bits, direction, dot, every, f64s, projections, unit};

/// A direction at another direction's layer, with this cosine to it.
fn beside(v: &Direction, seed: usize, cosine: f64) -> Direction {
    let (u, other) = (unit(v), f64s(&direction(v.layer.index(), seed, 1.0).values));
    let along = dot(&u, &other);
    let across: Vec<f64> = other.iter().zip(&u).map(|(o, u)| o - along * u).collect();
    let length = dot(&across, &across).sqrt();
    let sine = (1.0 - cosine * cosine).sqrt();
    let values = u.iter().zip(&across).map(|(u, a)| ((cosine * u + sine * a / length) * 2.7) as f32).collect();
    Direction { values, ..v.clone() }
}

fn ablating(directions: &[&Direction], positions: Positions) -> Steerer {
    directions.iter().fold(Steerer::new(), |steerer, v| steerer.ablate(v, positions).expect("a direction"))
}

/// Residuals at the directions' layer, token by token.
fn residuals(ran: &[Ran], layer: usize) -> Vec<f32> {
    ran.iter().flat_map(|ran| ran.residuals[layer].iter().copied()).collect()
}

/// `h` without its component in the span, computed in f64.
fn outside(h: &[f64], directions: &[&Direction]) -> Vec<f64> {
    // Gauss-Seidel on the Gram matrix: project onto one direction after another until nothing changes.
    let units: Vec<Vec<f64>> = directions.iter().map(|v| unit(v)).collect();
    let mut left = h.to_vec();
    for _ in 0..100_000 {
        let mut moved = 0.0f64;
        for unit in &units {
            let along = dot(&left, unit);
            left.iter_mut().zip(unit).for_each(|(left, unit)| *left -= along * unit);
            moved = moved.max(along.abs());
        }
        if moved < 1e-13 {
            return left;
        }
    }
    panic!("it does not converge");
}

#[test]
fn no_component_of_any_direction_remains() {
    every(|model| {
        let v = direction(2, 1, 0.5);
        let (w, x, twin) = (beside(&v, 2, 0.7), beside(&v, 3, -0.95), beside(&v, 4, 0.99));
        for run in [Run::Full, Run::Generation] {
            for set in [vec![&v, &w], vec![&v, &w, &x], vec![&w, &x, &v, &twin]] {
                let mut steerer = ablating(&set, Positions::All);
                let (before, after) = around(model, run, &mut steerer);
                let (before, found) = (residuals(&before, 2), residuals(&after, 2));
                for direction in &set {
                    for (left, h) in projections(&after, direction).iter().zip(before.chunks(WIDTH)) {
                        let length = dot(&f64s(h), &f64s(h)).sqrt();
                        assert!(left.abs() <= 3e-6 * (1.0 + length), "{left} is left of {length}");
                    }
                }
                for (h, found) in before.chunks(WIDTH).zip(found.chunks(WIDTH)) {
                    let h = f64s(h);
                    let length = dot(&h, &h).sqrt();
                    for (found, expected) in found.iter().zip(outside(&h, &set)) {
                        assert!(
                            (f64::from(*found) - expected).abs() <= 3e-5 * (1.0 + length),
                            "{found}, not {expected}"
                        );
                    }
                }
                // The order does not matter, bit for bit.
                let reversed: Vec<&Direction> = set.iter().rev().copied().collect();
                let (_, other) = around(model, run, &mut ablating(&reversed, Positions::All));
                assert_eq!(bits(&residuals(&other, 2)), bits(&found));
            }
        }
    });
}

#[test]
fn copies_of_one_direction_count_once_bit_for_bit() {
    every(|model| {
        let v = direction(2, 1, 0.5);
        let scaled = Direction { values: v.values.iter().map(|value| value * -4.0).collect(), ..v.clone() };
        let all = |steerer: &mut Steerer| residuals(&around(model, Run::Full, steerer).1, 2);
        let one = all(&mut ablating(&[&v], Positions::All));
        assert_eq!(bits(&all(&mut ablating(&[&v, &v, &v], Positions::All))), bits(&one));
        // The opposite direction spans the same line; both give the same result up to rounding.
        for (found, expected) in all(&mut ablating(&[&v, &scaled], Positions::All)).iter().zip(&one) {
            assert!((found - expected).abs() < 1e-5);
        }
    });
}

/// The largest component along `v` that an intervention leaves.
fn left(model: &CausalLm, mut steerer: Steerer, v: &Direction) -> f64 {
    projections(&around(model, Run::Full, &mut steerer).1, v).iter().fold(0.0, |most, p| most.max(p.abs()))
}

#[test]
fn other_interventions_separate_ablations() {
    every(|model| {
        let v = direction(2, 1, 0.5);
        let (w, x, elsewhere) = (beside(&v, 2, 0.7), beside(&v, 3, 0.3), direction(1, 5, 1.0));
        let all = Positions::All;
        let new = || Steerer::new().ablate(&v, all).expect("a direction");
        let one = Coefficient::Raw(1.0);
        let together = new().ablate(&w, all).expect("a direction");
        assert!(left(model, together, &v) < 1e-5);
        // At another layer nothing is in between.
        let other = new().add(&elsewhere, one, all).and_then(|s| s.ablate(&w, all)).expect("directions");
        assert!(left(model, other, &v) < 1e-5);
        // An addition separates ablations, and so do a cap, a condition and other positions.
        let added = new().add(&x, one, all).and_then(|s| s.ablate(&w, all)).expect("directions");
        assert!(left(model, added, &v) > 0.05);
        let high = Condition::above(&w, 1e9).expect("a condition");
        let held = new().inhibit_when(&x, 0.0, high, all).and_then(|s| s.ablate(&w, all)).expect("directions");
        assert!(left(model, held, &v) > 0.05);
        let response = new().ablate(&w, Positions::Response).expect("a direction");
        assert!(left(model, response, &v) > 0.05);
        // Ablations after the addition are merged again.
        let last = Steerer::new().add(&x, one, all).and_then(|s| s.ablate(&v, all)).and_then(|s| s.ablate(&w, all));
        assert!(left(model, last.expect("directions"), &v) < 1e-5);
    });
}

#[test]
fn only_the_chosen_tokens_are_changed() {
    every(|model| {
        let v = direction(2, 1, 0.5);
        let w = beside(&v, 2, 0.7);
        let (before, after) = around(model, Run::Full, &mut ablating(&[&v, &w], Positions::Prompt));
        for (before, after) in before.iter().zip(&after) {
            for (token, h) in before.residuals[2].chunks(WIDTH).enumerate() {
                let found = &after.residuals[2][token * WIDTH..][..WIDTH];
                match token < before.prompt {
                    true => assert!(dot(&f64s(found), &unit(&w)).abs() < 1e-5),
                    false => assert_eq!(bits(found), bits(h)),
                }
            }
        }
    });
}

/// As documented for caps: the second may increase the first's projection again, and repeated caps decrease both.
#[test]
fn repeated_caps_converge() {
    every(|model| {
        let v = direction(2, 1, 0.5);
        let w = beside(&v, 2, -0.7);
        let (plain, _) = around(model, Run::Full, &mut NoHook);
        let middle = |v: &Direction| super::middle(&plain, v);
        let (at_v, at_w) = (middle(&v), middle(&w));
        let excess = |rounds: usize| {
            let steerer = (0..rounds).try_fold(Steerer::new(), |steerer, _| {
                steerer.cap(&v, at_v, Positions::All)?.cap(&w, at_w, Positions::All)
            });
            let (_, after) = around(model, Run::Full, &mut steerer.expect("caps"));
            let over =
                |v: &Direction, at: f32| projections(&after, v).iter().map(|p| p - f64::from(at)).fold(0.0, f64::max);
            (over(&v, at_v), over(&w, at_w))
        };
        let (once, often) = (excess(1), excess(8));
        assert!(once.0 > 0.05 && once.1 < 1e-5, "{once:?}");
        assert!(often.0 < 0.02 * once.0 && often.1 < 1e-5, "{often:?} after {once:?}");
    });
}

#[test]
fn directions_of_another_width_are_refused() {
    let model = super::load("llama", &burn::tensor::Device::flex());
    let v = direction(2, 1, 1.0);
    let narrow = Direction { values: vec![1.0; WIDTH - 1], ..v.clone() };
    let mut steerer = ablating(&[&v, &narrow], Positions::All);
    let request = [pv_model::Request::new(super::ids(1, 4), 0)];
    let refused = model.generate(&request, &super::generating(1), &mut steerer, |_| panic!("it ran"));
    let wrong = pv_hooks::HookError::WidthMismatch {
        hook: "steerer".to_owned(),
        layer: v.layer,
        expected: WIDTH,
        found: WIDTH - 1,
    };
    match refused {
        Err(pv_model::Error::Hook(error)) => assert_eq!(error.to_string(), wrong.to_string()),
        other => panic!("{other:?}"),
    }
}
