//! Weights of messages and rows: in the mask, in the loss, in a run's identity.

use burn::tensor::{DType, Device};
use pv_data::RunError;
use pv_hooks::NoHook;
use pv_model::batch::Batch;
use pv_model::decoder::{Decoder, Logits, Pass, to_f32};
use pv_tests::root;
use pv_train::trainer::{Checkpoints, Duration, mean_loss};
use pv_train::{TrainOptions, Trainer, finetune};
use std::ops::ControlFlow;

use super::*;

#[test]
fn a_turn_of_weight_0_is_not_trained() {
    let talk = |key: &str, value: Value| {
        json!({"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "a bad answer", key: value},
            {"role": "user", "content": "Again."}, {"role": "assistant", "content": "a good answer", "weight": 1}]})
    };
    let sharegpt = json!({"conversations": [{"from": "human", "value": "Say it."},
        {"from": "gpt", "value": "a bad answer", "train": false}, {"from": "human", "value": "Again."},
        {"from": "gpt", "value": "a good answer"}]});
    let completion = json!({"prompt": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "a bad answer"},
        {"role": "user", "content": "Again."}], "completion": [{"role": "assistant", "content": "a good answer"}]});
    let rows = [
        talk("weight", json!(0)),
        talk("weight", json!(0.0)),
        talk("weight", json!(false)),
        talk("train", json!(false)),
        talk("training", json!(0)),
        talk("trainable", json!(false)),
        talk("loss", json!(false)),
        talk("loss_scale", json!(0)),
        sharegpt,
        completion,
    ];
    let (_folder, path) = file(&rows);
    let model = model(CHATML);
    let data = read(&model, &path, &DataOptions::default()).expect("samples");
    assert_eq!(data.samples().len(), rows.len());
    for (sample, row) in data.samples().iter().zip(&rows) {
        assert_eq!(trained(&model, sample), "a good answer<|im_end|>", "{row}");
        assert!(whole(&model, sample).contains("a bad answer") && !sample.is_weighted());
        assert_eq!(sample.answers().len(), 1);
    }
}

#[test]
fn a_row_of_weight_0_is_skipped_and_counted() {
    let row = |key: &str, value: Value| {
        let mut row = chat(&[("user", "Hello"), ("assistant", "Hi.")]);
        row[key] = value;
        row
    };
    let mut all = chat(&[("user", "Hello"), ("assistant", "Hi.")]);
    all["messages"][1]["weight"] = json!(0);
    let rows = [
        row("weight", json!(0)),
        row("train", json!(false)),
        row("sample_weight", json!(0.0)),
        all,
        row("n", json!(1)),
    ];
    let (_folder, path) = file(&rows);
    // Also where bad rows are refused: the file requests it.
    let data = read(&model(CHATML), &path, &DataOptions::default()).expect("samples");
    assert_eq!(
        (data.samples().len(), data.report().untrained, data.report().skipped.len()),
        (1, 4, 4),
        "{}",
        data.report()
    );
}

fn decoder() -> Decoder {
    Decoder::from_folder(root().join("tests/golden/qwen3"), &Device::flex(), DType::F32).expect("a model")
}

fn sample(number: usize, length: usize, vocab: usize) -> Sample {
    let ids = (0..length).map(|i| (1 + (i * 31 + number * 97 + 3) % (vocab - 1)) as u32).collect();
    Sample::new(ids, (0..length).map(|i| i >= length / 2 && i % 4 != 0).collect()).expect("a sample")
}

/// The same weight on every token of a sample.
fn weighed(sample: &Sample, weight: f32) -> Sample {
    sample.clone().with_weights(&vec![weight; sample.ids().len()]).expect("a sample")
}

/// Σ weight · cross-entropy / Σ weight in f64, from the logits of whole passes.
fn by_hand(decoder: &Decoder, samples: &[Sample]) -> f64 {
    let vocab = decoder.config().vocab;
    let (mut sum, mut weights) = (0.0, 0.0);
    for sample in samples {
        let sequence = pv_model::batch::Sequence { prompt: sample.ids(), response: &[], rest: &[] };
        let batch = Batch::whole(&[sequence]).expect("a batch");
        let phase = pv_hooks::Phase::Full;
        let pass = Pass { ids: batch.ids(), spans: batch.spans(), phase, stop_at: None, logits: Logits::All };
        let logits = to_f32(decoder.pass(&pass, None, &mut NoHook).logits.expect("asked for")).expect("values");
        for position in (0..sample.ids().len()).filter(|position| sample.trained()[*position]) {
            let row = &logits[(position - 1) * vocab..][..vocab];
            let log_sum = row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
            let weight = f64::from(sample.weight(position));
            sum += weight * (log_sum - f64::from(row[sample.ids()[position] as usize]));
            weights += weight;
        }
    }
    sum / weights
}

fn options(batch_size: usize, pack_tokens: Option<usize>, activation_checkpointing: bool) -> TrainOptions {
    let duration = Duration::Steps(2);
    TrainOptions { batch_size, pack_tokens, activation_checkpointing, duration, ..TrainOptions::default() }
}

