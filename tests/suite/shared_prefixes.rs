//! Prompts that share a prefix: it is computed once, and nothing else changes.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use burn::tensor::{DType, Device, Tensor};
use ndarray::Array2;
use pv_hooks::{Capture, Hook, HookError, Layer, LayerSet, ModelShape, NoHook, Recorder, ResidualContext};
use pv_model::continuations::{Continuations, ScoreOptions};
use pv_model::decoder::to_f32;
use pv_model::generate::{Event, Generation};
use pv_model::weights::WeightType;
use pv_model::{CausalLm, GenerateOptions, LoadOptions, Request, Sampling};
use pv_steer::monitor::{Monitor, Watch};
use pv_steer::{Coefficient, Mixture, Positions, Steerer};
use pv_tests::root;
use pv_vectors::Direction;

/// Kinds of attention (short windows in gemma3 and mixtral) and of feed-forward parts, and a model whose attention has no
/// kernel of ours (gemma2).
const MODELS: [&str; 8] = ["llama", "qwen3", "qwen2", "gemma2", "gemma3", "glm4", "qwen3-moe", "mixtral"];

/// The same hook, for which nothing is shared.
struct Alone<H>(H);

impl<H: Hook> Hook for Alone<H> {
    fn name(&self) -> String {
        self.0.name()
    }

    fn layers(&self) -> LayerSet {
        self.0.layers()
    }

    fn wants(&self, layer: Layer) -> bool {
        self.0.wants(layer)
    }

    fn validate(&self, shape: &ModelShape) -> Result<(), HookError> {
        self.0.validate(shape)
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        self.0.on_residual(context, residual)
    }

    fn shares_prefix(&self, _sequences: &[usize]) -> bool {
        false
    }

    fn finish(&mut self) -> Result<(), HookError> {
        self.0.finish()
    }
}

fn load(name: &str) -> CausalLm {
    CausalLm::from_folder(root().join("tests/golden").join(name), &Device::flex(), DType::F32).expect("a model folder")
}

fn direction(layer: usize) -> Direction {
    let values = (0..48).map(|i| ((i * i) as f32 * 0.7).sin()).collect();
    Direction { layer: Layer::hidden_state(layer), values, mean_residual_norm: Some(3.0) }
}

fn steerer(positions: Positions) -> Steerer {
    let steerer = Steerer::new().add(&direction(1), Coefficient::Raw(0.8), positions).expect("a direction");
    steerer.cap(&direction(2), 0.1, positions).expect("a direction")
}

fn tokens(seed: usize, len: usize) -> impl Iterator<Item = u32> {
    (0..len).map(move |i| ((i * 31 + seed * 97 + i * i * seed) % 90 + 3) as u32)
}

/// Twenty questions after a system prompt.
fn questions(system: usize) -> Vec<Request> {
    let question = |i: usize| {
        let prompt = tokens(7, system).chain(tokens(i + 1, 18 + i * 7 % 13)).collect();
        Request::rollouts(prompt, 1 + i % 2, i as u64)
    };
    (0..20).map(question).collect()
}

fn sampled(batch_size: usize) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: 10,
        sampling: Sampling::temperature(1.0),
        batch_size,
        stop_tokens: Some(vec![11, 12, 13]),
        ..GenerateOptions::default()
    }
}

/// The answers, and the number of prompt tokens computed for them.
fn generate(
    model: &CausalLm,
    requests: &[Request],
    options: &GenerateOptions,
    hook: &mut impl Hook,
) -> (Vec<Generation>, usize) {
    let mut computed = 0;
    let answers = model.generate(requests, options, hook, |event| {
        if let Event::Prefill { tokens, .. } = event {
            computed += tokens;
        }
        ControlFlow::Continue(())
    });
    (answers.expect("answers"), computed)
}

/// Answers with and without sharing, which must be equal; the tokens computed with it and without.
fn compared<H: Hook>(
    model: &CausalLm,
    requests: &[Request],
    options: &GenerateOptions,
    hook: impl Fn() -> H,
) -> (usize, usize) {
    let (shared, computed) = generate(model, requests, options, &mut hook());
    let (alone, all) = generate(model, requests, options, &mut Alone(hook()));
    assert!(shared == alone, "{}: {options:?}", hook().name());
    (computed, all)
}

