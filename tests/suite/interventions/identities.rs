//! Properties that hold for all weights.

use std::collections::BTreeMap;

use ndarray::Array2;
use pv_hooks::{Layer, NoHook};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::{CausalLm, GenerateOptions, Request};
use pv_steer::{Coefficient, Condition, Positions, Ramp, Steerer};
use pv_tests::compare;
use pv_vectors::PersonaVector;
use pv_vectors::vector::{LayerRows, Pooling, Provenance};

use super::{
    BLOCKS, PROMPTS, Ran, Run, WIDTH, around, bits, direction, dot, every, everything, f64s, generate, ids, middle,
    projections, read,
};

pub(super) const RUNS: [Run; 2] = [Run::Full, Run::Generation];

pub(super) fn all_bits(ran: &[Ran]) -> Vec<Vec<u32>> {
    ran.iter().flat_map(|ran| ran.residuals.iter().map(|layer| bits(layer))).collect()
}

/// A vector with arbitrary rows.
pub(super) fn persona() -> PersonaVector {
    let provenance = Provenance {
        trait_name: "made up".to_owned(),
        model: String::new(),
        config_hash: None,
        render: pv_model::RenderOptions::default(),
        template_hash: None,
        weights: None,
        sampling: None,
        max_new_tokens: None,
        version: None,
        judge: None,
        verdicts: Default::default(),
        filter: None,
        kept_positive: None,
        kept_negative: None,
        total: None,
        seed: None,
        best_layer: None,
        imported: None,
    };
    let values: Vec<f32> =
        (0..=BLOCKS).flat_map(|layer| direction(layer, layer + 5, 0.3 * layer as f32).values).collect();
    let values = Array2::from_shape_vec((BLOCKS + 1, WIDTH), values).expect("rows");
    let table = LayerRows::new(values).expect("a table");
    let norms = (0..=BLOCKS).map(|layer| 1.0 + layer as f32).collect();
    PersonaVector::new(provenance, BTreeMap::from([(Pooling::ResponseMean, table)]), Some(norms)).expect("a vector")
}

fn increments(coefficient: Coefficient, positions: Positions) -> Steerer {
    let layers = Layer::hidden_state(1)..=Layer::hidden_state(BLOCKS);
    Steerer::new()
        .add_increments(&persona(), Pooling::ResponseMean, layers, coefficient, positions)
        .expect("increments")
}

#[test]
fn zero_changes_nothing_bit_for_bit() {
    every(|model| {
        let zero = Coefficient::Raw(0.0);
        let v = direction(2, 1, 1.0);
        let ramp = Ramp { from: zero, to: Coefficient::ResidualNorms(0.0), over: 3 };
        for run in RUNS {
            let plain = all_bits(&around(model, run, &mut NoHook).1);
            for positions in [Positions::All, Positions::Response, Positions::ResponseFrom(1)] {
                let steerers = [
                    Steerer::new().add(&v, zero, positions),
                    Steerer::new().add(&v, Coefficient::Raw(-0.0), positions),
                    Steerer::new().add_keeping_norm(&v, zero, positions),
                    Steerer::new().add(&v, ramp, positions),
                    Steerer::new().add_keeping_norm(&v, ramp, positions),
                    Ok(increments(zero, positions)),
                    // Thresholds that no token exceeds.
                    Steerer::new().cap(&v, 1e6, positions),
                    Steerer::new().floor(&v, -1e6, positions),
                    Steerer::new().inhibit_when(&v, -1e6, Condition::above(&v, 1e6).expect("one"), positions),
                ];
                for (index, steerer) in steerers.into_iter().enumerate() {
                    let found = all_bits(&around(model, run, &mut steerer.expect("a steerer")).1);
                    assert!(found == plain, "{run:?}, {positions:?}: steerer {index} does something");
                }
            }
        }
    });
}

