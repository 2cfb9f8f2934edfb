//! Properties that hold for all weights.

use std::ops::ControlFlow;

use burn::tensor::{DType, Device};
use pv_hooks::{Capture, Hook, HookError, Layer, LayerSet, NoHook, Recorder};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::generate::{Event, FinishReason, Generation};
use pv_model::tokenizer::TokenizerError;
use pv_model::weights::WeightType;
use pv_model::{CausalLm, Error, GenerateOptions, LoadOptions, Request, Sampling};
use pv_steer::error::SteeringError;
use pv_steer::{Coefficient, Positions, Steerer};
use pv_tests::{compare, free_graphs, root};
use pv_vectors::Direction;

/// A model with per-head norms; one with tied output and attention biases; those with operations of their own.
const MODELS: [&str; 8] = ["qwen3", "qwen2", "gemma2", "gemma3", "glm4", "qwen3-moe", "mixtral", "gpt-oss"];

fn load(name: &str, device: &Device) -> CausalLm {
    CausalLm::from_folder(root().join("tests/golden").join(name), device, DType::F32).expect("a model folder")
}

/// The CPU's kernels, its kernels with gradients, and the portable operations of all other backends.
fn devices() -> [Device; 3] {
    [Device::flex(), Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()]
}

fn every(check: impl Fn(&CausalLm)) {
    let [kernels, gradients, portable] = devices();
    for (i, name) in MODELS.iter().enumerate() {
        check(&load(name, &kernels));
        // With autodiff, Burn keeps every operation until the graph is freed, slowly: each model on one of them.
        let device = if i % 2 == 0 { &gradients } else { &portable };
        check(&load(name, device));
        free_graphs(device);
    }
    let weights = [
        WeightType::Bf16,
        WeightType::Q8,
        WeightType::Q8,
        WeightType::Bf16,
        WeightType::Q4,
        WeightType::Q8,
        WeightType::Bf16,
        WeightType::Q8,
    ];
    for (name, weights) in MODELS.iter().zip(weights) {
        let options = LoadOptions { weights: Some(weights), ..LoadOptions::default() };
        let folder = root().join("tests/golden").join(name);
        check(&CausalLm::from_folder_with(folder, &Device::flex(), DType::F32, &options).expect("a model folder"));
    }
}

fn prompt(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 31 + seed * 97 + 3) % 320).collect()
}

/// Prompts of different lengths.
fn prompts() -> Vec<Vec<u32>> {
    [5, 11, 3, 8, 1, 17, 9].into_iter().enumerate().map(|(i, len)| prompt(i as u32, len)).collect()
}

/// Prompts of different lengths for generations, and the sizes of batches: fewer on a device with autodiff.
fn rows(model: &CausalLm) -> (Vec<Vec<u32>>, &'static [usize]) {
    match model.decoder().device().is_autodiff() {
        false => (prompts(), &[1, 2, 3, 64]),
        true => (prompts()[..4].to_vec(), &[3]),
    }
}

fn direction(layer: usize, scale: f32) -> Direction {
    let values = (0..48).map(|i| ((i * i) as f32 * 0.7).sin() * scale).collect();
    Direction { layer: Layer::hidden_state(layer), values, mean_residual_norm: Some(3.0) }
}

fn logits(model: &CausalLm, ids: &[u32], hook: &mut impl Hook) -> Vec<f32> {
    let batch = Batch::whole(&[Sequence { prompt: ids, ..Sequence::default() }]).expect("a sequence");
    let options = ForwardOptions { stop_at: None, logits: Logits::All };
    let output = model.forward(&batch, options, hook).expect("a pass");
    to_f32(output.logits.expect("asked for")).expect("values")
}

fn sampled(batch_size: usize) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: 12,
        sampling: Sampling::temperature(1.0),
        batch_size,
        ..GenerateOptions::default()
    }
}

fn generate(
    model: &CausalLm,
    requests: &[Request],
    options: &GenerateOptions,
    hook: &mut impl Hook,
) -> Vec<Generation> {
    model.generate(requests, options, hook, |_| ControlFlow::Continue(())).expect("answers")
}