#[test]
fn a_system_prompt_is_read_once_and_answers_stay_the_same() {
    for name in MODELS {
        let model = load(name);
        // A window has this many tokens, and with experts so does every part of a prompt.
        let experts = model.config().experts.as_ref();
        let least = experts.map_or(17, |experts| 32 * experts.count.div_ceil(experts.per_token) + 1);
        let system = 120.max(2 * least);
        let requests = questions(system);
        for options in [sampled(6), GenerateOptions { prefill_tokens: 500, ..sampled(32) }] {
            let greedy = GenerateOptions { sampling: Sampling::GREEDY, ..options.clone() };
            let separate = GenerateOptions { prefill_tokens: 0, ..options.clone() };
            let plain = compared(&model, &requests, &options, || NoHook);
            let counts = [
                plain,
                compared(&model, &requests, &greedy, || NoHook),
                compared(&model, &requests, &options, || steerer(Positions::Response)),
                compared(&model, &requests, &options, || steerer(Positions::All)),
                compared(&model, &requests, &options, || (steerer(Positions::Prompt), None::<Steerer>)),
            ];
            // The system prompt once, and 20 times at most 12 tokens more than needed, instead of 20 times both.
            for (computed, all) in counts {
                assert!(computed <= system + 20 * (least.max(18) + 12), "{name}: {computed}");
                assert!(all >= 20 * (system + 18), "{name}: {all}");
            }
            // Also where prompts are to have the bits of a pass of their own.
            let (computed, all) = compared(&model, &requests, &separate, || NoHook);
            assert!(computed < all, "{name}: {computed} of {all}");
        }
    }
}

/// Prefixes of several groups, prompts that are alone, equal ones and short ones, in any order.
#[test]
fn answers_do_not_depend_on_sharing_in_random_schedules() {
    let seed = pv_tests::seed(3);
    let mut state = seed | 1;
    // Below a number.
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % below
    };
    let packed = |name: &str, weights| {
        let options = LoadOptions { weights: Some(weights), ..LoadOptions::default() };
        let folder = root().join("tests/golden").join(name);
        CausalLm::from_folder_with(folder, &Device::flex(), DType::F32, &options).expect("a model folder")
    };
    let models = [
        load("qwen3"),
        packed("qwen2", WeightType::Bf16),
        load("gemma3"),
        packed("qwen3", WeightType::Q8),
        load("mixtral"),
    ];
    let mut spared = 0;
    for round in 0..30 {
        let model = &models[round % models.len()];
        let prefixes: Vec<Vec<u32>> = (0..3).map(|i| tokens(i + 40 * round, 20 + random(180)).collect()).collect();
        let mut requests: Vec<Request> = Vec::new();
        for i in 0..2 + random(16) {
            let mut prompt: Vec<u32> = prefixes.get(random(5)).cloned().unwrap_or_default();
            prompt.extend(tokens(500 + i, 1 + random(120)));
            if random(10) == 0
                && let Some(before) = requests.last()
            {
                prompt.clone_from(&before.prompt);
            }
            requests.push(Request::rollouts(prompt, random(4), i as u64));
        }
        let options = GenerateOptions {
            prefill_tokens: [0, 50, 400, 4096][random(4)],
            feed_last_token: random(2) == 0,
            ..sampled(1 + random(8))
        };
        if requests.iter().all(|request| request.seeds.is_empty()) {
            continue;
        }
        let (computed, all) = match round % 3 {
            0 => compared(model, &requests, &options, || NoHook),
            1 => compared(model, &requests, &options, || steerer(Positions::Response)),
            _ => compared(model, &requests, &options, || steerer(Positions::All)),
        };
        spared += all.saturating_sub(computed);
    }
    assert!(spared > 1000, "seed {seed}: only {spared} tokens were spared");
}

