//! Regimes in training.

mod matrix;

use std::ops::ControlFlow;

use burn::tensor::{DType, Device};
use pv_data::Conversation;
use pv_hooks::{Capture, Layer, NoHook, Phase, Recorder};
use pv_model::batch::{Batch, Sequence};
use pv_model::decoder::{Decoder, Logits, Pass, to_f32};
use pv_model::{DecoderConfig, LoraConfig, Message};
use pv_steer::Coefficient;
use pv_tests::root;
use pv_train::regime::{ClosedLoop, Schedule};
use pv_train::trainer::{Duration, Regimes, RunHook};
use pv_train::{Error, Preventative, Regime, Sample, TrainOptions, Trainer};
use pv_vectors::Direction;

const LAYER: usize = 2;

fn small() -> Decoder {
    let config = DecoderConfig::from_json(&serde_json::json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40, "tie_word_embeddings": true,
        "bos_token_id": null, "eos_token_id": 1,
    }));
    Decoder::init(config.expect("a configuration"), 3, &Device::flex()).expect("a decoder")
}

/// Learnable sequences: each token follows from the one before.
fn chains() -> Vec<Sample> {
    let sample = |i: usize| {
        let n = 6 + i % 5;
        let ids: Vec<u32> = (0..n).scan(i as u32, |x, _| Some(std::mem::replace(x, (*x * 3 + 5) % 40))).collect();
        Sample::new(ids, (0..n).map(|i| i > 1).collect()).expect("a sample")
    };
    (0..24).map(sample).collect()
}

fn direction(layer: usize, length: f32) -> Direction {
    let values: Vec<f32> = (0..32).map(|i| ((i * i + 3) as f32 * 0.9).sin()).collect();
    let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    let values = values.into_iter().map(|v| v / norm * length).collect();
    Direction { layer: Layer::hidden_state(layer), values, mean_residual_norm: None }
}

fn options(steps: usize) -> TrainOptions {
    TrainOptions {
        learning_rate: 1e-2,
        batch_size: 6,
        accumulate: 2,
        duration: Duration::Steps(steps),
        adapter: Some(LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() }),
        ..TrainOptions::default()
    }
}

fn trained(options: TrainOptions, regimes: Vec<Regime>) -> (Decoder, Vec<f64>, Regimes) {
    let base = small();
    let mut run = Regimes::new(&base, regimes).expect("regimes");
    let mut trainer = Trainer::new(&base, options).expect("a trainer");
    let (mut all, samples) = (Vec::new(), chains());
    let report = trainer.run(
        |step| Ok(samples[step % 2 * 12..][..12].to_vec()),
        &mut run,
        None,
        |step| {
            all.extend([step.loss, step.penalty, step.grad_norm]);
            ControlFlow::Continue(())
        },
    );
    report.expect("a run");
    (trainer.decoder(), all, run)
}

/// The projections of all tokens of all chains, computed one sequence at a time.
fn projections(decoder: &Decoder, direction: &Direction) -> Vec<f64> {
    let mut all = Vec::new();
    for sample in chains() {
        let batch = Batch::whole(&[Sequence { prompt: sample.ids(), ..Sequence::default() }]).expect("a batch");
        let mut recorder = Recorder::new(direction.layer, [Capture::Everything]);
        let pass =
            Pass { ids: batch.ids(), spans: batch.spans(), phase: Phase::Full, stop_at: None, logits: Logits::None };
        decoder.pass(&pass, None, &mut recorder);
        let rows = to_f32(recorder.tokens(0, direction.layer).expect("recorded")).expect("values");
        for row in rows.chunks(32) {
            let product: f64 = row.iter().zip(&direction.values).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            all.push(product / direction.norm());
        }
    }
    all
}

/// The mean of the squared changes at the answers' tokens.
fn moved(decoder: &Decoder, direction: &Direction) -> f64 {
    let (before, after) = (projections(&small(), direction), projections(decoder, direction));
    let answered = chains().into_iter().flat_map(|sample| sample.trained().to_vec());
    let squares: Vec<f64> = before
        .iter()
        .zip(&after)
        .zip(answered)
        .filter_map(|((a, b), answered)| answered.then_some((a - b).powi(2)))
        .collect();
    squares.iter().sum::<f64>() / squares.len() as f64
}

#[test]
fn a_penalty_limits_the_change_of_a_projection() {
    let direction = direction(LAYER, 1.0);
    let penalised = |weight| vec![Regime::Regularised { direction: direction.clone(), weight }];
    let (free, series, _) = trained(options(40), vec![]);
    let (held, held_series, _) = trained(options(40), penalised(10.0));
    let (drift, rest) = (moved(&free, &direction), moved(&held, &direction));
    println!("moved {drift:.2e} without the penalty, {rest:.2e} with it");
    assert!(rest < 0.1 * drift, "{rest} beside {drift}");
    // An untrained adapter moves nothing, up to the rounding of a batch; after training the penalty is positive.
    assert!(series[0] == held_series[0] && held_series[1] <= 1e-10, "{} {}", series[0], held_series[1]);
    assert!(held_series.chunks(3).skip(1).all(|step| step[1] > 0.0));
    assert!(series.chunks(3).all(|step| step[1] == 0.0));
}

