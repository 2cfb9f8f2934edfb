//! Steering that does not change the KV cache.

mod drift;

use std::ops::ControlFlow;

use burn::tensor::{DType, Device, Tensor, TensorData};
use pv_hooks::{Capture, Hook, HookError, Layer, LayerSet, ModelShape, NoHook, Recorder, ResidualContext};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::generate::Generation;
use pv_model::{CausalLm, GenerateOptions, Request, Sampling};
use pv_steer::{Coefficient, Positions, Ramp, Steerer};
use pv_tests::{compare, free_graphs, root};
use pv_vectors::Direction;

fn every(check: impl Fn(&CausalLm)) {
    for device in [Device::flex(), Device::flex().autodiff()] {
        for name in ["llama", "qwen3"] {
            let folder = root().join("tests/golden").join(name);
            check(&CausalLm::from_folder(folder, &device, DType::F32).expect("a model folder"));
            free_graphs(&device);
        }
    }
}

fn ids(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 31 + i * i * 7 + seed * 97 + 3) % 320).collect()
}

fn direction(layer: usize) -> Direction {
    let values = (0..48).map(|i| ((i * i) as f32 * 0.7 + 1.0).sin()).collect();
    Direction { layer: Layer::hidden_state(layer), values, mean_residual_norm: None }
}

fn adding(layer: usize, coefficient: f32, positions: Positions) -> Steerer {
    Steerer::new().add(&direction(layer), Coefficient::Raw(coefficient), positions).expect("a direction")
}

fn options(clean_cache: bool) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: 12,
        sampling: Sampling::temperature(1.0),
        stop_tokens: Some(Vec::new()),
        clean_cache,
        ..GenerateOptions::default()
    }
}

fn generate(
    model: &CausalLm,
    requests: &[Request],
    options: &GenerateOptions,
    hook: &mut (impl Hook + ?Sized),
) -> Vec<Generation> {
    model.generate(requests, options, hook, |_| ControlFlow::Continue(())).expect("answers")
}

fn everything() -> Recorder {
    Recorder::new(LayerSet::All, [Capture::Everything])
}

/// One sequence's residuals at a layer, by token.
fn tokens(recorder: &Recorder, sequence: usize, layer: Layer) -> Vec<Vec<f32>> {
    let rows = recorder.tokens(sequence, layer).expect("recorded");
    let width = rows.dims()[1];
    to_f32(rows).expect("numbers").chunks(width).map(<[f32]>::to_vec).collect()
}

fn layers(model: &CausalLm) -> Vec<Layer> {
    LayerSet::All.resolve(model.shape().blocks)
}

/// Restricts another hook to the window's last position.
struct LastOnly<H>(H);

impl<H: Hook> Hook for LastOnly<H> {
    fn name(&self) -> String {
        "last position".to_owned()
    }

    fn layers(&self) -> LayerSet {
        self.0.layers()
    }

    fn validate(&self, shape: &ModelShape) -> Result<(), HookError> {
        self.0.validate(shape)
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        let [batch, seq, width] = residual.dims();
        let changed = self.0.on_residual(context, residual.clone()).slice([0..batch, seq - 1..seq, 0..width]);
        residual.slice_assign([0..batch, seq - 1..seq, 0..width], changed)
    }
}

/// Replaces the last layer's residuals by those of another run, so that this run chooses the same tokens; lower layers and the
/// cache are unchanged. For one sequence.
struct Replay {
    last: Layer,
    residuals: Vec<Vec<f32>>,
}

impl Hook for Replay {
    fn name(&self) -> String {
        "replay".to_owned()
    }

    fn layers(&self) -> LayerSet {
        self.last.into()
    }

    fn validate(&self, _: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        let (row, shape) = (&context.spans.rows()[0], residual.dims());
        assert_eq!((shape[0], row.padding), (1, 0), "one sequence alone");
        let values = self.residuals[row.offset..row.offset + shape[1]].concat();
        Tensor::from_data(TensorData::new(values, shape), (&residual.device(), DType::F32))
    }
}

/// A run of one sequence: its tokens, and its residuals at each layer.
struct Ran {
    answer: Vec<u32>,
    residuals: Vec<Vec<Vec<f32>>>,
}

fn record(model: &CausalLm, prompt: &[u32], options: &GenerateOptions, hook: &mut dyn Hook) -> Ran {
    let mut recorder = everything();
    let request = Request::new(prompt.to_vec(), 5);
    let answer = generate(model, &[request], options, &mut (hook, &mut recorder)).remove(0).tokens;
    let residuals = layers(model).into_iter().map(|layer| tokens(&recorder, 0, layer)).collect();
    Ran { answer, residuals }
}