#[test]
fn what_is_recorded_and_watched_stays_the_same_to_the_bit() {
    let model = load("qwen3");
    let requests = questions(160);
    let options = GenerateOptions { feed_last_token: true, ..sampled(5) };
    let layers = LayerSet::All.resolve(model.config().layers);
    let means = [Capture::ResponseMean, Capture::ResponseNorm, Capture::PromptLast, Capture::PromptMean];
    let recorded = |captures: &[Capture], alone: bool| {
        let mut recorder = Recorder::new(LayerSet::All, captures.to_vec());
        let (answers, computed) = match alone {
            true => generate(&model, &requests, &options, &mut Alone(&mut recorder)),
            false => generate(&model, &requests, &options, &mut recorder),
        };
        let sequences: Vec<usize> = (0..answers.len()).filter(|&i| !answers[i].tokens.is_empty()).collect();
        let each = captures.iter().filter(|capture| **capture != Capture::Everything);
        let each = each.flat_map(|capture| layers.iter().map(move |layer| (capture, *layer)));
        let values: Vec<Vec<f32>> = each
            .map(|(capture, layer)| {
                to_f32(recorder.get_of(capture, layer, &sequences).expect("recorded")).expect("values")
            })
            .collect();
        (recorder, values, computed)
    };
    let ((_, shared, computed), (_, alone, all)) = (recorded(&means, false), recorded(&means, true));
    assert!(shared == alone && computed * 3 < all, "{computed} of {all}");

    // A recorder of all tokens sees all of them, once.
    let (recorder, _, computed) = recorded(&[Capture::Everything, Capture::PromptMean], false);
    assert_eq!(computed, all);
    for (sequence, request) in requests.iter().flat_map(|request| vec![request; request.seeds.len()]).enumerate() {
        let seen = recorder.tokens(sequence, layers[1]).expect("recorded").dims()[0];
        assert!((request.prompt.len()..=request.prompt.len() + 10).contains(&seen));
    }

    let watched = |prompt_tokens: bool, alone: bool| {
        let monitor = Monitor::new([Watch::new("a", direction(2).unit().expect("a direction"))]).expect("a monitor");
        let mut monitor = if prompt_tokens { monitor.with_prompt_tokens() } else { monitor };
        let readings = monitor.readings();
        let computed = match alone {
            true => generate(&model, &requests, &options, &mut Alone(&mut monitor)).1,
            false => generate(&model, &requests, &options, &mut monitor).1,
        };
        let sequences: usize = requests.iter().map(|request| request.seeds.len()).sum();
        let answers = (0..sequences).map(|i| readings.take(i).expect("readings").expect("a sequence"));
        let values: Vec<Vec<_>> = answers.map(|answer| answer.readings(0).collect()).collect();
        (format!("{values:?}"), computed)
    };
    let (shared, alone) = (watched(false, false), watched(false, true));
    assert!(shared.0 == alone.0 && shared.1 * 3 < alone.1, "{} of {}", shared.1, alone.1);
    assert_eq!(watched(true, false).1, all);
}