#[test]
fn coefficient_zero_changes_nothing_bit_for_bit() {
    every(|model| {
        let ids = prompt(1, 14);
        let zero =
            || Steerer::new().add(&direction(2, 1.0), Coefficient::Raw(0.0), Positions::All).expect("a direction");
        assert_eq!(logits(model, &ids, &mut zero()), logits(model, &ids, &mut NoHook));
        let requests = [Request::rollouts(ids, 3, 5)];
        let options = sampled(2);
        assert_eq!(
            generate(model, &requests, &options, &mut zero()),
            generate(model, &requests, &options, &mut NoHook)
        );
    });
}

#[test]
fn adding_and_subtracting_is_the_identity() {
    every(|model| {
        let ids = prompt(2, 14);
        let add = |c| Steerer::new().add(&direction(1, 2.0), Coefficient::Raw(c), Positions::All).expect("a direction");
        let there_and_back = logits(model, &ids, &mut (add(1.5), add(-1.5)));
        let plain = logits(model, &ids, &mut NoHook);
        let found = compare("+c −c", &there_and_back, &plain);
        assert!(found.max_abs <= 1e-4, "{found}");
        // And steering alone changes the result.
        let moved = compare("+c", &logits(model, &ids, &mut add(1.5)), &plain);
        assert!(moved.max_abs > 1e-2, "{moved}");
    });
}

#[test]
fn coefficients_in_residual_norms_equal_raw_coefficients() {
    let v = direction(2, 1.0);
    let raw = Coefficient::ResidualNorms(0.5).raw(&v).expect("a known norm");
    let length = f64::from(raw) * v.norm();
    assert!((length - 1.5).abs() < 1e-5, "half of the mean residual norm 3 is not {length}");
    let unknown = Direction { mean_residual_norm: None, ..v };
    assert!(matches!(
        Coefficient::ResidualNorms(0.5).raw(&unknown),
        Err(pv_steer::Error::Steering(SteeringError::NoResidualNorm { .. }))
    ));
}

#[test]
fn cached_decoding_equals_the_full_pass() {
    every(|model| {
        let request = Request::new(prompt(3, 9), 0);
        let options = GenerateOptions { max_new_tokens: 20, stop_tokens: Some(vec![]), ..GenerateOptions::default() };
        for positions in [None, Some(Positions::Response), Some(Positions::Prompt), Some(Positions::All)] {
            let steerer = || {
                positions
                    .map(|p| Steerer::new().add(&direction(2, 1.0), Coefficient::Raw(1.0), p).expect("a direction"))
            };
            let answer = generate(model, std::slice::from_ref(&request), &options, &mut steerer()).remove(0).tokens;
            assert_eq!(answer.len(), 20);
            // Teacher-forced, the same tokens have the greatest logits.
            let batch = Batch::whole(&[Sequence { prompt: &request.prompt, response: &answer, rest: &[] }]);
            let output = model.forward(
                &batch.expect("a sequence"),
                ForwardOptions { stop_at: None, logits: Logits::All },
                &mut steerer(),
            );
            let all = to_f32(output.expect("a pass").logits.expect("asked for")).expect("values");
            let rows: Vec<&[f32]> = all.chunks(model.config().vocab).collect();
            for (i, &token) in answer.iter().enumerate() {
                let row = rows[request.prompt.len() - 1 + i];
                let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert!(best - row[token as usize] <= 1e-4, "{positions:?}: token {i} is not the most likely one");
            }
        }
    });
}

#[test]
fn an_answer_does_not_depend_on_its_batch() {
    every(|model| {
        let (prompts, sizes) = rows(model);
        let requests: Vec<Request> =
            prompts.into_iter().enumerate().map(|(i, prompt)| Request::new(prompt, i as u64)).collect();
        let alone: Vec<Generation> = requests
            .iter()
            .map(|request| generate(model, std::slice::from_ref(request), &sampled(1), &mut NoHook).remove(0))
            .collect();
        // One batch of all, and small ones that rows leave and join.
        for &batch_size in sizes {
            assert_eq!(generate(model, &requests, &sampled(batch_size), &mut NoHook), alone, "batch {batch_size}");
        }
        // Prompts in several prefill passes.
        let options = GenerateOptions { prefill_tokens: 20, ..sampled(4) };
        assert_eq!(generate(model, &requests, &options, &mut NoHook), alone);
        let steerer =
            || Steerer::new().add(&direction(1, 1.0), Coefficient::Raw(0.7), Positions::Response).expect("a direction");
        let alone: Vec<Generation> = requests
            .iter()
            .map(|request| generate(model, std::slice::from_ref(request), &sampled(1), &mut steerer()).remove(0))
            .collect();
        assert_eq!(generate(model, &requests, &sampled(3), &mut steerer()), alone);
    });
}