/// Like [`record`], but with the tokens of another run.
fn replay(model: &CausalLm, prompt: &[u32], options: &GenerateOptions, hook: &mut dyn Hook, of: &Ran) -> Ran {
    let last = model.shape().last_layer();
    let mut replay = Replay { last, residuals: of.residuals[last.index()].clone() };
    let mut recorder = everything();
    let request = Request::new(prompt.to_vec(), 5);
    // The recorder comes first, so it records the model's own residuals.
    let hook = &mut (hook, &mut recorder, &mut replay);
    let answer = generate(model, &[request], options, hook).remove(0).tokens;
    assert_eq!(answer, of.answer, "the tokens are not those of the other run");
    let residuals = layers(model).into_iter().map(|layer| tokens(&recorder, 0, layer)).collect();
    Ran { answer, residuals }
}

#[test]
fn without_changes_it_equals_ordinary_generation_bit_for_bit() {
    every(|model| {
        let prompt = ids(1, 11);
        let ordinary = record(model, &prompt, &options(false), &mut NoHook);
        let zero = &mut adding(2, 0.0, Positions::All);
        for ran in [record(model, &prompt, &options(true), &mut NoHook), record(model, &prompt, &options(true), zero)] {
            assert_eq!(ran.answer, ordinary.answer);
            assert_eq!(ran.residuals, ordinary.residuals);
        }
        let requests = [Request::rollouts(prompt.clone(), 3, 5), Request::new(ids(2, 4), 1)];
        assert_eq!(
            generate(model, &requests, &options(true), &mut NoHook),
            generate(model, &requests, &options(false), &mut NoHook)
        );
        // A change after the last block does not reach the cache.
        let last = model.shape().last_layer().index();
        let steered = |clean| record(model, &prompt, &options(clean), &mut adding(last, 3.0, Positions::All));
        let (clean, dirty) = (steered(true), steered(false));
        assert_eq!((&clean.answer, &clean.residuals), (&dirty.answer, &dirty.residuals));
        assert_ne!(clean.residuals, ordinary.residuals);
    });
}

/// Compares the logits of every step with a pass over all tokens so far in which only the last one is changed.
fn check_steps(
    model: &CausalLm,
    prompt: &[u32],
    options: &GenerateOptions,
    first: usize,
    mut steerer: impl FnMut(Positions) -> Steerer,
    positions: Positions,
) -> (f32, f32) {
    let ran = record(model, prompt, options, &mut steerer(positions));
    let last = model.shape().last_layer().index();
    let rows = &ran.residuals[last];
    assert_eq!(rows.len(), prompt.len() + ran.answer.len() - 1);
    let (mut gap, mut effect) = (0f32, 0f32);
    for step in 0..ran.answer.len() {
        let row = &rows[prompt.len() - 1 + step];
        let residual = TensorData::new(row.clone(), [1, 1, row.len()]);
        let residual = Tensor::from_data(residual, (&model.decoder().device(), DType::F32));
        let ours = to_f32(model.decoder().logits(residual)).expect("numbers");
        let batch = Batch::whole(&[Sequence { prompt, response: &ran.answer[..step], rest: &[] }]).expect("tokens");
        let pass = |hook: &mut dyn Hook| {
            let options = ForwardOptions { stop_at: None, logits: Logits::Last };
            to_f32(model.forward(&batch, options, hook).expect("a pass").logits.expect("asked for")).expect("numbers")
        };
        let expected = match step < first {
            true => pass(&mut NoHook),
            false => pass(&mut LastOnly(steerer(Positions::All))),
        };
        gap = gap.max(compare(format!("step {step}"), &ours, &expected).max_abs);
        if step > first {
            effect = effect.max(compare("everywhere", &ours, &pass(&mut steerer(Positions::All))).max_abs);
        }
    }
    (gap, effect)
}

#[test]
fn every_step_equals_a_pass_with_only_the_last_token_changed() {
    every(|model| {
        let v = direction(2);
        let added = |positions| adding(2, 1.5, positions);
        let several = |positions| {
            let early = Steerer::new().add(&direction(1), Coefficient::Raw(1.0), positions).expect("a direction");
            early.ablate(&v, positions).expect("a direction")
        };
        // A token is chosen from the logits of the token before it: response token 0 chooses token 1.
        for (positions, first) in
            [(Positions::Response, 0), (Positions::ResponseFrom(0), 1), (Positions::ResponseFrom(3), 4)]
        {
            for (gap, effect) in [
                check_steps(model, &ids(3, 9), &options(true), first, added, positions),
                check_steps(model, &ids(4, 5), &options(true), first, several, positions),
            ] {
                assert!(gap <= 1e-4, "{positions:?}: off by {gap}");
                assert!(effect > 1e-2, "{positions:?}: steering everything differs by {effect} only");
            }
            // Ordinary generation differs.
            let (gap, _) = check_steps(model, &ids(3, 9), &options(false), first, added, positions);
            assert!(gap > 1e-2, "{positions:?}: ordinary generation differs by {gap} only");
        }
    });
}