/// Without a number of prompt tokens for a pass, prompts share passes and prefixes where that changes no bit: answers and
/// activations are those of each request alone, as when a run resumes with it. A hook that agrees to nothing keeps prompts apart.
#[test]
fn prompts_in_any_company_have_the_bits_of_each_alone() {
    for name in ["llama", "qwen2", "qwen3", "gemma3"] {
        let model = load(name);
        let layers = LayerSet::All.resolve(model.config().layers);
        // Prompts of one token, of fewer and of more tokens than the methods for few rows have, and of the limit of a pass.
        let lengths = [1, 2, 16, 17, 18, 31, 32, 33, 34, 60, 300, 520];
        let own = lengths.iter().enumerate().map(|(i, len)| tokens(i + 30, *len).collect());
        let shared = (0..12).map(|i| tokens(7, 90).chain(tokens(i + 60, 1 + 3 * i)).collect());
        let prompts: Vec<Vec<u32>> = own.chain(shared).collect();
        let requests: Vec<Request> = (0..).zip(prompts).map(|(i, prompt)| Request::new(prompt, i)).collect();
        let run = |requests: &[Request], batch_size: usize, agrees: bool| {
            let captures = [Capture::PromptMean, Capture::PromptLast];
            let mut recorder = Recorder::new(LayerSet::All, captures.clone());
            let options = GenerateOptions { prefill_tokens: 0, ..sampled(batch_size) };
            let watch = Watch::new("a", direction(2).unit().expect("a direction"));
            let monitor = Monitor::new([watch]).expect("a monitor");
            let readings = monitor.readings();
            let hook = (steerer(Positions::All), steerer(Positions::Prompt), monitor, &mut recorder);
            let (answers, passes) = match agrees {
                true => generate(&model, requests, &options, &mut { hook }),
                false => generate(&model, requests, &options, &mut Alone(hook)),
            };
            let values = captures.iter().flat_map(|capture| layers.iter().map(move |layer| (capture, *layer)));
            let values =
                values.map(|(capture, layer)| to_f32(recorder.get(capture, layer).expect("recorded")).expect("values"));
            let values: Vec<Vec<f32>> = values.collect();
            // By sequence.
            let of = |i: usize| {
                let watched = readings.take(i).expect("readings").expect("a sequence");
                let recorded: Vec<_> = values.iter().map(|rows| bits(&rows[i * 48..][..48])).collect();
                (recorded, format!("{:?}", watched.readings(0).collect::<Vec<_>>()))
            };
            let found: Vec<_> = answers.into_iter().enumerate().map(|(i, answer)| (answer, of(i))).collect();
            (found, passes)
        };
        let alone: Vec<_> = requests.iter().flat_map(|one| run(std::slice::from_ref(one), 1, true).0).collect();
        let (apart, all) = run(&requests, 16, false);
        assert!(apart == alone, "{name}: each in its own pass");
        for batch_size in [1, 5, 30] {
            let (together, computed) = run(&requests, batch_size, true);
            assert!(together == alone, "{name}: batches of {batch_size}");
            // The numbers contain padding, of which a prompt alone has none.
            assert!(batch_size > 1 || computed + 10 * 90 < all, "{name}: {computed} of {all}");
        }
        let (rest, _) = run(&requests[17..], 16, true);
        assert!(rest == alone[17..], "{name}: the last ones");
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Mixtures share a prefix that they do not act on, or on which all its sequences have the same.
#[test]
fn a_mixture_shares_what_it_treats_alike() {
    let model = load("qwen3");
    let requests = questions(160);
    let answers: usize = requests.iter().map(|request| request.seeds.len()).sum();
    for (positions, alike, shares) in [
        (Positions::Response, false, true),
        (Positions::ResponseFrom(0), false, true),
        (Positions::All, true, true),
        (Positions::All, false, false),
    ] {
        let rows = Array2::from_shape_fn((answers, 1), |(row, _)| {
            Coefficient::Raw(if alike { 0.7 } else { (row % 3) as f32 * 0.4 })
        });
        // Every request has one row, so that the answers of a request do not conflict.
        let of = |row: usize| row.min(requests.len() - 1);
        let rows = Array2::from_shape_fn((requests.len(), 1), |(row, _)| rows[[of(row), 0]]);
        let mixture = || Mixture::for_requests(&[direction(1)], rows.view(), &requests, positions).expect("a mixture");
        let (computed, all) = compared(&model, &requests, &sampled(7), mixture);
        assert_eq!(computed < all, shares, "{positions:?}");
    }
}

/// Changes at a prefix reach an answer's first token through keys and values that a clean cache does not have.
#[test]
fn a_clean_cache_shares_nothing_under_a_hook() {
    let model = load("qwen3");
    let requests = questions(160);
    let options = GenerateOptions { clean_cache: true, ..sampled(7) };
    let (computed, all) = compared(&model, &requests, &options, || steerer(Positions::All));
    assert_eq!(computed, all);
    let (computed, all) = compared(&model, &requests, &options, || NoHook);
    assert!(computed * 3 < all);
}

#[test]
fn prompts_across_the_limit_of_longrope_are_read_whole() {
    // With a limit of 128 tokens, as shorter prompts have too few tokens to be read in two.
    let (from, folder) = (root().join("tests/golden/phi3-longrope"), tempfile::tempdir().expect("a folder"));
    let config = std::fs::read_to_string(from.join("config.json")).expect("a config");
    let name = "\"original_max_position_embeddings\": ";
    assert!(config.contains(&format!("{name}64")));
    let config = config.replace(&format!("{name}64"), &format!("{name}128"));
    std::fs::write(folder.path().join("config.json"), config).expect("a config");
    std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).expect("weights");
    let model = CausalLm::from_folder(folder.path(), &Device::flex(), DType::F32).expect("a model folder");
    assert_eq!(model.config().rotary_limit(), Some(128));
    let prompt = |i: usize, len: usize| tokens(7, 80).chain(tokens(i, len)).map(|token| token % 90).collect();
    let requests: Vec<Request> = (0..8).map(|i| Request::new(prompt(i, if i < 4 { 40 } else { 57 }), 0)).collect();
    let options = GenerateOptions { max_new_tokens: 3, stop_tokens: Some(vec![]), ..GenerateOptions::default() };
    let (computed, all) = compared(&model, &requests, &options, || NoHook);
    assert!(computed < all, "those of 120 tokens share");
}

/// The prefixes of many groups, whose prompts take turns, do not stay in memory together.
#[test]
fn few_prefixes_are_kept() {
    let model = load("llama");
    let prompt = |i: usize, group: usize| tokens(group, 150).chain(tokens(i + 60, 40)).collect();
    let requests: Vec<Request> =
        (0..3).flat_map(|i| (0..40).map(move |group| Request::new(prompt(i, group), 0))).collect();
    let options = GenerateOptions { max_new_tokens: 1, ..sampled(1) };
    let (computed, all) = compared(&model, &requests, &options, || NoHook);
    assert_eq!(all, 120 * 190);
    // 27 prefixes fit into 4096 tokens, and every group comes back after 39 others: its prefix is computed again. The last
    // prompts of the 27 groups that are still kept at their turn compute the rest only.
    assert_eq!(computed, 2 * 40 * 190 + 13 * 190 + 27 * 40);
    let larger = GenerateOptions { prefill_tokens: 10_000, ..options };
    let (computed, _) = compared(&model, &requests, &larger, || NoHook);
    assert_eq!(computed, 40 * 150 + 120 * 40);
    let distinct: BTreeSet<&[u32]> = requests.iter().map(|request| &request.prompt[..150]).collect();
    assert_eq!(distinct.len(), 40);
}

/// Counts tokens, with or without agreement to share.
struct Count {
    shares: bool,
    tokens: usize,
}

impl Hook for Count {
    fn name(&self) -> String {
        "count".to_owned()
    }

    fn layers(&self) -> LayerSet {
        Layer::EMBEDDINGS.into()
    }

    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        let rows = context.spans.rows().iter();
        self.tokens += rows.map(|row| context.spans.seq() - row.padding).sum::<usize>();
        residual
    }

    fn shares_prefix(&self, _sequences: &[usize]) -> bool {
        self.shares
    }
}