#[test]
fn rows_of_very_different_lengths_equal_those_alone() {
    every(|model| {
        // More tokens than are multiplied in place, which gives other last bits.
        let prompts: Vec<Vec<u32>> =
            [150, 33, 40, 35, 150, 64].into_iter().zip(0..).map(|(n, i)| prompt(i, n)).collect();
        let rows: Vec<_> = prompts.iter().map(|prompt| Sequence { prompt, ..Sequence::default() }).collect();
        let residual = |rows: &[Sequence<'_>]| {
            let batch = Batch::whole(rows).expect("a batch");
            let options = ForwardOptions { stop_at: None, logits: Logits::None };
            let residual = model.forward(&batch, options, &mut NoHook).expect("a pass").residual;
            to_f32(batch.without_padding(residual)).expect("values")
        };
        let together = residual(&rows);
        let mut together = &together[..];
        // The portable operations, and experts, whose last bits depend on the number of tokens, are compared up to rounding.
        let (config, on_kernels) = (model.config(), !model.decoder().device().is_autodiff());
        let exact = on_kernels && config.experts.is_none();
        for row in rows {
            let alone = residual(&[row]);
            let (own, rest) = together.split_at(alone.len());
            let most = alone.iter().fold(0f32, |most, value| most.max(value.abs()));
            let gap = compare("together", own, &alone).max_abs / most;
            let allowed = if exact { 0.0 } else { 1e-4 };
            let tokens = row.prompt.len();
            assert!(gap <= allowed, "{}: {tokens} tokens differ by {gap}", model.config().model_type);
            together = rest;
        }
    });
}

#[test]
fn rollouts_that_share_a_prompt_equal_separate_ones() {
    every(|model| {
        let (prompts, sizes) = rows(model);
        let shared: Vec<Request> = prompts.into_iter().map(|prompt| Request::rollouts(prompt, 5, 40)).collect();
        let separate: Vec<Request> = shared
            .iter()
            .flat_map(|request| request.seeds.iter().map(|&seed| Request::new(request.prompt.clone(), seed)))
            .collect();
        let reference = generate(model, &separate, &sampled(1), &mut NoHook);
        for &batch_size in sizes {
            assert_eq!(generate(model, &shared, &sampled(batch_size), &mut NoHook), reference, "batch {batch_size}");
        }
        let distinct: std::collections::BTreeSet<_> = reference[..5].iter().map(|answer| &answer.tokens).collect();
        assert!(distinct.len() > 1, "seeds make no difference");
    });
}

#[test]
fn activations_recorded_while_generating_equal_those_of_a_full_pass() {
    every(|model| {
        let captures = [Capture::ResponseMean, Capture::PromptMean, Capture::PromptLast];
        let mut recorder = Recorder::new(LayerSet::All, captures.clone());
        let requests: Vec<Request> =
            prompts().into_iter().enumerate().map(|(i, p)| Request::rollouts(p, 2, i as u64)).collect();
        let options = GenerateOptions { stop_tokens: Some(vec![]), ..sampled(3) };
        let answers = generate(model, &requests, &options, &mut recorder);
        for (sequence, answer) in answers.iter().enumerate() {
            // The last token was never an input.
            let response = &answer.tokens[..answer.tokens.len() - 1];
            let prompt = &requests[sequence / 2].prompt;
            let batch = Batch::whole(&[Sequence { prompt, response, rest: &[] }]).expect("a sequence");
            let mut full = Recorder::new(LayerSet::All, captures.clone());
            model.forward(&batch, ForwardOptions::default(), &mut full).expect("a pass");
            for capture in &captures {
                for layer in LayerSet::All.resolve(model.config().layers) {
                    let ours = to_f32(recorder.get(capture, layer).expect("recorded")).expect("values");
                    let reference = to_f32(full.get(capture, layer).expect("recorded")).expect("values");
                    let what = format!("{capture:?} of sequence {sequence} at {layer}");
                    let found = compare(what, &ours[sequence * 48..][..48], &reference);
                    assert!(found.max_abs <= 1e-4, "{found}");
                }
            }
        }
    });
}

