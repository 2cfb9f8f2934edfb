//! Samples packed into passes are trained as if each were alone.

use burn::tensor::{DType, Device};
use pv_hooks::{Layer, NoHook};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::{CausalLm, LoraConfig};
use pv_organism::model_folder;
use pv_parity::{Random, smollm2};
use pv_steer::Coefficient;
use pv_train::regime::Schedule;
use pv_train::trainer::{Decay, Duration, Regimes};
use pv_train::{Error, Preventative, Regime, Sample, TrainOptions, Trainer, finetune};
use pv_vectors::Direction;

fn open(folder: impl AsRef<std::path::Path>) -> CausalLm {
    open_on(folder, &Device::flex())
}

fn open_on(folder: impl AsRef<std::path::Path>, device: &Device) -> CausalLm {
    CausalLm::from_folder(folder, device, DType::F32).expect("a model")
}

/// Prompts and answers of these lengths.
fn samples(model: &CausalLm, lengths: &[(usize, usize)]) -> Vec<Sample> {
    let mut random = Random(11);
    let mut ids = |n: usize| -> Vec<u32> { (0..n).map(|_| random.below(model.config().vocab as u64) as u32).collect() };
    let mut sample = |&(prompt, answer): &(usize, usize)| {
        let trained = (0..prompt + answer).map(|i| i >= prompt).collect();
        Sample::new(ids(prompt + answer), trained).expect("a sample")
    };
    lengths.iter().map(&mut sample).collect()
}

/// All regimes that depend on positions: preventative steering, ablation, and a penalty on the answers' mean.
fn regimes(model: &CausalLm) -> Regimes {
    let direction = |layer: usize, scale: f32| Direction {
        layer: Layer::hidden_state(layer),
        values: (0..model.config().d_model).map(|i| ((i * i) as f32 * 0.7 + layer as f32).sin() * scale).collect(),
        mean_residual_norm: None,
    };
    let preventative = Preventative {
        directions: vec![direction(3, 0.3), direction(5, 0.3)],
        coefficient: Coefficient::Raw(1.0),
        schedule: Schedule::Constant,
    };
    let regimes = [
        Regime::Preventative(preventative),
        Regime::Ablated { directions: vec![direction(4, 1.0)] },
        Regime::Regularised { direction: direction(2, 1.0), weight: 0.05 },
    ];
    Regimes::new(model.decoder(), regimes).expect("regimes")
}

fn options(pack_tokens: Option<usize>, batch_size: usize, activation_checkpointing: bool) -> TrainOptions {
    TrainOptions {
        learning_rate: 1e-4,
        decay: Decay::Constant,
        batch_size,
        pack_tokens,
        activation_checkpointing,
        duration: Duration::Steps(3),
        adapter: Some(LoraConfig { rank: 4, ..LoraConfig::default() }),
        ..TrainOptions::default()
    }
}

/// Loss, penalty and gradient norm of three steps.
fn series(model: &CausalLm, samples: &[Sample], options: TrainOptions) -> Vec<[f64; 3]> {
    let mut trainer = Trainer::new(model.decoder(), options).expect("a trainer");
    let mut regimes = regimes(model);
    let mut step = || {
        let report = trainer.step(samples, &mut regimes).expect("a step");
        [report.loss, report.penalty, report.grad_norm]
    };
    (0..3).map(|_| step()).collect()
}

#[test]
fn a_packed_step_equals_separate_samples() {
    let lengths = [(5, 4), (40, 30), (1, 2), (9, 61), (3, 3), (22, 2)];
    // All in one pass, in several, and one pass per sample, also as a batch; whole and layer by layer.
    let ways = [(Some(1000), 1), (Some(90), 1), (Some(70), 1), (None, 6)];
    let ways = ways.into_iter().flat_map(|(pack, batch)| [false, true].map(|layered| (pack, batch, layered)));
    // One way only on the real model, which is slow.
    let few = [(Some(90), 1, true)];
    for (model, ways) in [(open(model_folder()), ways.collect::<Vec<_>>()), (open(smollm2()), few.to_vec())] {
        let samples = samples(&model, &lengths);
        let alone = series(&model, &samples, options(None, 1, false));
        // Before training has changed anything, a penalty is zero.
        assert!(alone[2][0] < alone[0][0] && alone[0][1] == 0.0 && alone[2][1] > 0.0, "{alone:?}");
        for (pack_tokens, batch_size, activation_checkpointing) in ways {
            let found = series(&model, &samples, options(pack_tokens, batch_size, activation_checkpointing));
            let gaps = found.iter().flatten().zip(alone.iter().flatten()).map(|(a, b)| (a - b).abs() / b.max(1e-3));
            let gap = gaps.fold(0.0, f64::max);
            println!("{pack_tokens:?} {batch_size}, layer by layer {activation_checkpointing}: {gap:.1e}");
            assert!(gap < 1e-4, "{pack_tokens:?} {batch_size}: {found:?} for {alone:?}");
        }
    }
}