#[test]
fn scores_of_continuations_do_not_depend_on_sharing() {
    for name in ["llama", "gemma3", "mixtral", "mistral-window"] {
        let model = load(name);
        let examples: Vec<u32> = tokens(7, 120).collect();
        let questions: Vec<Vec<u32>> = (0..12).map(|i| tokens(i + 1, 70 + i * 7 % 13).collect()).collect();
        let whole: Vec<Vec<u32>> = questions.iter().map(|question| [examples.as_slice(), question].concat()).collect();
        let continuations = vec![vec![5], vec![5, 6], vec![7, 8, 9], vec![]];
        let options = ScoreOptions { batch_size: 5, ..ScoreOptions::default() };
        let score = |beginning: &[u32], prompts: &[Vec<u32>], shares: bool| {
            let asked: Vec<_> =
                prompts.iter().map(|prompt| Continuations { prompt, continuations: &continuations }).collect();
            let (mut hook, mut scores) = (Count { shares, tokens: 0 }, vec![Vec::new(); prompts.len()]);
            let scored = model.score_continuations_after(beginning, &asked, &options, &mut hook, |scored| {
                scores[scored.prompt] = scored.log_probs;
                ControlFlow::Continue(())
            });
            scored.expect("scores");
            (scores, hook.tokens)
        };
        let (alone, all) = score(&[], &whole, false);
        let (shared, computed) = score(&[], &whole, true);
        let (after, as_many) = score(&examples, &questions, true);
        assert!(alone == shared && alone == after, "{name}");
        assert_eq!(computed, as_many);
        assert!(computed + 10 * 120 < all, "{name}: {computed} of {all}");
        // A hook that does not agree sees every token of the prompts once, and those of the beginning once.
        let (_, once) = score(&examples, &questions, false);
        assert!(once + 11 * 120 == all, "{name}: {once} of {all}");
    }
}
