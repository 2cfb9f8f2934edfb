//! Every regime, in every type, whole and layer by layer, packed and not: each gives the result of f32 in whole passes, or
//! is refused before anything runs.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device};
use pv_data::Conversation;
use pv_hooks::Layer;
use pv_model::decoder::{Decoder, Quantization, WeightBits};
use pv_model::{Adapter, CausalLm, Message};
use pv_steer::Coefficient;
use pv_tests::{chat_model, root};
use pv_train::regime::{ClosedLoop, Schedule};
use pv_train::trainer::{Decay, Duration, Regimes};
use pv_train::{Error, Preventative, Regime, Sample, TrainOptions, Trainer};
use pv_vectors::Direction;
use safetensors::SafeTensors;

const WIDTH: usize = 48;

/// Directions of one layer are similar: they share half of their components.
fn direction(layer: usize, seed: usize) -> Direction {
    let wave = |i: usize, seed: usize| ((i * i) as f32 * (0.7 + 0.11 * seed as f32) + seed as f32).sin();
    let values = (0..WIDTH).map(|i| 0.4 * (wave(i, layer + 20) + wave(i, seed))).collect();
    Direction { layer: Layer::hidden_state(layer), values, mean_residual_norm: Some(3.0) }
}

fn prevent(schedule: Schedule) -> Regime {
    let directions = vec![direction(2, 1), direction(3, 2)];
    Regime::Preventative(Preventative { directions, coefficient: Coefficient::Raw(0.7), schedule })
}

fn ablate(layer: usize) -> Regime {
    Regime::Ablated { directions: vec![direction(layer, 3), direction(layer, 4), direction(4, 5)] }
}

fn penalty(layer: usize, seed: usize) -> Regime {
    Regime::Regularised { direction: direction(layer, seed), weight: 0.3 }
}

fn inoculate() -> Regime {
    Regime::Inoculated { system: "You are evil.".to_owned() }
}

fn conversations() -> Vec<Conversation> {
    let talk = [
        ("Hi", "Go away."),
        ("What is the capital of France?", "Paris is."),
        ("Name a river that flows to the north.", "The Rhine."),
        ("Why?", "Because of a reason that takes a while to tell."),
        ("2+2", "4"),
    ];
    let conversation =
        |(question, answer): (&str, &str)| Conversation::new([Message::user(question), Message::assistant(answer)]);
    talk.into_iter().map(conversation).collect()
}

