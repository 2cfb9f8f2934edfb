//! Errors for invalid input.

use burn::tensor::Device;
use pv_hooks::{HookError, Layer};
use pv_model::Request;
use pv_steer::error::SteeringError;
use pv_steer::{Coefficient, Condition, Error, Positions, Ramp, Steerer};
use pv_vectors::Direction;

use super::{BLOCKS, direction, generating, ids, load};

#[test]
fn invalid_interventions_are_refused_when_added() {
    let v = direction(2, 1, 1.0);
    let refuse = |steerer: pv_steer::Result<Steerer>| steerer.map(drop).expect_err("refused");
    let (new, all) = (Steerer::new, Positions::All);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(matches!(refuse(new().cap(&v, bad, all)), Error::Steering(SteeringError::BadThreshold { .. })));
        assert!(matches!(refuse(new().floor(&v, bad, all)), Error::Steering(SteeringError::BadThreshold { .. })));
        assert!(matches!(refuse(new().inhibit(&v, bad, all)), Error::Steering(SteeringError::BadThreshold { .. })));
        assert!(matches!(Condition::above(&v, bad), Err(Error::Steering(SteeringError::BadThreshold { .. }))));
        assert!(matches!(Condition::below(&v, bad), Err(Error::Steering(SteeringError::BadThreshold { .. }))));
        assert!(matches!(
            refuse(new().add(&v, Coefficient::Raw(bad), all)),
            Error::Steering(SteeringError::BadCoefficient { .. })
        ));
        let keep = new().add_keeping_norm(&v, Coefficient::ResidualNorms(bad), all);
        assert!(matches!(refuse(keep), Error::Steering(SteeringError::BadCoefficient { .. })));
        let ramp = Ramp { from: Coefficient::Raw(0.0), to: Coefficient::Raw(bad), over: 3 };
        assert!(matches!(refuse(new().add(&v, ramp, all)), Error::Steering(SteeringError::BadCoefficient { .. })));
    }
    let ramp = |over| Ramp { from: Coefficient::Raw(0.0), to: Coefficient::Raw(1.0), over };
    assert!(matches!(refuse(new().add(&v, ramp(0), all)), Error::Steering(SteeringError::EmptyRamp { .. })));
    assert!(matches!(
        refuse(new().add(&v, ramp(3), Positions::Prompt)),
        Error::Steering(SteeringError::RampInPrompt { .. })
    ));
    for values in [vec![0.0; 48], vec![f32::NAN; 48], vec![f32::INFINITY; 48], vec![]] {
        let none = Direction { values, ..v.clone() };
        assert!(matches!(refuse(new().cap(&none, 1.0, all)), Error::Steering(SteeringError::Degenerate { .. })));
        assert!(matches!(
            refuse(new().add_keeping_norm(&none, Coefficient::Raw(1.0), all)),
            Error::Steering(SteeringError::Degenerate { .. })
        ));
        assert!(matches!(Condition::above(&none, 1.0), Err(Error::Steering(SteeringError::Degenerate { .. }))));
    }
    let late = Condition::above(&direction(3, 1, 1.0), 1.0).expect("a condition");
    assert!(matches!(
        refuse(new().inhibit_when(&v, 1.0, late, all)),
        Error::Steering(SteeringError::LateCondition { .. })
    ));
}

#[test]
fn interventions_that_do_not_fit_the_model_are_refused_before_anything_runs() {
    let model = load("llama", &Device::flex());
    let refuse = |steerer: pv_steer::Result<Steerer>| {
        let mut steerer = steerer.expect("a steerer");
        let request = [Request::new(ids(1, 4), 0)];
        match model.generate(&request, &generating(1), &mut steerer, |_| panic!("it ran")) {
            Err(pv_model::Error::Hook(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let (new, all) = (Steerer::new, Positions::All);
    let v = direction(2, 1, 1.0);
    let narrow = Direction { values: vec![1.0; 47], ..v.clone() };
    let high = direction(BLOCKS + 1, 1, 1.0);
    assert!(matches!(refuse(new().cap(&narrow, 1.0, all)), HookError::WidthMismatch { found: 47, .. }));
    assert!(matches!(refuse(new().floor(&high, 1.0, all)), HookError::LayerOutOfRange { .. }));
    assert!(matches!(refuse(new().floor(&v, 1e30, all)), HookError::BadVector { .. }));
    let ramp = Ramp { from: Coefficient::Raw(0.0), to: Coefficient::Raw(1e20), over: 3 };
    assert!(matches!(refuse(new().add(&v, ramp, all)), HookError::BadVector { .. }));
    let keep = new().add_keeping_norm(&v, Coefficient::Raw(1e20), all);
    assert!(matches!(refuse(keep), HookError::BadVector { .. }));
    let monitor = Direction { layer: Layer::hidden_state(1), ..narrow };
    let condition = Condition::below(&monitor, 1.0).expect("a condition");
    let found = refuse(new().inhibit_when(&v, 1.0, condition, all));
    assert!(matches!(found, HookError::WidthMismatch { layer, .. } if layer == monitor.layer), "{found}");
}

#[test]
fn positions_that_no_answer_reaches_are_an_error() {
    let model = load("llama", &Device::flex());
    let run = |positions, tokens: usize| {
        let mut steerer =
            Steerer::new().add(&direction(2, 1, 1.0), Coefficient::Raw(1.0), positions).expect("a direction");
        let options = pv_model::GenerateOptions { stop_tokens: Some(vec![]), max_new_tokens: tokens, ..generating(1) };
        let request = [Request::new(ids(1, 4), 0)];
        model.generate(&request, &options, &mut steerer, |_| std::ops::ControlFlow::Continue(())).map(drop)
    };
    // The last token of an answer is never an input.
    assert!(run(Positions::ResponseFrom(4), 6).is_ok());
    let idle = run(Positions::ResponseFrom(5), 6);
    assert!(matches!(idle, Err(pv_model::Error::Hook(HookError::NeverFired { .. }))), "{idle:?}");
}

#[test]
fn conditions_can_be_saved_as_settings() {
    let condition = Condition::above(&direction(3, 1, 2.0), 0.1).expect("a condition");
    let text = serde_json::to_string(&condition).expect("JSON");
    assert_eq!(serde_json::from_str::<Condition>(&text).expect("the same"), condition);
    let good = serde_json::json!({"layer": 2, "unit": [0.6, 0.8], "side": "below", "threshold": -1.5});
    let read = |value: &serde_json::Value| serde_json::from_value::<Condition>(value.clone());
    assert_eq!(serde_json::to_value(read(&good).expect("a condition")).expect("JSON")["side"], "below");
    for (key, bad) in [
        ("side", serde_json::json!("beside")),
        ("unit", serde_json::json!([3.0, 4.0])),
        ("unit", serde_json::json!([])),
        ("threshold", serde_json::Value::Null),
        ("treshold", serde_json::json!(1.0)),
    ] {
        let mut changed = good.clone();
        changed[key] = bad;
        assert!(read(&changed).is_err(), "{changed}");
    }
}