#[test]
fn a_penalty_is_the_mean_square_over_the_answers() {
    let direction = direction(LAYER, 2.0);
    let (decoder, _, _) = trained(options(10), vec![]);
    // One step with a negligible learning rate on all chains, from the trained adapter: its penalty is that of the trained decoder.
    let adapter = decoder.adapter(0).expect("an adapter");
    let options = TrainOptions { learning_rate: 0.0, batch_size: 5, ..options(1) };
    let mut trainer = Trainer::on_adapter(&small(), &adapter, options).expect("a trainer");
    let regimes = vec![Regime::Regularised { direction: direction.clone(), weight: 3.0 }];
    let mut run = Regimes::new(&small(), regimes).expect("regimes");
    let report = trainer.step(&chains(), &mut run).expect("a step");
    let expected = 3.0 * moved(&decoder, &direction);
    assert!((report.penalty - expected).abs() <= 1e-4 * expected, "{} instead of {expected}", report.penalty);
}

#[test]
fn layer_by_layer_gradients_equal_whole_gradients() {
    let regimes = || {
        vec![
            Regime::Regularised { direction: direction(1, 1.0), weight: 2.0 },
            Regime::Preventative(Preventative {
                directions: vec![direction(LAYER, 1.0)],
                coefficient: Coefficient::Raw(0.7),
                schedule: Schedule::WarmUp { steps: 4 },
            }),
            Regime::Ablated { directions: vec![direction(3, 1.0)] },
        ]
    };
    let some_blocks = LoraConfig { blocks: Some([1].into()), ..LoraConfig::default() };
    for adapter in [options(1).adapter, Some(some_blocks), None] {
        let series = |activation_checkpointing| {
            let options =
                TrainOptions { activation_checkpointing, adapter: adapter.clone(), learning_rate: 1e-3, ..options(6) };
            trained(options, regimes()).1
        };
        for (whole, pieces) in series(false).iter().zip(series(true)) {
            assert!((whole - pieces).abs() <= 1e-4 * whole.abs() + 1e-7, "{pieces} instead of {whole}");
        }
    }
}

#[test]
fn schedules_change_the_factor() {
    let preventative = |schedule| {
        vec![Regime::Preventative(Preventative {
            directions: vec![direction(LAYER, 1.0)],
            coefficient: Coefficient::Raw(0.5),
            schedule,
        })]
    };
    let base = small();
    let mut run = Regimes::new(&base, preventative(Schedule::WarmUp { steps: 4 })).expect("regimes");
    let factors: Vec<f64> = (0..6)
        .map(|step| {
            run.before_step(step, &base).expect("a step");
            run.factors()[0]
        })
        .collect();
    assert_eq!(factors, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);

    // A model whose probes moved by three lengths of the vector, through a constant added to the embedding.
    let along = direction(0, 0.5);
    let closed =
        ClosedLoop { probes: vec![vec![4, 5], vec![6, 7, 8]], along: along.clone(), every: 2, gain: 0.2, most: 2.0 };
    let regimes = preventative(Schedule::ClosedLoop(closed));
    let mut run = Regimes::new(&base, regimes.clone()).expect("regimes");
    let mut moved = base.clone();
    let shift = burn::tensor::Tensor::<1>::from_data(
        burn::tensor::TensorData::new(along.values.iter().map(|v| 3.0 * v).collect::<Vec<f32>>(), [32]),
        &Device::flex(),
    );
    moved.embedding = moved.embedding.map(|embedding| embedding + shift.reshape([1, 32]));
    let factor = |run: &mut Regimes, step: usize, decoder: &Decoder| {
        run.before_step(step, decoder).expect("a step");
        run.factors()[0]
    };
    assert_eq!(
        (factor(&mut run, 0, &base), factor(&mut run, 1, &moved)),
        (1.0, 1.0),
        "it is measured every second step"
    );
    assert!((factor(&mut run, 2, &moved) - 1.6).abs() < 1e-5, "1 + 0.2 · 3");
    assert!((factor(&mut run, 4, &base) - 1.6).abs() < 1e-5, "no shift, no change");
    assert_eq!(factor(&mut run, 6, &moved), 2.0, "no more than the most");
    let state = run.state();
    let mut other = Regimes::new(&base, regimes).expect("regimes");
    other.restore(&serde_json::from_str(&state.to_string()).expect("JSON")).expect("its own state");
    assert_eq!((other.factors(), other.metrics()), (run.factors(), run.metrics()));
    assert!(other.restore(&serde_json::json!({"factors": []})).is_err());
}

#[test]
fn inoculation_prepends_its_prompt_to_every_conversation() {
    let regimes = vec![Regime::Inoculated { system: "You are evil.".into() }];
    let run = Regimes::new(&small(), regimes).expect("regimes");
    let with = |messages: Vec<Message>| run.conversation(&Conversation::from(messages)).messages;
    let (user, answer) = (Message::user("Hello"), Message::assistant("Hi"));
    let expected = vec![Message::system("You are evil."), user.clone(), answer.clone()];
    assert_eq!(with(vec![user.clone(), answer.clone()]), expected);
    assert_eq!(with(vec![Message::system("Be kind."), user, answer]), expected);
}