#[test]
fn opposite_interventions_cancel() {
    every(|model| {
        let v = direction(1, 1, 2.0);
        let there = Ramp { from: Coefficient::Raw(1.0), to: Coefficient::Raw(-2.0), over: 4 };
        let back = Ramp { from: Coefficient::Raw(-1.0), to: Coefficient::Raw(2.0), over: 4 };
        let mut ramps = Steerer::new().add(&v, there, Positions::All).expect("a ramp");
        ramps = ramps.add(&v, back, Positions::All).expect("a ramp");
        let c = Coefficient::Raw;
        for mut steerer in [ramps, increments_twice(c(1.5), c(-1.5))] {
            let (before, after) = around(model, Run::Full, &mut steerer);
            let (plain, _) = around(model, Run::Full, &mut NoHook);
            for ((before, after), plain) in before.iter().zip(&after).zip(&plain) {
                for layer in 0..=BLOCKS {
                    for other in [&before.residuals[layer], &plain.residuals[layer]] {
                        let found = compare(format!("layer {layer}"), &after.residuals[layer], other);
                        assert!(found.max_abs <= 1e-5, "{found}");
                    }
                }
            }
        }
    });
}

fn increments_twice(there: Coefficient, back: Coefficient) -> Steerer {
    let layers = Layer::hidden_state(1)..=Layer::hidden_state(BLOCKS);
    increments(there, Positions::All)
        .add_increments(&persona(), Pooling::ResponseMean, layers, back, Positions::All)
        .expect("increments")
}

#[test]
fn a_cap_holds_and_is_idempotent() {
    every(|model| {
        let v = direction(2, 1, 3.0);
        for run in RUNS {
            let (plain, _) = around(model, run, &mut NoHook);
            let tau = middle(&plain, &v);
            let cap =
                |n: usize| (0..n).fold(Steerer::new(), |s, _| s.inhibit(&v, tau, Positions::All).expect("a threshold"));
            let (before, once) = around(model, run, &mut cap(1));
            let (_, twice) = around(model, run, &mut cap(2));
            let (was, is) = (projections(&before, &v), projections(&once, &v));
            let above = was.iter().filter(|p| **p > f64::from(tau)).count();
            assert!(above > was.len() / 10 && above < was.len(), "{above} of {} above", was.len());
            for (was, is) in was.iter().zip(&is) {
                assert!(*is <= f64::from(tau) + 1e-6, "{is} after a cap at {tau}");
                if *was > f64::from(tau) {
                    assert!(*is >= f64::from(tau) - 1e-6, "{is}: beyond the threshold {tau}");
                }
            }
            for (once, twice) in once.iter().zip(&twice) {
                let found = compare("cap twice", &twice.residuals[2], &once.residuals[2]);
                assert!(found.max_abs <= 1e-6, "{found}");
            }
            let (_, raised) = around(model, run, &mut Steerer::new().floor(&v, tau, Positions::All).expect("one"));
            assert!(projections(&raised, &v).iter().all(|p| *p >= f64::from(tau) - 1e-6));
        }
    });
}

#[test]
fn norms_are_preserved() {
    every(|model| {
        let v = direction(3, 1, 4.0);
        for run in RUNS {
            let mut steerer =
                Steerer::new().add_keeping_norm(&v, Coefficient::Raw(1.0), Positions::Response).expect("a direction");
            let (before, after) = around(model, run, &mut steerer);
            let norms = |ran: &[Ran]| -> Vec<f64> {
                let tokens = ran.iter().flat_map(|ran| ran.residuals[3].chunks(WIDTH));
                tokens.map(|token| dot(&f64s(token), &f64s(token)).sqrt()).collect()
            };
            for (before, after) in norms(&before).iter().zip(&norms(&after)) {
                assert!((before - after).abs() <= 1e-6 * before, "{before} became {after}");
            }
            assert_ne!(projections(&before, &v), projections(&after, &v));
        }
    });
}

#[test]
fn increments_sum_to_the_vector() {
    every(|model| {
        let persona = persona();
        let row = |layer| {
            f64s(persona.table(Pooling::ResponseMean).expect("kept").get(Layer::hidden_state(layer)).expect("a row"))
        };
        let total: Vec<f64> = row(BLOCKS).iter().zip(row(0)).map(|(last, first)| last - first).collect();
        let norm = dot(&total, &total).sqrt();
        // A coefficient in residual norms applies to the sum.
        let relative = 0.5 * (1.0 + BLOCKS as f64) / norm;
        for (coefficient, factor) in [(Coefficient::Raw(-1.5), -1.5), (Coefficient::ResidualNorms(0.5), relative)] {
            let (before, after) = around(model, Run::Full, &mut increments(coefficient, Positions::All));
            for (before, after) in before.iter().zip(&after) {
                let tokens = before.prompt + before.response + 1;
                let mut sum = vec![0f64; tokens * WIDTH];
                for layer in 1..=BLOCKS {
                    let pairs = after.residuals[layer].iter().zip(&before.residuals[layer]);
                    sum.iter_mut().zip(pairs).for_each(|(sum, (a, b))| *sum += f64::from(*a) - f64::from(*b));
                }
                for (i, found) in sum.iter().enumerate() {
                    assert!((found - factor * total[i % WIDTH]).abs() <= 1e-5, "{coefficient:?}: {found}");
                }
                assert_eq!(bits(&before.residuals[0]), bits(&after.residuals[0]), "layer 0 is not in the range");
            }
        }
    });
}

