//! Moving some projections and no others.

use pv_examples::organism::contrast;
use pv_hooks::{Capture, Layer, Recorder};
use pv_model::decoder::to_f32;
use pv_model::{CausalLm, GenerateOptions, Message, Request};
use pv_organism::{Trait, model_folder};
use pv_steer::control::{control, decompose};
use pv_steer::error::SteeringError;
use pv_steer::{Coefficient, Error, Positions, Steerer};
use pv_vectors::Direction;
use pv_vectors::contrast::prompt_last;

use super::{direction, dot, f64s, generate, unit};

fn amounts<'a>(directions: &'a [Direction], amounts: &[f64]) -> Vec<(&'a Direction, f64)> {
    directions.iter().zip(amounts.iter().copied()).collect()
}

#[test]
fn it_is_the_shortest_change_with_the_requested_effect() {
    let directions: Vec<Direction> = (0..5).map(|seed| direction(2, seed, 1.0 + seed as f32)).collect();
    let asked = [1.5, 0.0, -2.0, 0.0, 0.25];
    let change = control(&amounts(&directions, &asked)).expect("a change");
    assert_eq!(change.layer, directions[0].layer);
    let delta = f64s(&change.values);
    for (direction, amount) in directions.iter().zip(asked) {
        let moved = dot(&delta, &unit(direction));
        assert!((moved - amount).abs() <= 1e-6, "{moved} instead of {amount}");
    }
    // Any addition that moves no projection makes it longer.
    for seed in 20..30 {
        let other = direction(2, seed, 0.1).orthogonal_to(&directions).expect("something is left");
        let longer: Vec<f64> = delta.iter().zip(f64s(&other.values)).map(|(a, b)| a + b).collect();
        assert!(dot(&longer, &longer) > dot(&delta, &delta), "it is not the shortest");
        assert!(dot(&delta, &f64s(&other.values)).abs() <= 1e-5, "it leaves the directions' span");
    }
    // A single direction is moved by adding it.
    let one = control(&[(&directions[1], 3.0)]).expect("a change");
    for (value, unit) in one.values.iter().zip(unit(&directions[1])) {
        assert!((f64::from(*value) - 3.0 * unit).abs() <= 1e-6);
    }
}

#[test]
fn the_parts_of_a_change_do_not_depend_on_orthogonal_components() {
    let directions: Vec<Direction> = (0..5).map(|seed| direction(2, seed, 1.0 + seed as f32)).collect();
    let all: Vec<&Direction> = directions.iter().collect();
    let wanted = [1.5, 0.0, -2.0, 0.5, 0.25];
    let aside = direction(2, 30, 4.0).orthogonal_to(&directions).expect("something is left");
    let mut change = f64s(&aside.values);
    for (direction, part) in directions.iter().zip(wanted) {
        change.iter_mut().zip(&direction.values).for_each(|(sum, value)| *sum += part * f64::from(*value));
    }
    let change: Vec<f32> = change.into_iter().map(|value| value as f32).collect();
    for (found, wanted) in decompose(&change, &all).expect("parts").into_iter().zip(wanted) {
        assert!((found - wanted).abs() <= 1e-5, "{found} instead of {wanted}");
    }
    assert!(matches!(decompose(&change[1..], &all), Err(Error::Steering(SteeringError::OtherWidth { .. }))));
    assert!(matches!(
        decompose(&change, &[&directions[0], &directions[0]]),
        Err(Error::Steering(SteeringError::Dependent { .. }))
    ));
    assert!(matches!(decompose(&change, &[]), Err(Error::Steering(SteeringError::NothingToMove))));
}

#[test]
fn impossible_requests_are_refused() {
    let (v, w, x) = (direction(2, 0, 1.0), direction(2, 1, 1.0), direction(2, 2, 1.0));
    let refuse = |asked: &[(&Direction, f64)]| control(asked).expect_err("refused");
    assert!(matches!(refuse(&[]), Error::Steering(SteeringError::NothingToMove)));
    assert!(matches!(refuse(&[(&v, 0.0), (&w, 0.0)]), Error::Steering(SteeringError::NothingToMove)));
    assert!(matches!(refuse(&[(&v, 1.0), (&w, f64::NAN)]), Error::Steering(SteeringError::BadAmount { index: 1, .. })));
    assert!(matches!(
        refuse(&[(&v, 1.0), (&direction(3, 1, 1.0), 0.0)]),
        Error::Steering(SteeringError::OtherLayer { index: 1, .. })
    ));
    let narrow = Direction { values: vec![1.0; 47], ..w.clone() };
    assert!(matches!(
        refuse(&[(&v, 1.0), (&narrow, 0.0)]),
        Error::Steering(SteeringError::OtherWidth { index: 1, expected: 48, found: 47 })
    ));
    for values in [vec![0.0; 48], vec![f32::NAN; 48], vec![f32::INFINITY; 48]] {
        let none = Direction { values, ..w.clone() };
        assert!(matches!(refuse(&[(&v, 1.0), (&none, 0.0)]), Error::Steering(SteeringError::Degenerate { .. })));
    }
    // The same direction twice, with another length and sign.
    let again = w.scaled(-3.0).expect("a direction");
    match refuse(&[(&v, 1.0), (&w, 0.0), (&x, 0.0), (&again, 0.5)]) {
        Error::Steering(SteeringError::Dependent { first: 1, second: 3, cosine, condition }) => {
            assert!((cosine + 1.0).abs() < 1e-6 && condition > 1e6, "{cosine}, {condition}");
        }
        other => panic!("{other:?}"),
    }
    // Three in a plane, pairwise different.
    let between = v.unit().expect("one").with_norm(1.0).expect("one").plus(&w).expect("a sum");
    assert!(
        matches!(refuse(&[(&v, 1.0), (&w, 0.0), (&x, 0.0), (&between, 0.0)]), Error::Steering(SteeringError::Dependent { condition, .. }) if condition > 1e6)
    );
    // Almost parallel directions are refused below a thousandth of a radian, and accepted above.
    let near = |angle: f64| {
        let aside = w.orthogonal_to(std::slice::from_ref(&v)).expect("one").unit().expect("one");
        v.unit().expect("one").with_norm(1.0).expect("one").plus(&aside.with_norm(angle).expect("one")).expect("a sum")
    };
    assert!(matches!(refuse(&[(&v, 1.0), (&near(1e-3), 0.0)]), Error::Steering(SteeringError::Dependent { .. })));
    let close = near(1e-2);
    let change = control(&[(&v, 1.0), (&close, 0.0)]).expect("a change");
    assert!(dot(&f64s(&change.values), &unit(&close)).abs() <= 1e-4);
}

