//! Interventions on the residual stream: each compared with its equation, and properties that hold for all weights.

mod control;
mod equations;
mod gradients;
mod identities;
mod mixture;
mod refusals;
mod span;
mod spec;

use std::ops::ControlFlow;

use burn::tensor::{DType, Device};
use pv_hooks::{Capture, Hook, Layer, LayerSet, Recorder};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::to_f32;
use pv_model::generate::Generation;
use pv_model::{CausalLm, GenerateOptions, Request, Sampling};
use pv_tests::{free_graphs, root};
use pv_vectors::Direction;

const WIDTH: usize = 48;
const BLOCKS: usize = 4;

fn load(name: &str, device: &Device) -> CausalLm {
    CausalLm::from_folder(root().join("tests/golden").join(name), device, DType::F32).expect("a model folder")
}

/// Two models, each with the CPU kernels and with the portable operations of all other backends.
fn every(check: impl Fn(&CausalLm)) {
    for device in [Device::flex(), Device::flex().autodiff()] {
        for name in ["llama", "qwen3"] {
            check(&load(name, &device));
            free_graphs(&device);
        }
    }
}

fn ids(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 31 + i * i * 7 + seed * 97 + 3) % 320).collect()
}

fn direction(layer: usize, seed: usize, scale: f32) -> Direction {
    // The frequency depends on the seed: with phases alone, all vectors would lie in one plane.
    let wave = |i: usize| ((i * i) as f32 * (0.7 + 0.11 * seed as f32) + seed as f32).sin();
    let values = (0..WIDTH).map(|i| wave(i) * scale).collect();
    Direction { layer: Layer::hidden_state(layer), values, mean_residual_norm: Some(3.0) }
}

/// The input of a model: whole sequences in one left-padded batch, or a generation.
#[derive(Clone, Copy, Debug)]
enum Run {
    Full,
    Generation,
}

const PROMPTS: [usize; 4] = [5, 11, 3, 8];
const RESPONSES: [usize; 4] = [6, 2, 9, 4];

fn generating(batch_size: usize) -> GenerateOptions {
    // One token in eight ends an answer, so that rows leave and join the batch.
    GenerateOptions {
        max_new_tokens: 9,
        sampling: Sampling::temperature(1.0),
        stop_tokens: Some((0..40).collect()),
        batch_size,
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

fn rollouts() -> Vec<Request> {
    PROMPTS.iter().enumerate().map(|(i, len)| Request::rollouts(ids(i as u32, *len), 2, 7 * i as u64)).collect()
}

/// One sequence of a run.
#[derive(Debug)]
struct Ran {
    prompt: usize,
    response: usize,
    /// The tokens' residuals at every layer, `[tokens × WIDTH]`.
    residuals: Vec<Vec<f32>>,
}

fn everything() -> Recorder {
    Recorder::new(LayerSet::All, [Capture::Everything])
}

fn read(recorder: &Recorder, spans: &[(usize, usize)]) -> Vec<Ran> {
    let read = |(sequence, (prompt, response)): (usize, &(usize, usize))| {
        let layer = |layer| to_f32(recorder.tokens(sequence, Layer::hidden_state(layer)).expect("recorded"));
        let residuals: Vec<Vec<f32>> = (0..=BLOCKS).map(|index| layer(index).expect("numbers")).collect();
        Ran { prompt: *prompt, response: *response, residuals }
    };
    spans.iter().enumerate().map(read).collect()
}

/// Runs a hook between two recorders: every residual before and after it.
fn around(model: &CausalLm, run: Run, hook: &mut (impl Hook + ?Sized)) -> (Vec<Ran>, Vec<Ran>) {
    let (mut before, mut after) = (everything(), everything());
    let spans: Vec<(usize, usize)> = match run {
        Run::Full => {
            let prompts: Vec<_> = PROMPTS.iter().enumerate().map(|(i, n)| ids(i as u32, *n)).collect();
            let responses: Vec<_> = RESPONSES.iter().enumerate().map(|(i, n)| ids(i as u32 + 50, *n)).collect();
            let each = prompts.iter().zip(&responses);
            let sequences: Vec<_> = each.map(|(prompt, response)| Sequence { prompt, response, rest: &[9] }).collect();
            let batch = Batch::whole(&sequences).expect("sequences");
            model.forward(&batch, ForwardOptions::default(), &mut (&mut before, hook, &mut after)).expect("a pass");
            PROMPTS.into_iter().zip(RESPONSES).collect()
        }
        Run::Generation => {
            let requests = rollouts();
            let hook = &mut (&mut before, hook, &mut after);
            let answers = generate(model, &requests, &generating(3), hook);
            let read = |tokens: usize| tokens.min(generating(3).max_new_tokens - 1);
            let spans = answers.iter().enumerate().map(|(i, answer)| (PROMPTS[i / 2], read(answer.tokens.len())));
            spans.collect()
        }
    };
    (read(&before, &spans), read(&after, &spans))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

fn unit(direction: &Direction) -> Vec<f64> {
    let v = f64s(&direction.values);
    let norm = dot(&v, &v).sqrt();
    v.into_iter().map(|value| value / norm).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The projections of all tokens at a direction's layer.
fn projections(ran: &[Ran], direction: &Direction) -> Vec<f64> {
    let unit = unit(direction);
    let tokens = ran.iter().flat_map(|ran| ran.residuals[direction.layer.index()].chunks(WIDTH));
    tokens.map(|token| dot(&f64s(token), &unit)).collect()
}

/// A threshold with equally many tokens above and below, and none close to it.
fn middle(ran: &[Ran], direction: &Direction) -> f32 {
    let mut all = projections(ran, direction);
    all.sort_by(f64::total_cmp);
    ((all[all.len() / 2 - 1] + all[all.len() / 2]) / 2.0) as f32
}
