//! Tests that need no model.

mod alarms;
mod answers;
mod calibration;
mod correlation;
mod drift;

use pv_hooks::Layer;
use pv_model::ModelIdentity;
use pv_vectors::UnitDirection;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::*;

fn random(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A standard normal value, by Box and Muller.
fn normal(random: &mut ChaCha8Rng) -> f64 {
    let (a, b): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

fn watch(name: &str, layer: usize, values: &[f64]) -> Watch {
    Watch::new(name, UnitDirection::new(Layer::hidden_state(layer), values).expect("a direction"))
}

/// Two traits, one of them at two layers.
fn watches() -> Vec<Watch> {
    vec![watch("evil", 3, &[1.0, 2.0]), watch("evil", 5, &[1.0, -2.0]), watch("optimism", 3, &[0.0, 1.0])]
}

fn model() -> ModelIdentity {
    ModelIdentity {
        name: "a model".to_owned(),
        config_hash: "c0".to_owned(),
        template_hash: Some("7e".to_owned()),
        dtype: "F32".to_owned(),
        layers: 9,
        d_model: 2,
        packed: None,
        activations: None,
        weights: Some("e4".to_owned()),
    }
}

fn reading(at: At, values: &[f32]) -> Reading {
    Reading { sequence: 4, at, values: values.to_vec() }
}

/// An answer with these token projections.
fn answer(prompt_last: &[f32], tokens: &[&[f32]]) -> Answer {
    let mut answer = Answer::default();
    answer.add(At::PromptLast, prompt_last.to_vec());
    tokens.iter().enumerate().for_each(|(i, values)| answer.add(At::Token(i), values.to_vec()));
    answer
}

/// A calibration on normal readings: direction `i` has the mean `10·i` and the standard deviation `i + 1`, for each
/// kind.
fn calibration(n: usize) -> Calibration {
    let (mut random, mut calibrator) = (random(1), Calibrator::new(&watches()).expect("a calibrator"));
    for _ in 0..n {
        for at in [At::PromptToken(0), At::PromptLast, At::Token(0), At::ResponseMean] {
            let values: Vec<f32> =
                (0..3).map(|i| (10.0 * i as f64 + (i + 1) as f64 * normal(&mut random)) as f32).collect();
            calibrator.add(&reading(at, &values)).expect("a reading");
        }
    }
    calibrator.finish(&model())
}