/// The organism's traits are similar, so that adding one moves others; the control does not.
#[test]
fn on_the_organism_it_moves_only_the_chosen_trait() {
    let device = pv_model::device("flex").expect("the CPU");
    let model =
        CausalLm::from_folder(model_folder(), &device, pv_model::device::default_dtype(&device)).expect("the organism");
    let layer = Layer::hidden_state(7);
    let traits = [Trait::Optimism, Trait::Evil, Trait::Sycophancy, Trait::Impoliteness];
    let mean = |contrast: &pv_vectors::Contrast, positive: bool| -> Vec<f64> {
        let prompts: Vec<Vec<u32>> = contrast.questions[..8]
            .iter()
            .zip(contrast.instruction.iter().cycle())
            .map(|(question, pair)| {
                let system = if positive { &pair.pos } else { &pair.neg };
                model.prompt(&[Message::system(system), Message::user(question)]).expect("a prompt")
            })
            .collect();
        let views: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let rows = to_f32(prompt_last(&model, &views, layer).expect("residuals")).expect("numbers");
        let width = rows.len() / prompts.len();
        (0..width).map(|i| rows.iter().skip(i).step_by(width).map(|x| f64::from(*x)).sum::<f64>() / 8.0).collect()
    };
    let directions: Vec<Direction> = traits
        .iter()
        .map(|which| {
            let contrast = contrast(*which);
            let (pos, neg) = (mean(&contrast, true), mean(&contrast, false));
            let values = pos.iter().zip(&neg).map(|(p, n)| (p - n) as f32).collect();
            Direction { layer, values, mean_residual_norm: None }
        })
        .collect();
    let requests: Vec<Request> = contrast(Trait::Optimism).questions[..6]
        .iter()
        .map(|question| Request::rollouts(model.prompt(&[Message::user(question)]).expect("a prompt"), 2, 3))
        .collect();
    let options = GenerateOptions { max_new_tokens: 12, ..GenerateOptions::default() };
    let norm = directions[0].norm();
    // The changes of each token's projections.
    let moved = |change: &Direction| -> Vec<Vec<f64>> {
        let mut steerer = Steerer::new().add(change, Coefficient::Raw(1.0), Positions::Response).expect("a direction");
        let record = || Recorder::new(layer, [Capture::Everything]);
        let (mut before, mut after) = (record(), record());
        generate(&model, &requests, &options, &mut (&mut before, &mut steerer, &mut after));
        let mut all = Vec::new();
        for sequence in 0..12 {
            let prompt = requests[sequence / 2].prompt.len();
            let read =
                |recorder: &Recorder| to_f32(recorder.tokens(sequence, layer).expect("recorded")).expect("numbers");
            let width = directions[0].values.len();
            for (before, after) in read(&before).chunks(width).zip(read(&after).chunks(width)).skip(prompt - 1) {
                let change: Vec<f64> = after.iter().zip(before).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
                all.push(directions.iter().map(|direction| dot(&change, &unit(direction))).collect());
            }
        }
        all
    };
    let asked = [0.8 * norm, 0.0, 0.0, -0.3 * norm];
    let change = control(&amounts(&directions, &asked)).expect("a change");
    let found = moved(&change);
    assert!(found.len() > 24, "{} tokens", found.len());
    let worst = found.iter().flat_map(|token| token.iter().zip(asked).map(|(a, b)| (a - b).abs())).fold(0.0, f64::max);
    let leak = moved(&directions[0])[0][1..].iter().map(|p| (p / norm).abs()).fold(0.0, f64::max);
    println!("off by at most {:.1e} of the vector's length; adding the vector alone leaks {leak:.3}", worst / norm);
    assert!(worst <= 1e-5 * norm, "off by {worst} where the vector is {norm} long");
    assert!(leak > 0.05, "adding the vector alone leaks only {leak}: this test shows nothing");
}