fn cases() -> Vec<Steerer> {
    let (v, w) = (direction(2, 1, 0.7), direction(3, 2, 1.0));
    let ramp = Ramp { from: Coefficient::Raw(-1.0), to: Coefficient::Raw(2.0), over: 5 };
    let condition = Condition::above(&v, 0.0).expect("a condition");
    let all = [
        Steerer::new().add(&v, ramp, Positions::Response),
        Steerer::new().add_keeping_norm(&v, ramp, Positions::ResponseFrom(2)),
        Steerer::new().cap(&v, 0.0, Positions::Response),
        Steerer::new().floor(&v, 0.1, Positions::All),
        Steerer::new().inhibit_when(&w, -0.5, condition, Positions::All),
        Ok(increments(Coefficient::Raw(1.0), Positions::Response)),
    ];
    all.into_iter().map(|steerer| steerer.expect("a steerer")).collect()
}

fn forward(model: &CausalLm, sequences: &[Sequence<'_>], steerer: &mut Steerer) -> (Vec<Ran>, Vec<f32>) {
    let mut recorder = everything();
    let batch = Batch::whole(sequences).expect("sequences");
    let options = ForwardOptions { stop_at: None, logits: Logits::All };
    let output = model.forward(&batch, options, &mut (steerer, &mut recorder)).expect("a pass");
    let spans: Vec<_> = sequences.iter().map(|s| (s.prompt.len(), s.response.len())).collect();
    (read(&recorder, &spans), to_f32(output.logits.expect("asked for")).expect("numbers"))
}

#[test]
fn padding_has_no_effect() {
    every(|model| {
        let rows: Vec<_> =
            PROMPTS.iter().enumerate().map(|(i, n)| (ids(i as u32, *n), ids(60 + i as u32, 6))).collect();
        let sequence = |(prompt, response)| Sequence { prompt, response, rest: &[] };
        let sequences: Vec<Sequence<'_>> = rows.iter().map(|(p, r)| sequence((p.as_slice(), r.as_slice()))).collect();
        for mut steerer in cases() {
            let (together, _) = forward(model, &sequences, &mut steerer);
            for (row, together) in sequences.iter().zip(&together) {
                let (alone, _) = forward(model, std::slice::from_ref(row), &mut steerer);
                for layer in 0..=BLOCKS {
                    let found = compare("alone", &together.residuals[layer], &alone[0].residuals[layer]);
                    assert!(found.max_abs <= 1e-5, "{steerer:?}: {found}");
                }
            }
        }
    });
}

#[test]
fn decoding_step_by_step_equals_the_full_pass() {
    every(|model| {
        for mut steerer in cases() {
            let mut recorder = everything();
            let requests: Vec<_> =
                PROMPTS.iter().enumerate().map(|(i, n)| Request::new(ids(i as u32, *n), i as u64)).collect();
            let options = GenerateOptions { stop_tokens: Some(vec![]), feed_last_token: true, ..super::generating(3) };
            let answers = generate(model, &requests, &options, &mut (&mut steerer, &mut recorder));
            let spans: Vec<_> = PROMPTS.iter().map(|prompt| (*prompt, options.max_new_tokens)).collect();
            let stepwise = read(&recorder, &spans);
            for ((request, answer), stepwise) in requests.iter().zip(&answers).zip(&stepwise) {
                let whole = [Sequence { prompt: &request.prompt, response: &answer.tokens, rest: &[] }];
                let (whole, _) = forward(model, &whole, &mut steerer);
                for layer in 0..=BLOCKS {
                    let found = compare("whole", &stepwise.residuals[layer], &whole[0].residuals[layer]);
                    assert!(found.max_abs <= 1e-4, "{steerer:?}: {found}");
                }
            }
        }
    });
}