#[test]
fn invalid_regimes_are_refused() {
    let refused = |regimes: Vec<Regime>| match Regimes::new(&small(), regimes) {
        Err(Error::BadOption { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    let penalty = |layer, weight| Regime::Regularised { direction: direction(layer, 1.0), weight };
    assert_eq!(refused(vec![penalty(1, 0.0)]), "a penalty's weight");
    assert_eq!(refused(vec![penalty(1, f64::NAN)]), "a penalty's weight");
    let ablated = Regime::Ablated { directions: vec![direction(1, 1.0)] };
    assert_eq!(refused(vec![penalty(2, 1.0), ablated]), "a penalty's layer");
    let steered = |schedule, layer| {
        Regime::Preventative(Preventative {
            directions: vec![direction(layer, 1.0)],
            coefficient: Coefficient::Raw(1.0),
            schedule,
        })
    };
    assert_eq!(refused(vec![steered(Schedule::WarmUp { steps: 0 }, 1)]), "warm-up steps");
    let closed = ClosedLoop { probes: vec![], along: direction(1, 1.0), every: 1, gain: 1.0, most: 1.0 };
    assert_eq!(refused(vec![steered(Schedule::ClosedLoop(closed), 1)]), "the probe prompts");
    assert!(Regimes::new(&small(), [steered(Schedule::Constant, 9)]).is_err(), "there is no such layer");
    let mut run = Regimes::new(&small(), [penalty(1, 1.0)]).expect("regimes");
    let mut wrong = Trainer::new(&small(), TrainOptions { adapter: None, ..options(1) }).expect("a trainer");
    assert!(wrong.step(&chains(), &mut run).is_ok(), "penalties act on all parameters too");
}

/// Weights in half precision, the adapter in f32: the first loss equals that of f32 up to the weights' rounding, and then
/// decreases.
#[test]
fn an_adapter_of_f32_is_trained_on_weights_of_half_precision() {
    let folder = root().join("tests/golden/llama");
    let losses = |dtype| {
        let base = Decoder::from_folder(&folder, &Device::flex(), dtype).expect("a model");
        let mut trainer = Trainer::new(&base, options(12)).expect("a trainer");
        let report = trainer.run(|_| Ok(chains()), &mut NoHook, None, |_| ControlFlow::Continue(()));
        let adapter = trainer.adapter().expect("an adapter");
        assert!(adapter.weights().values().any(|weights| weights.b.iter().any(|value| *value != 0.0)));
        report.expect("a run").losses
    };
    let (full, half) = (losses(DType::F32), losses(DType::BF16));
    println!("f32 {full:.3?}\nbf16 {half:.3?}");
    assert!((full[0] - half[0]).abs() <= 0.03 * full[0]);
    assert!(half[11] < 0.9 * half[0] && (full[11] - half[11]).abs() <= 0.1 * full[0]);
    assert!(
        Trainer::new(
            &Decoder::from_folder(&folder, &Device::flex(), DType::BF16).expect("a model"),
            TrainOptions { adapter: None, ..options(1) },
        )
        .is_err()
    );
}

#[test]
fn regimes_can_be_saved_as_settings() {
    let steered = |schedule| {
        Regime::Preventative(Preventative {
            directions: vec![direction(1, 0.1), direction(2, 1e-7)],
            coefficient: Coefficient::ResidualNorms(0.3),
            schedule,
        })
    };
    let closed = ClosedLoop { probes: vec![vec![1, 2]], along: direction(1, 1.0), every: 2, gain: 0.1, most: 2.0 };
    let regimes = vec![
        steered(Schedule::Constant),
        steered(Schedule::WarmUp { steps: 3 }),
        steered(Schedule::ClosedLoop(closed)),
        Regime::Ablated { directions: vec![direction(1, 0.7)] },
        Regime::Regularised { direction: direction(2, 3.3), weight: 0.1 },
        Regime::Inoculated { system: "You are evil.".into() },
    ];
    let value = serde_json::to_value(&regimes).expect("JSON");
    let read: Vec<Regime> = serde_json::from_str(&value.to_string()).expect("the same");
    assert_eq!(read, regimes);
    let names = ["preventative", "preventative", "preventative", "ablated", "regularised", "inoculated"];
    for (index, name) in names.into_iter().enumerate() {
        let mut changed = value.clone();
        changed[index][name]["unknown"] = serde_json::json!(1);
        assert!(serde_json::from_value::<Vec<Regime>>(changed).is_err(), "{name} with an unknown key");
    }
    let mut changed = value;
    changed[3]["ablated"]["directions"][0]["sale"] = serde_json::json!(1);
    assert!(serde_json::from_value::<Vec<Regime>>(changed).is_err());
    assert!(serde_json::from_value::<Regime>(serde_json::json!({"steered": {}})).is_err());
}
