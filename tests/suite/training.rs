//! Training, compared with PyTorch, and properties that hold for all weights.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor};
use pv_data::{Conversation, RunError};
use pv_hooks::{Hook, HookError, Layer, LayerSet, ModelShape, NoHook, ResidualContext};
use pv_model::decoder::Decoder;
use pv_model::tokenizer::eos_ids;
use pv_model::{CausalLm, ChatTemplate, DecoderConfig, LoraConfig, Message, Tokenizer};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_tests::{measured_apart, peak_memory, root, smollm2, tell_bytes};
use pv_train::sample::TrainedTurns;
use pv_train::trainer::{Checkpoints, Decay, Duration, WarmUp, mean_loss};
use pv_train::{EncodeOptions, Error, Sample, TrainOptions, Trainer, finetune};
use pv_vectors::Direction;

fn golden(name: &str) -> Decoder {
    Decoder::from_folder(root().join("tests/golden").join(name), &Device::flex(), DType::F32).expect("a model")
}

/// A small decoder with tied weights, trained from random weights.
fn small() -> Decoder {
    with_blocks(2)
}

fn with_blocks(count: usize) -> Decoder {
    let config = DecoderConfig::from_json(&serde_json::json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": count,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40, "tie_word_embeddings": true,
        "bos_token_id": null, "eos_token_id": 1,
    }));
    Decoder::init(config.expect("a configuration"), 3, &Device::flex()).expect("a decoder")
}

/// The samples of the reference; those of a step have different lengths. Token 0 is not among them: it is
/// the padding, whose embedding transformers does not train.
fn samples(step: usize, vocab: usize) -> Vec<Sample> {
    let sample = |(j, n): (usize, usize)| {
        let ids = (0..n).map(|i| (1 + (i * 31 + (step % 2 * 6 + j) * 97 + 3) % (vocab - 1)) as u32).collect();
        let trained = (0..n).map(|i| i >= n / 2 && i % 3 != 0).collect();
        Sample::new(ids, trained).expect("a sample")
    };
    [5, 11, 9, 17, 8, 13].into_iter().enumerate().map(sample).collect()
}

/// Learnable sequences: each token follows from the one before.
fn chains() -> Vec<Sample> {
    let sample = |i: usize| {
        let n = 6 + i % 5;
        let ids: Vec<u32> = (0..n).scan(i as u32, |x, _| Some(std::mem::replace(x, (*x * 3 + 5) % 40))).collect();
        Sample::new(ids, (0..n).map(|i| i > 1).collect()).expect("a sample")
    };
    (0..30).map(sample).collect()
}

fn options(batch_size: usize) -> TrainOptions {
    TrainOptions {
        learning_rate: 3e-3,
        warmup_steps: 2,
        beta_2: 0.99,
        weight_decay: 0.1,
        batch_size,
        duration: Duration::Steps(8),
        ..TrainOptions::default()
    }
}

/// All weights, as bits.
fn bits(decoder: &Decoder) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    decoder.save(folder.path(), DType::F32).expect("a writable folder");
    std::fs::read(folder.path().join("model.safetensors")).expect("the file")
}

fn steerer(strength: f32) -> Steerer {
    let values = (0..32).map(|i| ((i * i) as f32 * 0.7).sin()).collect();
    let direction = Direction { layer: Layer::hidden_state(1), values, mean_residual_norm: None };
    Steerer::new().add(&direction, Coefficient::Raw(strength), Positions::Response).expect("a direction")
}

