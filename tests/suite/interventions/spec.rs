//! Steering specifications in files.

use std::fs;

use pv_hooks::Layer;
use pv_steer::error::SteeringError;
use pv_steer::{Coefficient, Condition, Positions, Ramp, Steerer, SteeringSpec};
use pv_vectors::vector::Pooling;

use super::identities::{RUNS, all_bits, persona};
use super::{around, direction, every};

#[test]
fn a_specification_equals_the_steerer_that_it_describes() {
    let folder = tempfile::tempdir().expect("a folder");
    let vector = persona();
    vector.save(folder.path().join("vector.safetensors")).expect("a file");
    let inline = direction(3, 2, 1.0);
    let condition = Condition::above(&direction(1, 4, 1.0), 0.25).expect("a condition");
    let file = serde_json::json!({"interventions": [
        {"action": "add", "direction": {"vector": "vector.safetensors", "layer": 2}, "strength": {"constant": {"raw": 1.5}},
         "positions": "all"},
        {"action": "add", "direction": inline, "keep_norm": true, "strength":
         {"ramp": {"from": {"raw": 0.0}, "to": {"residual_norms": 0.5}, "over": 3}}},
        {"action": "add_increments", "vector": "vector.safetensors", "layers": [1, 4], "coefficient": {"residual_norms": 0.25}},
        {"action": "cap", "direction": inline, "threshold": 0.5, "positions": "all", "when": condition},
        {"action": "floor", "direction": inline, "threshold": -0.25, "positions": "all"},
        {"action": "ablate", "direction": {"vector": "vector.safetensors", "layer": 4}, "positions": "all"},
    ]});
    let path = folder.path().join("steering.json");
    fs::write(&path, file.to_string()).expect("a file");
    let spec = SteeringSpec::load(&path).expect("a specification");
    let built = || -> pv_steer::Result<Steerer> {
        let at = |layer| vector.direction(Layer::hidden_state(layer)).expect("a direction");
        let ramp = Ramp { from: Coefficient::Raw(0.0), to: Coefficient::ResidualNorms(0.5), over: 3 };
        let layers = Layer::hidden_state(1)..=Layer::hidden_state(4);
        Steerer::new()
            .add(&at(2), Coefficient::Raw(1.5), Positions::All)?
            .add_keeping_norm(&inline, ramp, Positions::Response)?
            .add_increments(
                &vector,
                Pooling::ResponseMean,
                layers,
                Coefficient::ResidualNorms(0.25),
                Positions::Response,
            )?
            .inhibit_when(&inline, 0.5, condition.clone(), Positions::All)?
            .floor(&inline, -0.25, Positions::All)?
            .ablate(&at(4), Positions::All)
    };
    every(|model| {
        for run in RUNS {
            let mut described = spec.steerer(model.config()).expect("a steerer");
            let mut expected = built().expect("a steerer");
            assert!(all_bits(&around(model, run, &mut described).1) == all_bits(&around(model, run, &mut expected).1));
        }
    });
}

#[test]
fn errors_name_what_a_specification_lacks() {
    let folder = tempfile::tempdir().expect("a folder");
    let vector = persona();
    vector.save(folder.path().join("vector.safetensors")).expect("a file");
    let path = folder.path().join("steering.json");
    let config = super::load("qwen3", &burn::tensor::Device::flex()).config().clone();
    let refused = |text: &str| {
        fs::write(&path, text).expect("a file");
        SteeringSpec::load(&path).and_then(|spec| spec.steerer(&config)).expect_err("refused")
    };
    let error = refused(r#"{"interventions": [{"action": "ablate", "direction": {"vector": "vector.safetensors"}}]}"#);
    assert!(matches!(error, pv_steer::Error::Steering(SteeringError::NoBestLayer { .. })), "{error}");
    let error = refused(
        r#"{"interventions": [{"action": "ablate", "direction": {"vector": "none.safetensors", "layer": 1}}]}"#,
    );
    assert!(error.to_string().contains("none.safetensors"), "{error}");
    let error = refused(r#"{"interventions": [{"action": "ablate"}]}"#);
    let error = pv_data::error::with_causes(&error);
    assert!(error.contains("direction"), "{error}");
    assert!(SteeringSpec::load(folder.path().join("absent.json")).is_err());
}