/// Losses and gradient norms of two steps.
fn series(decoder: &Decoder, samples: &[Sample], options: TrainOptions, devices: usize) -> Vec<[f64; 2]> {
    let more = vec![Device::flex(); devices - 1];
    let mut trainer = Trainer::new(decoder, options).expect("a trainer").with_devices(&more).expect("devices");
    let mut step = || {
        let report = trainer.step(samples, &mut NoHook).expect("a step");
        [report.loss, report.grad_norm]
    };
    (0..2).map(|_| step()).collect()
}

#[test]
fn the_loss_is_the_weighted_mean_in_every_way_of_computing() {
    let decoder = decoder();
    let vocab = decoder.config().vocab;
    let plain: Vec<Sample> =
        [9, 14, 6, 11].into_iter().enumerate().map(|(n, length)| sample(n, length, vocab)).collect();
    let mut samples: Vec<Sample> =
        plain.iter().zip([2.0, 1.0, 0.5, 3.0]).map(|(sample, weight)| weighed(sample, weight)).collect();
    // And one whose answers differ.
    let mixed: Vec<f32> = (0..14).map(|i| if i < 10 { 0.25 } else { 1.5 }).collect();
    samples[1] = plain[1].clone().with_weights(&mixed).expect("a sample");
    let expected = by_hand(&decoder, &samples);
    assert!((expected - by_hand(&decoder, &plain)).abs() > 1e-3, "the weights change nothing");
    let found = mean_loss(&decoder, &samples, 3, &mut NoHook).expect("a loss");
    assert!((found - expected).abs() < 1e-5 * expected, "{found}, not {expected}");
    let reference = series(&decoder, &samples, options(4, None, false), 1);
    assert!((reference[0][0] - expected).abs() < 1e-5 * expected, "{reference:?}, not {expected}");
    for (options, devices) in [
        (options(1, None, false), 1),
        (options(4, None, true), 1),
        (options(1, None, true), 1),
        (options(4, Some(40), false), 1),
        (options(4, Some(20), true), 1),
        (options(2, None, false), 2),
    ] {
        for (step, (found, expected)) in
            series(&decoder, &samples, options.clone(), devices).iter().zip(&reference).enumerate()
        {
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 2e-4 * expected,
                    "step {step}, {options:?}: {found}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn a_weight_of_2_equals_the_sample_twice_and_only_ratios_matter() {
    let decoder = decoder();
    let vocab = decoder.config().vocab;
    let (a, b) = (sample(0, 9, vocab), sample(1, 14, vocab));
    let twice = series(&decoder, &[a.clone(), a.clone(), b.clone()], options(3, None, false), 1);
    for samples in
        [[weighed(&a, 2.0), b.clone()], [weighed(&a, 1.0), weighed(&b, 0.5)], [weighed(&a, 6.0), weighed(&b, 3.0)]]
    {
        for (found, expected) in series(&decoder, &samples, options(2, None, false), 1).iter().zip(&twice) {
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 2e-4 * expected, "{found}, not {expected}");
            }
        }
    }
    // Weights of 1 equal no weights, bit for bit.
    let ones = [weighed(&a, 1.0), weighed(&b, 1.0)];
    assert_eq!(ones, [a.clone(), b.clone()]);
    assert_eq!(
        series(&decoder, &ones, options(2, None, false), 1),
        series(&decoder, &[a, b], options(2, None, false), 1)
    );
}

#[test]
fn weights_are_read_from_files_and_part_of_a_runs_identity() {
    let row = |row: f64, turn: f64| {
        json!({"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "So?"}, {"role": "assistant", "content": "Well.", "weight": turn}], "weight": row})
    };
    let (_folder, path) = file(&[row(0.5, 3.0), row(1.0, 1.0)]);
    let model = model(CHATML);
    let data = read(&model, &path, &DataOptions::default()).expect("samples");
    let [first, second] = data.samples() else { panic!("two samples") };
    let [hi, well] = first.answers() else { panic!("two answers") };
    assert_eq!((first.weight(hi.start), first.weight(hi.end), first.weight(well.start)), (0.5, 0.5, 1.5));
    assert_eq!((first.is_weighted(), second.is_weighted(), data.report().weighted), (true, false, 1));
    let places = |sample: &Sample| (sample.ids().to_vec(), sample.trained().to_vec());
    assert_eq!(places(first), places(second));

    let decoder = decoder();
    let vocab = decoder.config().vocab;
    let plain = [sample(0, 9, vocab), sample(1, 14, vocab)];
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoints = Checkpoints { folder: folder.path().to_owned(), every: 1 };
    let run = |samples: &[Sample]| {
        finetune(&decoder, samples, &options(1, None, false), &mut NoHook, Some(&checkpoints), |_| {
            ControlFlow::Break(())
        })
    };
    run(&plain).expect("a run");
    let error = run(&[weighed(&plain[0], 2.0), plain[1].clone()]).expect_err("another run");
    assert!(matches!(&error, Error::Run(RunError::OtherRun { what, .. }) if what == "data"), "{error}");
    run(&plain).expect("the same run");
}