#[test]
fn after_steering_ends_only_its_tokens_remain() {
    every(|model| {
        let (prompt, over) = (ids(5, 8), 4);
        let fading = || {
            let ramp = Ramp { from: Coefficient::Raw(4.0), to: Coefficient::Raw(0.0), over };
            Steerer::new().add(&direction(1), ramp, Positions::Response).expect("a direction")
        };
        let steered = record(model, &prompt, &options(true), &mut fading());
        let clean = replay(model, &prompt, &options(true), &mut fading(), &steered);
        let dirty = replay(model, &prompt, &options(false), &mut fading(), &steered);
        let never = replay(model, &prompt, &options(false), &mut NoHook, &steered);
        let end = prompt.len() - 1 + over;
        for layer in 0..never.residuals.len() {
            assert_eq!(clean.residuals[layer][end..], never.residuals[layer][end..], "layer {layer}");
        }
        let last = never.residuals.len() - 1;
        let trace = compare("trace", &dirty.residuals[last][end..].concat(), &never.residuals[last][end..].concat());
        assert!(trace.max_abs > 1e-2, "the ordinary cache keeps a trace: {trace}");
        assert_ne!(clean.residuals[1][end - 1], never.residuals[1][end - 1], "it has not steered");
    });
}

#[test]
fn steering_the_prompt_changes_only_the_first_token() {
    every(|model| {
        let prompt = ids(6, 10);
        let all = record(model, &prompt, &options(true), &mut adding(1, 1.5, Positions::All));
        let response = replay(model, &prompt, &options(true), &mut adding(1, 1.5, Positions::Response), &all);
        let last = model.shape().last_layer().index();
        let n = prompt.len();
        assert_eq!(all.residuals[last][n..], response.residuals[last][n..]);
        assert_ne!(all.residuals[last][n - 1], response.residuals[last][n - 1]);
    });
}

#[test]
fn answers_depend_neither_on_the_batch_nor_on_shared_prompts() {
    every(|model| {
        let sampled = |batch_size| GenerateOptions {
            stop_tokens: Some((0..40).collect()),
            feed_last_token: true,
            batch_size,
            ..options(true)
        };
        let shared: Vec<Request> =
            [5, 11, 3, 8].iter().enumerate().map(|(i, n)| Request::rollouts(ids(i as u32, *n), 3, 40)).collect();
        let separate: Vec<Request> = shared
            .iter()
            .flat_map(|request| request.seeds.iter().map(|&seed| Request::new(request.prompt.clone(), seed)))
            .collect();
        let captures = [Capture::PromptMean, Capture::ResponseMean];
        let run = |requests: &[Request], batch_size| {
            let mut recorder = Recorder::new(LayerSet::All, captures.clone());
            let hook = &mut (adding(2, 1.5, Positions::Response), &mut recorder);
            (generate(model, requests, &sampled(batch_size), hook), recorder)
        };
        let alone: Vec<Generation> =
            separate.iter().map(|request| run(std::slice::from_ref(request), 1).0.remove(0)).collect();
        let lengths: std::collections::BTreeSet<usize> = alone.iter().map(|answer| answer.tokens.len()).collect();
        assert!(lengths.len() > 2, "rows leave and join at different times: {lengths:?}");
        for (requests, batch_size) in [(&separate, 1), (&separate, 5), (&shared, 1), (&shared, 2), (&shared, 16)] {
            let (answers, recorder) = run(requests, batch_size);
            assert_eq!(answers, alone, "batch {batch_size}");
            // Every token was seen once.
            let prompts: Vec<usize> = separate.iter().map(|request| request.prompt.len()).collect();
            let responses: Vec<usize> = alone.iter().map(|answer| answer.tokens.len()).collect();
            for layer in layers(model) {
                assert_eq!(recorder.counts(&captures[0], layer).into_values().collect::<Vec<_>>(), prompts);
                let counts = recorder.counts(&captures[1], layer);
                let known = |i: usize| counts.get(&i).copied().unwrap_or(0);
                assert_eq!((0..responses.len()).map(known).collect::<Vec<_>>(), responses);
            }
        }
        let ordinary = GenerateOptions { clean_cache: false, ..sampled(5) };
        let ordinary = generate(model, &separate, &ordinary, &mut adding(2, 1.5, Positions::Response));
        assert_ne!(ordinary, alone, "it makes no difference");
    });
}