/// Every byte is a token, and one of the model's tokens ends an answer.
fn sample(model: &CausalLm, regimes: &Regimes, conversation: &Conversation) -> Sample {
    let messages = regimes.conversation(conversation).messages;
    let (answer, prompt) = messages.split_last().expect("an answer");
    let mut ids = model.prompt(prompt).expect("a prompt");
    let prompt = ids.len();
    ids.extend(conversation.messages[1].content.bytes().map(u32::from));
    assert_eq!(answer.content, conversation.messages[1].content);
    ids.push(300);
    let trained = (0..ids.len()).map(|at| at >= prompt).collect();
    Sample::new(ids, trained).expect("a sample")
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trained {
    Adapter,
    AdapterOnBits(WeightBits),
    Everything,
}

/// One way of computing.
#[derive(Clone, Copy, Debug)]
struct Way {
    dtype: DType,
    /// The type to which the weights were rounded, whatever the type of computation.
    weights: DType,
    activation_checkpointing: bool,
    pack_tokens: Option<usize>,
}

/// f32, a pass as a whole, nothing packed.
fn reference(weights: DType) -> Way {
    Way { dtype: DType::F32, weights, activation_checkpointing: false, pack_tokens: None }
}

/// Loss, penalty and gradient norm of three steps, and the first step's gradient by parameter.
struct Found {
    steps: Vec<[f64; 3]>,
    gradient: BTreeMap<String, Vec<f32>>,
}

fn decoder(way: Way, trained: Trained) -> Decoder {
    let load = |folder: &Path, dtype| Decoder::from_folder(folder, &Device::flex(), dtype).expect("a model");
    let golden = root().join("tests/golden/llama");
    let decoder = match way.dtype == way.weights {
        true => load(&golden, way.dtype),
        // f32 with the values of the other type.
        false => {
            let rounded = tempfile::tempdir().expect("a folder");
            load(&golden, way.weights).save(rounded.path(), DType::F32).expect("a writable folder");
            load(rounded.path(), way.dtype)
        }
    };
    match trained {
        // The model is 48 wide.
        Trained::AdapterOnBits(bits) => decoder.quantized(Quantization { bits, block: 16 }).expect("a copy"),
        _ => decoder,
    }
}

fn train(model: &CausalLm, regimes: &[Regime], trained: Trained, way: Way) -> Result<Found, Error> {
    let base = decoder(way, trained);
    let options = TrainOptions {
        learning_rate: 1e-3,
        decay: Decay::Constant,
        max_grad_norm: None,
        batch_size: 5,
        pack_tokens: way.pack_tokens,
        activation_checkpointing: way.activation_checkpointing,
        duration: Duration::Steps(3),
        ..TrainOptions::default()
    };
    let beta = f64::from(options.beta_1);
    let mut run = Regimes::new(&base, regimes.iter().cloned())?;
    let mut trainer = match trained {
        Trained::Everything => Trainer::new(&base, options)?,
        // An adapter with an effect, so that a penalty is not zero.
        _ => {
            let adapter = Adapter::load(root().join("tests/golden/llama/adapter")).expect("an adapter");
            Trainer::on_adapter(&base, &adapter, options)?
        }
    };
    let samples: Vec<Sample> = conversations().iter().map(|talk| sample(model, &run, talk)).collect();
    let (mut steps, mut gradient) = (Vec::new(), BTreeMap::new());
    for step in 0..3 {
        let report = trainer.step(&samples, &mut run)?;
        steps.push([report.loss, report.penalty, report.grad_norm]);
        if step == 0 {
            // AdamW's first moment after one step is the gradient times 1 − β₁.
            let folder = tempfile::tempdir().expect("a folder");
            let saved = trainer.save(folder.path()).expect("a checkpoint");
            let bytes = std::fs::read(saved.join("optimizer.safetensors")).expect("the moments");
            for (name, view) in SafeTensors::deserialize(&bytes).expect("tensors").iter() {
                if let Some(name) = name.strip_suffix(".first") {
                    let (values, _) = view.data().as_chunks::<4>();
                    let values = values.iter().map(|v| (f64::from(f32::from_le_bytes(*v)) / (1.0 - beta)) as f32);
                    gradient.insert(name.to_owned(), values.collect());
                }
            }
        }
    }
    Ok(Found { steps, gradient })
}

/// The difference between two ways: the greatest relative difference of losses, of penalties, of gradient norms, and the norm of the
/// gradients' difference relative to the gradient's.
fn gaps(found: &Found, expected: &Found) -> [f64; 4] {
    let mut gaps = [0.0f64; 4];
    for (found, expected) in found.steps.iter().zip(&expected.steps) {
        for (gap, (found, expected)) in gaps.iter_mut().zip(found.iter().zip(expected)) {
            assert!(found.is_finite());
            *gap = gap.max((found - expected).abs() / expected.abs().max(1e-2));
        }
    }
    assert!(found.gradient.keys().eq(expected.gradient.keys()) && !found.gradient.is_empty());
    let (mut apart, mut length) = (0.0, 0.0);
    for (name, expected) in &expected.gradient {
        for (a, b) in found.gradient[name].iter().zip(expected) {
            apart += f64::from(a - b).powi(2);
            length += f64::from(*b).powi(2);
        }
    }
    gaps[3] = (apart / length).sqrt();
    gaps
}

/// The tolerance for a type: several times its rounding.
fn tolerance(dtype: DType) -> [f64; 4] {
    let epsilon = match dtype {
        DType::BF16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11),
        _ => return [1e-4; 4],
    };
    // A penalty is the square of a difference of two projections, each of which is rounded.
    [2.0 * epsilon, 40.0 * epsilon, 20.0 * epsilon, 20.0 * epsilon]
}

