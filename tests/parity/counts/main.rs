//! What passes cost on a GPU, counted on any adapter: kernels launched, writes to the device, and readbacks. Counts do not
//! depend on the width of a model or on the speed of the device, so that a software adapter shows them. Each has a budget.
//!
//! Run it alone: CubeCL's observer and the log of wgpu are those of the process.
#![cfg(feature = "wgpu")]
#![allow(clippy::print_stdout, reason = "a test shows what it measured")]

mod counter;

use std::ops::ControlFlow;

use burn::tensor::{DType, Device};
use counter::{Counts, Watch};
use pv_hooks::tokens::RowSpans;
use pv_hooks::{Capture, Hook, Layer, LayerSet, NoHook, Phase, Recorder, TokenSpans};
use pv_model::batch::Batch;
use pv_model::causal_lm::ForwardOptions;
use pv_model::config::DecoderConfig;
use pv_model::decoder::{Decoder, KvCache, Logits, Pass, to_f32};
use pv_model::generate::Event;
use pv_model::{CausalLm, GenerateOptions, LoraConfig, Request, Sampling};
use pv_parity::Random;
use pv_steer::{Coefficient, Positions, Steerer};
use pv_train::trainer::Duration;
use pv_train::{Sample, TrainOptions, Trainer};
use pv_vectors::Direction;

/// The blocks of the model; `PV_COUNT_BLOCKS` has another number of them, which have no budgets.
const BLOCKS: usize = 6;
const PROMPT: usize = 16;

/// The greatest numbers of launches, writes and readbacks. Launches are a quarter more than were counted: tuning chooses kernels by
/// their speed, and some need a copy of an argument.
const BUDGETS: [(&str, [usize; 3]); 11] = [
    ("decode 4 rows, the pass alone", [185, 4, 1]),
    ("decode 1 row", [175, 3, 1]),
    ("decode 16 rows", [180, 3, 1]),
    ("decode 64 rows", [180, 3, 1]),
    ("decode 16 rows, top-p", [175, 3, 1]),
    ("decode 16 rows, steered", [181, 3, 1]),
    ("prefill", [240, 5, 1]),
    ("prefill, recorded at all layers", [260, 6, 1]),
    ("prefill, steered", [241, 7, 1]),
    ("LoRA step", [1800, 20, 2]),
    ("LoRA step, checkpointed", [2350, 20, 2]),
];

/// A narrow Qwen2.
fn model(blocks: usize, device: &Device) -> CausalLm {
    let config = serde_json::json!({
        "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": blocks,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 4096,
        "tie_word_embeddings": false, "torch_dtype": "float32",
    });
    let config = DecoderConfig::from_json(&config).expect("a configuration");
    let decoder = Decoder::init(config, 1, device).expect("a decoder");
    CausalLm::new(decoder, None, None, "random")
}

fn ids(random: &mut Random, n: usize) -> Vec<u32> {
    (0..n).map(|_| random.below(256) as u32).collect()
}

/// The cost of a decoded token of every row: the median of a number of steps.
fn decoding(watch: &Watch, model: &CausalLm, rows: usize, sampling: &Sampling, hook: &mut impl Hook) -> Counts {
    let mut random = Random(rows as u64);
    let requests: Vec<Request> = (0..rows).map(|row| Request::new(ids(&mut random, PROMPT), row as u64)).collect();
    let options = GenerateOptions {
        max_new_tokens: 12,
        stop_tokens: Some(vec![]),
        batch_size: rows,
        sampling: sampling.clone(),
        ..GenerateOptions::default()
    };
    let mut steps = Vec::new();
    // Kernels are compiled and tuned in the first run.
    for _ in 0..2 {
        let mut before: Option<Counts> = None;
        steps.clear();
        let each = |event: Event<'_>| {
            if let Event::Token { sequence: 0, .. } = event {
                let now = watch.counts();
                steps.extend(before.replace(now).map(|before| now - before));
            }
            ControlFlow::Continue(())
        };
        model.generate(&requests, &options, hook, each).expect("answers");
    }
    Counts::median(&steps)
}

/// The cost of what `body` does, the second time. With `PV_COUNT_KERNELS`, its kernels are printed.
fn once(watch: &Watch, mut body: impl FnMut()) -> Counts {
    body();
    let (before, kernels) = (watch.counts(), watch.kernels());
    body();
    if std::env::var_os("PV_COUNT_KERNELS").is_some() {
        for (name, count) in watch.kernels() {
            let new = count - kernels.get(name).copied().unwrap_or(0);
            if new > 0 {
                println!("{new:>6} {name}");
            }
        }
    }
    watch.counts() - before
}