/// Training with regimes, whole and layer by layer, uses the same code on a GPU.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn trains_as_on_the_cpu(device: &str) {
    let lengths = [(5, 4), (14, 9), (1, 2), (9, 21)];
    let device = pv_model::device(device).expect("a device");
    let (here, there) = (open(model_folder()), open_on(model_folder(), &device));
    let samples = samples(&here, &lengths);
    let expected = series(&here, &samples, options(None, 1, false));
    for (pack_tokens, batch_size, activation_checkpointing) in [(Some(100), 1, false), (Some(40), 1, true)] {
        let found = series(&there, &samples, options(pack_tokens, batch_size, activation_checkpointing));
        let gaps = found.iter().flatten().zip(expected.iter().flatten()).map(|(a, b)| (a - b).abs() / b.max(1e-2));
        let gap = gaps.fold(0.0, f64::max);
        println!("{pack_tokens:?}, layer by layer {activation_checkpointing}: {gap:.1e}");
        assert!(gap < 1e-2, "{found:?} for {expected:?}");
    }
}

#[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
#[test]
fn wgpu_trains_like_the_cpu() {
    trains_as_on_the_cpu("wgpu");
}

#[cfg(feature = "cuda")]
#[test]
fn cuda_trains_like_the_cpu() {
    trains_as_on_the_cpu("cuda");
}

#[test]
fn rows_do_not_attend_to_each_other() {
    for model in [open(model_folder()), open(smollm2())] {
        let rows = |seed: u64| -> Vec<Vec<u32>> {
            let mut random = Random(seed);
            [7, 90, 33].map(|n| (0..n).map(|_| random.below(model.config().vocab as u64) as u32).collect()).into()
        };
        let logits = |rows: &[Vec<u32>]| -> Vec<Vec<f32>> {
            let sequences: Vec<_> = rows.iter().map(|ids| Sequence { prompt: ids, ..Sequence::default() }).collect();
            let batch = Batch::whole(&sequences).expect("a batch");
            let options = ForwardOptions { stop_at: None, logits: Logits::Last };
            let logits = model.forward(&batch, options, &mut NoHook).expect("a pass").logits.expect("asked for");
            to_f32(logits).expect("values").chunks(model.config().vocab).map(<[f32]>::to_vec).collect()
        };
        let (one, two) = (rows(1), rows(2));
        let (first, second) = (logits(&one), logits(&[one[0].clone(), two[1].clone(), one[2].clone()]));
        assert!(first[0] == second[0] && first[2] == second[2], "another row's content shows");
        assert_ne!(first[1], second[1]);
        for (row, ids) in one.iter().enumerate() {
            let alone = &logits(std::slice::from_ref(ids))[0];
            let gap = alone.iter().zip(&first[row]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(gap < 1e-3, "row {row} alone differs by {gap}");
        }
    }
}

#[test]
fn samples_longer_than_a_pack_are_refused() {
    let model = open(model_folder());
    let samples = samples(&model, &[(4, 5), (10, 11), (2, 2)]);
    let refused = |result: Result<(), Error>| match result {
        Err(Error::SampleTooLong { sample: 1, tokens: 21, most: 20 }) => {}
        other => panic!("{other:?}"),
    };
    let short = options(Some(20), 1, false);
    let go_on = |_: &pv_train::trainer::StepReport| std::ops::ControlFlow::Continue(());
    refused(finetune(model.decoder(), &samples, &short, &mut NoHook, None, go_on).map(drop));
    let mut trainer = Trainer::new(model.decoder(), short).expect("a trainer");
    refused(trainer.step(&samples, &mut NoHook).map(drop));
    assert_eq!(trainer.steps_done(), 0);
    // An epoch of packs contains every sample, in fewer steps than there are samples.
    let long = TrainOptions { duration: Duration::Epochs(2), ..options(Some(25), 1, false) };
    let mut tokens = vec![];
    let counted = |step: &pv_train::trainer::StepReport| {
        tokens.push(step.tokens);
        std::ops::ControlFlow::Continue(())
    };
    finetune(model.decoder(), &samples, &long, &mut NoHook, None, counted).expect("a run");
    tokens.sort_unstable();
    assert_eq!(tokens, [9, 9, 25, 25]);
}