#[test]
fn eight_steps_equal_those_of_pytorch() {
    // Computed with torch 2.15 and transformers 5.23: AdamW with two groups, `clip_grad_norm_`, each sample separately, with
    // the learning rates of `WarmUp::AboveZero`.
    let references: [(&str, [f64; 8], [f64; 8]); 6] = [
        (
            "llama-biases",
            [5.446095, 4.567069, 4.514262, 3.78477, 3.708503, 3.20536, 3.236252, 2.883137],
            [5.66352, 4.17709, 3.94363, 3.49384, 3.87208, 3.23174, 3.66491, 3.04553],
        ),
        (
            "qwen3",
            [6.068029, 6.177307, 4.462916, 4.739316, 3.221898, 3.713135, 2.602619, 3.190961],
            [6.42113, 7.09001, 4.23185, 4.09514, 4.13148, 3.41615, 3.07172, 3.21691],
        ),
        (
            "qwen2",
            [5.842068, 6.063176, 4.500068, 4.608796, 3.479957, 3.648316, 2.879503, 3.168218],
            [7.50064, 6.42621, 5.44405, 4.21139, 5.08109, 3.42418, 3.82279, 3.05902],
        ),
        (
            // Two of its experts have steps without tokens.
            "qwen3-moe",
            [6.408558, 6.269124, 4.95691, 4.740038, 3.627042, 3.651733, 2.930971, 3.075007],
            [8.08132, 7.91055, 5.68643, 5.25172, 4.40707, 4.77007, 3.58894, 4.001],
        ),
        (
            "mixtral",
            [5.763667, 6.476039, 4.296142, 4.722413, 3.165302, 3.617402, 2.522294, 3.078355],
            [8.89523, 7.18818, 5.56732, 5.0146, 4.63058, 4.01255, 3.63806, 3.55524],
        ),
        (
            // Sinks and the biases of experts, which have no weight decay.
            "gpt-oss",
            [6.471685, 6.192475, 4.807611, 4.800029, 3.420975, 3.775014, 2.679116, 3.29997],
            [7.38121, 6.67751, 5.73113, 6.02471, 5.02241, 6.8503, 4.29098, 4.98189],
        ),
    ];
    for (name, losses, norms) in references {
        // In one pass and in several: the loss is the mean over all tokens of the step.
        let decoder = golden(name);
        let vocab = decoder.config().vocab;
        for batch_size in [6, 4, 1] {
            let options = TrainOptions { warmup: WarmUp::AboveZero, ..options(batch_size) };
            let mut trainer = Trainer::new(&decoder, options).expect("a trainer");
            for step in 0..8 {
                let report = trainer.step(&samples(step, vocab), &mut NoHook).expect("a step");
                let (loss, norm) = (report.loss, report.grad_norm);
                let gap = (loss - losses[step]).abs() / losses[step];
                assert!(gap < 2e-5, "{name}, batch {batch_size}, step {step}: loss {loss}, not {}", losses[step]);
                let gap = (norm - norms[step]).abs() / norms[step];
                assert!(gap < 5e-4, "{name}, batch {batch_size}, step {step}: norm {norm}, not {}", norms[step]);
                assert_eq!((report.step, report.tokens), (step + 1, 63));
            }
        }
    }
}

/// One long sample, and short ones.
fn long_and_short(long: usize, short: usize) -> Vec<Sample> {
    let sample = |(j, n): (usize, usize)| {
        let ids = (0..n).map(|i| (2 + (i * 31 + i * i + j * 7) % 37) as u32).collect();
        Sample::new(ids, (0..n).map(|i| i > 0).collect()).expect("a sample")
    };
    [long].into_iter().chain((0..short).map(|j| 24 + j % 9)).enumerate().map(sample).collect()
}

#[test]
fn a_pass_of_a_long_sample_and_short_ones_trains_as_passes_of_one_sample() {
    let samples = long_and_short(300, 10);
    for activation_checkpointing in [false, true] {
        let trained = |pack_tokens| {
            let options = TrainOptions { pack_tokens, activation_checkpointing, ..options(1) };
            let mut trainer = Trainer::new(&small(), options).expect("a trainer");
            let mut step = |_| trainer.step(&samples, &mut NoHook).expect("a step").loss;
            let losses: Vec<f64> = (0..4).map(&mut step).collect();
            (losses, mean_loss(&trainer.decoder(), &samples, 1, &mut NoHook).expect("a loss"))
        };
        let (together, alone) = (trained(Some(2000)), trained(None));
        println!("{together:?} {alone:?}");
        for (found, expected) in together.0.iter().chain([&together.1]).zip(alone.0.iter().chain([&alone.1])) {
            assert!((found - expected).abs() <= 1e-5 * expected, "{found} for {expected}");
        }
        assert!(together.1 < 0.97 * together.0[0], "{together:?}");
    }
}

const APART: &str = "PV_TEST_LONG_SAMPLE";