/// The cost of a pass that decodes a token of each row, without the choice of the token.
fn decoded_pass(watch: &Watch, model: &CausalLm, rows: usize) -> Counts {
    let decoder = model.decoder();
    let mut cache = KvCache::new(decoder.config(), rows, 64, &decoder.device(), DType::F32);
    let spans = |seq: usize| TokenSpans::new(vec![RowSpans::unused(seq); rows], seq).expect("spans");
    let mut pass = |seq: usize, phase: Phase| {
        let (ids, spans) = (vec![1; rows * seq], spans(seq));
        let pass = Pass { ids: &ids, spans: &spans, phase, stop_at: None, logits: Logits::Last };
        let logits = decoder.pass(&pass, Some(&mut cache), &mut NoHook).logits.expect("asked for");
        to_f32(logits).expect("values");
    };
    pass(PROMPT, Phase::Prefill);
    pass(1, Phase::Decode);
    once(watch, || pass(1, Phase::Decode))
}

fn prefill(watch: &Watch, model: &CausalLm, hook: &mut impl Hook) -> Counts {
    let prompts: Vec<Vec<u32>> = [PROMPT, PROMPT - 3].map(|n| ids(&mut Random(5), n)).into();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let batch = Batch::prompts(&prompts, vec![vec![0], vec![1]]).expect("prompts");
    let options = ForwardOptions { stop_at: None, logits: Logits::Last };
    once(watch, || {
        let logits = model.forward(&batch, options, hook).expect("a pass").logits.expect("asked for");
        to_f32(logits).expect("values");
    })
}

/// A step of LoRA on two samples.
fn training(watch: &Watch, model: &CausalLm, activation_checkpointing: bool) -> Counts {
    let options = TrainOptions {
        batch_size: 2,
        pack_tokens: None,
        activation_checkpointing,
        duration: Duration::Steps(4),
        adapter: Some(LoraConfig { rank: 4, ..LoraConfig::default() }),
        ..TrainOptions::default()
    };
    let mut random = Random(3);
    let mut sample = || Sample::new(ids(&mut random, 24), (0..24).map(|i| i >= 8).collect()).expect("a sample");
    let samples = [sample(), sample()];
    let mut trainer = Trainer::new(model.decoder(), options).expect("a trainer");
    once(watch, || {
        trainer.step(&samples, &mut NoHook).expect("a step");
    })
}

#[test]
fn wgpu_counts_are_within_their_budgets() {
    let device = pv_model::device("wgpu").expect("an adapter");
    assert!(device.supports_dtype(DType::F32));
    let watch = Watch::start();
    let blocks = std::env::var("PV_COUNT_BLOCKS").map_or(BLOCKS, |number| number.parse().expect("a number of blocks"));
    let model = model(blocks, &device);
    let direction = |layer: usize| Direction {
        layer: Layer::hidden_state(layer),
        values: (0..64).map(|i| (i as f32 * 0.7 + layer as f32).sin()).collect(),
        mean_residual_norm: None,
    };
    let steerer = || Steerer::new().add(&direction(3), Coefficient::Raw(1.0), Positions::All).expect("a direction");
    let recorder = || Recorder::new(LayerSet::All, [Capture::PromptLast]);
    let top_p = Sampling { top_p: 0.9, ..Sampling::temperature(1.0) };
    let greedy = Sampling::GREEDY;
    let found = [
        ("decode 4 rows, the pass alone", decoded_pass(&watch, &model, 4)),
        ("decode 1 row", decoding(&watch, &model, 1, &greedy, &mut NoHook)),
        ("decode 16 rows", decoding(&watch, &model, 16, &greedy, &mut NoHook)),
        ("decode 64 rows", decoding(&watch, &model, 64, &greedy, &mut NoHook)),
        ("decode 16 rows, top-p", decoding(&watch, &model, 16, &top_p, &mut NoHook)),
        ("decode 16 rows, steered", decoding(&watch, &model, 16, &greedy, &mut steerer())),
        ("prefill", prefill(&watch, &model, &mut NoHook)),
        ("prefill, recorded at all layers", prefill(&watch, &model, &mut recorder())),
        ("prefill, steered", prefill(&watch, &model, &mut steerer())),
        ("LoRA step", training(&watch, &model, false)),
        ("LoRA step, checkpointed", training(&watch, &model, true)),
    ];
    println!("{:<34} {:>9} {:>8} {:>7} {:>10} {:>8}", "", "launches", "a block", "writes", "readbacks", "submits");
    for (name, counts) in &found {
        let Counts { launches, writes, readbacks, submits } = counts;
        let per_block = *launches as f64 / blocks as f64;
        println!("{name:<34} {launches:>9} {per_block:>8.1} {writes:>7} {readbacks:>10} {submits:>8}");
    }
    if blocks != BLOCKS {
        return;
    }
    let beyond = |(name, counts): &(&str, Counts)| {
        let (_, budget) = BUDGETS.iter().find(|(of, _)| of == name).expect("a budget for each");
        let [launches, writes, readbacks] = *budget;
        let within = counts.launches <= launches && counts.writes <= writes && counts.readbacks <= readbacks;
        (!within).then(|| format!("{name}: {counts:?} for launches, writes and readbacks of {budget:?}"))
    };
    let beyond: Vec<String> = found.iter().filter_map(beyond).collect();
    assert!(beyond.is_empty(), "{}", beyond.join("\n"));
}