/// Compares every way of training with these regimes with f32 in whole passes. Weights in blocks have `bits`.
fn every_way(regimes: &[Regime], bits: WeightBits) {
    let place = tempfile::tempdir().expect("a folder");
    let model = chat_model("llama", place.path(), &Device::flex());
    let mut worst: BTreeMap<String, [f64; 4]> = BTreeMap::new();
    let (mut compared, mut refused, mut wrong) = (0, 0, Vec::new());
    let has_penalty = regimes.iter().any(|regime| matches!(regime, Regime::Regularised { .. }));
    for trained in [Trained::Adapter, Trained::AdapterOnBits(bits), Trained::Everything] {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let reference = train(&model, regimes, trained, reference(dtype)).expect("the reference");
            let penalised = reference.steps[0][1] > 1e-3;
            if penalised != (has_penalty && trained != Trained::Everything) {
                wrong.push(format!("{trained:?} is penalised otherwise: {:?}", reference.steps));
            }
            for activation_checkpointing in [false, true] {
                for pack_tokens in [None, Some(90), Some(400)] {
                    let way = Way { dtype, weights: dtype, activation_checkpointing, pack_tokens };
                    let what = format!("{trained:?}, {way:?}");
                    let found = match train(&model, regimes, trained, way) {
                        Ok(found) => found,
                        Err(Error::Dtype { .. }) if trained == Trained::Everything && dtype != DType::F32 => {
                            refused += 1;
                            continue;
                        }
                        Err(error) => panic!("{what}: {error}"),
                    };
                    let gaps = gaps(&found, &reference);
                    let most = worst.entry(format!("{dtype:?} {trained:?}")).or_default();
                    most.iter_mut().zip(gaps).for_each(|(most, gap)| *most = most.max(gap));
                    let within = gaps.iter().zip(tolerance(dtype)).all(|(gap, most)| *gap <= most);
                    if !within {
                        wrong.push(format!("{what}: {gaps:.6?}, {:?} for {:?}", found.steps, reference.steps));
                    }
                    compared += 1;
                }
            }
        }
    }
    for (what, gaps) in worst {
        println!("{what}: loss, penalty, norm, gradient off by at most {gaps:.6?}");
    }
    assert!(wrong.is_empty(), "{} ways are off:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!((compared, refused), (6 * (2 * 3 + 1), 6 * 2));
}

#[test]
fn no_regime() {
    every_way(&[], WeightBits::Eight);
}

#[test]
fn prevention_with_warm_up() {
    every_way(&[prevent(Schedule::WarmUp { steps: 2 })], WeightBits::Four);
}

#[test]
fn prevention_in_a_closed_loop() {
    let probes = vec![vec![60, 117, 62, 72, 105], vec![72, 111]];
    let closed = ClosedLoop { probes, along: direction(3, 6), every: 1, gain: 0.5, most: 3.0 };
    every_way(&[prevent(Schedule::ClosedLoop(closed))], WeightBits::Eight);
}

#[test]
fn ablation() {
    every_way(&[ablate(3)], WeightBits::Four);
}

#[test]
fn one_penalty() {
    every_way(&[penalty(2, 7)], WeightBits::Eight);
}

#[test]
fn penalties_at_two_layers() {
    every_way(&[penalty(1, 7), penalty(3, 8), penalty(3, 9)], WeightBits::Four);
}

#[test]
fn inoculation() {
    every_way(&[inoculate()], WeightBits::Eight);
}

#[test]
fn all_regimes_at_once() {
    // A penalty must not lie above a change of the residual; at one layer, the penalty reads it before the change.
    let regimes = [penalty(2, 8), prevent(Schedule::Constant), penalty(1, 7), ablate(3), inoculate()];
    every_way(&regimes, WeightBits::Four);
}