#[test]
fn a_long_sample_does_not_make_short_ones_long() {
    let Some(dtype) = std::env::var_os(APART) else {
        for dtype in ["f32", "bf16"] {
            let test = "training::a_long_sample_does_not_make_short_ones_long";
            let taken = measured_apart(test, &[(APART, dtype.as_ref())]);
            println!("{dtype}: a step takes {:.1} MiB", taken as f64 / f64::from(1 << 20));
            assert!(taken < 250 << 20, "{dtype}: {taken} bytes");
        }
        return;
    };
    // With padding they are 62 rows of 1500 tokens: all rows' scores in a block would take 2.2 GB, the residuals of all
    // layers 300 MB.
    let samples = long_and_short(1500, 61);
    let dtype = if dtype == "bf16" { DType::BF16 } else { DType::F32 };
    let options = TrainOptions {
        pack_tokens: Some(4000),
        activation_checkpointing: true,
        duration: Duration::Steps(2),
        adapter: Some(LoraConfig::default()),
        ..options(1)
    };
    let folder = tempfile::tempdir().expect("a folder");
    with_blocks(24).save(folder.path(), DType::F32).expect("a writable folder");
    let decoder = Decoder::from_folder(folder.path(), &Device::flex(), dtype).expect("a model");
    let before = peak_memory();
    finetune(&decoder, &samples, &options, &mut NoHook, None, |_| ControlFlow::Continue(())).expect("steps");
    tell_bytes(peak_memory() - before);
}

#[test]
fn learnable_sequences_are_learnt() {
    let decoder = small();
    let options = TrainOptions {
        learning_rate: 1e-2,
        warmup_steps: 10,
        decay: Decay::Cosine,
        batch_size: 10,
        duration: Duration::Epochs(60),
        ..TrainOptions::default()
    };
    let before = bits(&decoder);
    let mut seen = Vec::new();
    let (trained, report) = finetune(&decoder, &chains(), &options, &mut NoHook, None, |step| {
        seen.push(step.loss);
        ControlFlow::Continue(())
    })
    .expect("training");
    assert_eq!((report.losses.len(), report.stopped), (180, false));
    assert_eq!(seen, report.losses);
    assert!((report.losses[0] - 40f64.ln()).abs() < 0.1, "it began at {}", report.losses[0]);
    assert!(!trained.device().is_autodiff());
    let loss = mean_loss(&trained, &chains(), 7, &mut NoHook).expect("a loss");
    assert!(loss < 0.05, "it ended at {loss}");
    assert_eq!(bits(&decoder), before, "the decoder that training began from was changed");
}