#[test]
fn stopping_at_a_layer_gives_the_layer_of_a_full_pass() {
    every(|model| {
        let rows = prompts();
        let sequences: Vec<_> = rows.iter().map(|ids| Sequence { prompt: ids, ..Sequence::default() }).collect();
        let batch = Batch::whole(&sequences).expect("sequences");
        let mut full = Recorder::new(LayerSet::All, [Capture::PromptMean]);
        model.forward(&batch, ForwardOptions::default(), &mut full).expect("a pass");
        for layer in LayerSet::All.resolve(model.config().layers) {
            let mut stopped = Recorder::new(layer, [Capture::PromptMean]);
            let options = ForwardOptions { stop_at: Some(layer), logits: Logits::All };
            let output = model.forward(&batch, options, &mut stopped).expect("a pass");
            assert!(output.logits.is_none(), "logits of a stopped pass");
            let values = |recorder: &Recorder| {
                to_f32(recorder.get(&Capture::PromptMean, layer).expect("recorded")).expect("values")
            };
            assert_eq!(values(&stopped), values(&full), "{layer}");
        }
    });
}

#[test]
fn a_planted_direction_is_found_again() {
    every(|model| {
        let v = direction(3, 1.0);
        let mut steerer = Steerer::new().add(&v, Coefficient::Raw(2.0), Positions::All).expect("a direction");
        let ids = prompt(9, 12);
        let recorded = |hook: &mut dyn Hook| {
            let batch = Batch::whole(&[Sequence { prompt: &ids[..4], response: &ids[4..], rest: &[] }]);
            let mut recorder = Recorder::new(v.layer, [Capture::ResponseMean]);
            let mut both = (hook, &mut recorder);
            model.forward(&batch.expect("a sequence"), ForwardOptions::default(), &mut both).expect("a pass");
            to_f32(recorder.get(&Capture::ResponseMean, v.layer).expect("recorded")).expect("values")
        };
        let mut ablate = Steerer::new().ablate(&v, Positions::All).expect("a direction");
        let (plain, steered, ablated) = (recorded(&mut NoHook), recorded(&mut steerer), recorded(&mut ablate));
        let difference: Vec<f32> = steered.iter().zip(&plain).map(|(a, b)| a - b).collect();
        let cosine = pv_vectors::projection::cosine(&difference, &v).expect("a direction");
        assert!(cosine > 0.9999, "cosine {cosine}");
        let left = pv_vectors::projection::projection(&ablated, &v).expect("a direction");
        assert!(left.abs() < 1e-4, "after ablation {left} is left");
    });
}