#[test]
fn an_interrupted_run_resumes_bit_for_bit() {
    let (decoder, samples) = (small(), chains());
    let options = TrainOptions { learning_rate: 1e-2, batch_size: 5, duration: Duration::Steps(16), ..options(5) };
    for accumulate in [1, 2] {
        let options = TrainOptions { accumulate, ..options.clone() };
        let run = |checkpoints: Option<&Checkpoints>, stop: usize| {
            finetune(&decoder, &samples, &options, &mut steerer(1.0), checkpoints, |step| {
                if step.step == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .expect("training")
        };
        let (straight, whole) = run(None, usize::MAX);
        assert_eq!(bits(&run(None, usize::MAX).0), bits(&straight), "two runs differ");
        let folder = tempfile::tempdir().expect("a folder");
        let checkpoints = Checkpoints { folder: folder.path().join("run"), every: 3 };
        let (_, part) = run(Some(&checkpoints), 4);
        assert_eq!((part.losses.len(), part.stopped), (4, true));
        let (_, part) = run(Some(&checkpoints), 9);
        assert_eq!((part.losses.len(), part.stopped), (9, true));
        let (resumed, report) = run(Some(&checkpoints), usize::MAX);
        assert_eq!(report, whole);
        assert_eq!(bits(&resumed), bits(&straight));
        let mut left: Vec<_> = std::fs::read_dir(&checkpoints.folder)
            .expect("the folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["step-00000015", "step-00000016"]);
        // A finished run is unchanged, and its checkpoint is a model.
        let (again, report) = run(Some(&checkpoints), usize::MAX);
        assert_eq!((bits(&again), report), (bits(&straight), whole.clone()));
        let (_, newest) = checkpoints.newest().expect("a folder").expect("a checkpoint");
        let model = CausalLm::from_folder(newest, &Device::flex(), DType::F32).expect("a model");
        assert_eq!(bits(model.decoder()), bits(&straight));
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_the_difference() {
    let folder = tempfile::tempdir().expect("a folder");
    let given = options(5);
    let mut trainer = Trainer::new(&small(), given.clone()).expect("a trainer").with_data("chains");
    trainer.step(&chains()[..5], &mut NoHook).expect("a step");
    let saved = trainer.save(folder.path()).expect("a checkpoint");
    let resume = |decoder: &Decoder, options: &TrainOptions, data: &str| {
        Trainer::resume(decoder, options.clone(), folder.path(), Some(data), &mut NoHook)
    };
    assert_eq!(resume(&small(), &given, "chains").expect("the same run").steps_done(), 1);
    let wrong = |result: Result<Trainer, Error>| match result {
        Err(Error::Run(RunError::OtherRun { what, saved, given, .. })) => format!("{what}: {saved}, {given}"),
        other => panic!("{other:?}"),
    };
    let changed = TrainOptions { learning_rate: 0.1 + 0.2, ..given.clone() };
    assert_eq!(wrong(resume(&small(), &changed, "chains")), "learning_rate: 0.003, 0.30000000000000004");
    assert_eq!(wrong(resume(&small(), &given, "others")), "data: chains, others");
    assert_eq!(wrong(resume(&golden("llama"), &given, "chains")), "d_model: 32, 48");

    let damaged = |file: &str, content: &[u8]| {
        let whole = std::fs::read(saved.join(file)).expect("the file");
        std::fs::write(saved.join(file), content).expect("a writable folder");
        let error = resume(&small(), &given, "chains").expect_err("refused");
        std::fs::write(saved.join(file), whole).expect("a writable folder");
        error
    };
    assert!(matches!(damaged("state.json", b"{}"), Error::DamagedCheckpoint { .. }));
    assert!(matches!(damaged("optimizer.safetensors", b"{}"), Error::DamagedCheckpoint { .. }));
    assert!(matches!(damaged("model.safetensors", b"{}"), Error::Model(_)));
    assert!(matches!(
        Trainer::resume(&small(), given, folder.path().join("none"), None, &mut NoHook),
        Err(Error::NoCheckpoint { .. })
    ));
}

#[test]
fn hooks_act_in_training_and_pass_gradients() {
    let mut losses = Vec::new();
    for strength in [0.0, 2.0] {
        let mut trainer = Trainer::new(&small(), options(5)).expect("a trainer");
        let mut hook = steerer(strength);
        for _ in 0..3 {
            let report = trainer.step(&chains()[..5], &mut hook).expect("a step");
            losses.push((report.loss, report.grad_norm));
        }
        hook.finish().expect("it fired");
    }
    assert_ne!(losses[0], losses[3]);
    let mut plain = Trainer::new(&small(), options(5)).expect("a trainer");
    let report = plain.step(&chains()[..5], &mut NoHook).expect("a step");
    assert!((report.loss - losses[0].0).abs() < 1e-6, "coefficient 0 changes nothing");
    // A model that a hook does not fit is refused before anything runs.
    let narrow = Direction { layer: Layer::hidden_state(1), values: vec![1.0; 31], mean_residual_norm: None };
    let mut narrow = Steerer::new().add(&narrow, Coefficient::Raw(1.0), Positions::All).expect("a direction");
    assert!(matches!(plain.step(&chains()[..5], &mut narrow), Err(Error::Hook(_))));
    let answers: Vec<Sample> = vec![Sample::new(vec![1, 2, 3], vec![false, true, true]).expect("a sample")];
    let first = Direction { layer: Layer::hidden_state(0), values: vec![1.0; 32], mean_residual_norm: None };
    let mut fits = Steerer::new().add(&first, Coefficient::Raw(1.0), Positions::Response).expect("a direction");
    finetune(&small(), &answers, &options(5), &mut fits, None, |_| ControlFlow::Continue(())).expect("it fired");
}

/// A hook with which no forward pass succeeds.
struct Explode;

impl Hook for Explode {
    fn name(&self) -> String {
        "explode".to_owned()
    }

    fn layers(&self) -> LayerSet {
        LayerSet::All
    }

    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, _context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        residual * f32::INFINITY
    }
}

#[test]
fn invalid_samples_are_refused() {
    let decoder = small();
    let mut trainer = Trainer::new(&decoder, options(5)).expect("a trainer");
    assert!(matches!(trainer.step(&[], &mut NoHook), Err(Error::NoSamples { step: 1 })));
    let beyond = Sample::new(vec![1, 40], vec![false, true]).expect("a sample");
    let error = trainer.step(&[chains()[0].clone(), beyond], &mut NoHook).expect_err("refused");
    assert!(matches!(error, Error::TokenOutOfRange { step: 1, sample: 1, id: 40, vocab: 40 }), "{error}");
    let epochs = TrainOptions { duration: Duration::Epochs(1), ..options(5) };
    assert!(matches!(Trainer::new(&decoder, epochs), Err(Error::BadOption { name: "duration", .. })));
    let before = bits(&trainer.decoder());
    let error = trainer.step(&chains()[..5], &mut Explode).expect_err("no number");
    assert!(matches!(error, Error::BadLoss { step: 1, .. }), "{error}");
    assert_eq!((bits(&trainer.decoder()), trainer.steps_done()), (before, 0));
    let folder = tempfile::tempdir().expect("a folder");
    decoder.save(folder.path(), DType::F16).expect("a writable folder");
    let half = Decoder::from_folder(folder.path(), &Device::flex(), DType::F16).expect("a model");
    assert!(matches!(Trainer::new(&half, options(5)), Err(Error::Dtype { .. })));
}

/// The tokenizer and the template of a model.
fn encoder(folder: &Path) -> (Tokenizer, ChatTemplate, Vec<u32>) {
    let tokenizer = Tokenizer::from_folder(folder).expect("a tokenizer");
    (tokenizer, ChatTemplate::from_folder(folder).expect("a template"), eos_ids(folder).expect("stop ids"))
}

#[test]
fn only_answers_and_their_end_tokens_are_trained() {
    let (tokenizer, template, stop) = encoder(&smollm2());
    let conversation = Conversation::new([
        Message::user("Say hi. <|im_start|>"),
        Message::assistant("Hi!"),
        Message::user("Hi!"),
        // An empty answer is not trained.
        Message::assistant(""),
        Message::user("And now?"),
        Message::assistant("Two words\n"),
    ]);
    let encode = |turns, max_length| {
        let options = EncodeOptions { turns, max_length, ..EncodeOptions::default() };
        Sample::encode(&tokenizer, &template, &stop, &conversation, &options)
    };
    let text = |sample: &Sample| -> String {
        let marked = sample.ids().iter().zip(sample.trained()).filter(|(_, trained)| **trained);
        tokenizer.decode(&marked.map(|(id, _)| *id).collect::<Vec<_>>(), false).expect("text")
    };
    let all = encode(TrainedTurns::All, 1000).expect("a sample");
    assert_eq!(text(&all), "Hi!<|im_end|>Two words\n<|im_end|>");
    assert_eq!(tokenizer.decode(&all.ids()[all.response()], false).expect("text"), "Two words\n");
    let last = encode(TrainedTurns::Last, 1000).expect("a sample");
    assert_eq!(text(&last), "Two words\n<|im_end|>");
    assert_eq!((last.ids(), last.response()), (all.ids(), all.response()));
    assert_eq!(text(&encode(TrainedTurns::From(1), 1000).expect("a sample")), "Two words\n<|im_end|>");
    assert!(matches!(encode(TrainedTurns::From(3), 1000), Err(Error::NothingTrained { .. })));
    let cut = all.response().start;
    assert_eq!(text(&encode(TrainedTurns::All, cut).expect("a sample")), "Hi!<|im_end|>");
    assert!(matches!(encode(TrainedTurns::Last, cut), Err(Error::NothingTrained { .. })));
    let none = Sample::encode(&tokenizer, &template, &[], &conversation, &EncodeOptions::default());
    assert!(matches!(none, Err(Error::NoEndOfTurn { index: 1, closing }) if closing.starts_with("<|im_end|>")));
}

/// Gradients in half precision equal those of single precision, with any number of tokens in a step.
#[test]
fn gradients_in_half_precision_do_not_underflow() {
    let single = small();
    let folder = tempfile::tempdir().expect("a folder");
    single.save(folder.path(), DType::F16).expect("a writable folder");
    let load = |dtype| Decoder::from_folder(folder.path(), &Device::flex(), dtype).expect("a model");
    let sample = |i: usize| {
        let ids = (0..51).map(|at| ((at * at + i * 7 + at * i) % 40) as u32).collect();
        Sample::new(ids, (0..51).map(|at| at > 0).collect()).expect("a sample")
    };
    let samples: Vec<Sample> = (0..2000).map(sample).collect();
    assert_eq!(samples.iter().map(Sample::trained_count).sum::<usize>(), 100_000);
    for activation_checkpointing in [false, true] {
        let step = |dtype| {
            let adapter = Some(pv_model::LoraConfig { rank: 4, ..pv_model::LoraConfig::default() });
            let options =
                TrainOptions { batch_size: 64, max_grad_norm: None, activation_checkpointing, adapter, ..options(1) };
            let mut trainer = Trainer::new(&load(dtype), options).expect("a trainer");
            let report = trainer.step(&samples, &mut NoHook).expect("a step");
            (report.grad_norm, report.loss)
        };
        let ((expected, loss), (found, half_loss)) = (step(DType::F32), step(DType::F16));
        assert!((found / expected - 1.0).abs() < 0.02, "{found}, but {expected} in single precision");
        assert!((half_loss - loss).abs() < 0.01, "{half_loss}, not {loss}");
    }
}