#[test]
fn invalid_input_is_refused_before_anything_runs() {
    let model = load("llama", &Device::flex());
    let refuse = |steerer: Steerer| {
        let mut steerer = steerer;
        let request = Request::new(vec![1, 2, 3], 0);
        let result = model.generate(&[request], &sampled(1), &mut steerer, |_| panic!("it ran"));
        match result {
            Err(Error::Hook(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let add = |v: &Direction| Steerer::new().add(v, Coefficient::Raw(1.0), Positions::All).expect("a direction");
    assert!(matches!(refuse(add(&direction(5, 1.0))), HookError::LayerOutOfRange { .. }));
    let narrow = Direction { values: vec![1.0; 47], ..direction(2, 1.0) };
    assert!(matches!(refuse(add(&narrow)), HookError::WidthMismatch { expected: 48, found: 47, .. }));
    assert!(matches!(refuse(Steerer::new()), HookError::NoLayers { .. }));
    assert!(Steerer::new().add(&direction(1, 0.0), Coefficient::Raw(1.0), Positions::All).is_err());
    assert!(Steerer::new().add(&direction(1, 1.0), Coefficient::Raw(f32::NAN), Positions::All).is_err());

    let batch = Batch::whole(&[Sequence { prompt: &[1, 2], ..Sequence::default() }]).expect("a sequence");
    let below = ForwardOptions { stop_at: Some(Layer::hidden_state(1)), logits: Logits::None };
    let late = model.forward(&batch, below, &mut add(&direction(2, 1.0)));
    assert!(matches!(late, Err(Error::Hook(HookError::LayerAfterStop { .. }))));
    let mut recorder = Recorder::new(LayerSet::All, [Capture::ResponseMean]);
    let idle = model.forward(&batch, ForwardOptions::default(), &mut recorder);
    assert!(matches!(idle, Err(Error::Hook(HookError::NeverFired { .. }))), "a prompt has no response tokens");

    let run = |request: Request, options: &GenerateOptions| {
        model.generate(&[request], options, &mut NoHook, |_| ControlFlow::Continue(())).expect_err("refused")
    };
    let fine = sampled(1);
    assert!(matches!(run(Request::new(vec![320], 0), &fine), Error::TokenOutOfRange { id: 320, vocab: 320 }));
    assert!(matches!(run(Request::new(vec![], 0), &fine), Error::EmptyPrompt { index: 0 }));
    for bad in [
        GenerateOptions { max_new_tokens: 0, ..sampled(1) },
        sampled(0),
        GenerateOptions { sampling: Sampling::temperature(-1.0), ..sampled(1) },
        GenerateOptions { sampling: Sampling { top_p: 0.0, ..Sampling::GREEDY }, ..sampled(1) },
        GenerateOptions { stop_strings: vec![String::new()], ..sampled(1) },
    ] {
        assert!(matches!(run(Request::new(vec![1], 0), &bad), Error::BadOption { .. }), "{bad:?}");
    }
    let text = GenerateOptions { stop_strings: vec!["x".into()], ..sampled(1) };
    assert!(matches!(run(Request::new(vec![1], 0), &text), Error::Tokenizer(TokenizerError::NotFound { .. })));
    assert!(matches!(refuse(add(&direction(2, 1e19))), HookError::BadVector { .. }), "norms would overflow");
}

#[test]
fn answers_across_the_limit_of_longrope_are_refused() {
    let model = load("phi3-longrope", &Device::flex());
    assert_eq!(model.config().rotary_limit(), Some(64));
    let run = |tokens: u32, max_new_tokens: usize| {
        let request = Request::new((0..tokens).map(|i| 3 + i % 90).collect(), 0);
        let options = GenerateOptions { max_new_tokens, stop_tokens: Some(vec![]), ..GenerateOptions::default() };
        model.generate(&[request], &options, &mut NoHook, |_| ControlFlow::Continue(()))
    };
    assert!(matches!(run(60, 5), Err(Error::RotaryLimit { index: 0, tokens: 60, needed: 65, limit: 64 })));
    for (tokens, new) in [(60, 4), (65, 3)] {
        assert_eq!(run(tokens, new).expect("an answer")[0].tokens.len(), new);
    }
}

#[test]
fn an_interrupted_generation_returns_its_answers() {
    let model = load("llama", &Device::flex());
    let requests: Vec<Request> = prompts().into_iter().map(|prompt| Request::new(prompt, 1)).collect();
    let options = GenerateOptions { stop_tokens: Some(vec![]), ..sampled(2) };
    let mut left = 9;
    let answers = model.generate(&requests, &options, &mut NoHook, |event| {
        left -= i32::from(matches!(event, Event::Token { .. }));
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let answers = answers.expect("a cancelled run is not an error");
    assert_eq!(answers.len(), requests.len());
    assert!(answers.iter().all(|answer| answer.finish == FinishReason::Cancelled));
    assert!(answers.iter().map(|answer| answer.tokens.len()).sum::<usize>() >= 9);
}

#[test]
fn threads_share_a_model() {
    let model = load("qwen3", &Device::flex());
    let requests = [Request::rollouts(prompt(4, 10), 4, 0)];
    let reference = generate(&model, &requests, &sampled(4), &mut NoHook);
    std::thread::scope(|scope| {
        let runs: Vec<_> =
            (0..4).map(|_| scope.spawn(|| generate(&model, &requests, &sampled(4), &mut NoHook))).collect();
        for run in runs {
            assert_eq!(run.join().expect("a thread"), reference);
        }
    });
}
