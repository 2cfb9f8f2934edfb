//! A KV cache in f16: close to one in f32, and with its properties.

use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::module::Param;
use burn::tensor::{DType, Device};
use pv_hooks::tokens::RowSpans;
use pv_hooks::{NoHook, Phase, TokenSpans};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{KvCache, Logits, Pass, to_f32};
use pv_model::generate::{CacheType, Generation};
use pv_model::{CausalLm, Error, GenerateOptions, Message, Request, Sampling};
use pv_tests::{compare, root};

const MODELS: [&str; 7] = ["llama", "qwen3", "qwen2", "gemma2", "gemma3", "glm4", "mixtral"];

fn load(name: &str, device: &Device, dtype: DType) -> CausalLm {
    CausalLm::from_folder(root().join("tests/golden").join(name), device, dtype).expect("a model folder")
}

fn prompt(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 31 + seed * 97 + 3) % 320).collect()
}

fn sampled(batch_size: usize) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: 12,
        sampling: Sampling::temperature(1.0),
        batch_size,
        cache: CacheType::F16,
        ..GenerateOptions::default()
    }
}

fn generate(model: &CausalLm, requests: &[Request], options: &GenerateOptions) -> Vec<Generation> {
    model.generate(requests, options, &mut NoHook, |_| ControlFlow::Continue(())).expect("answers")
}

/// The logits after every token: of the first ones in one pass, of the others token by token.
fn cached(model: &CausalLm, ids: &[u32], first: usize, dtype: DType) -> Vec<f32> {
    let decoder = model.decoder();
    let mut cache = KvCache::new(decoder.config(), 1, 4, &decoder.device(), dtype);
    let mut logits = Vec::new();
    let mut at = 0;
    while at < ids.len() {
        let (row, phase) = match at {
            0 => (RowSpans::prompt(vec![0], 0, first), Phase::Prefill),
            _ => (RowSpans::generated(0, first, at - first), Phase::Decode),
        };
        let seq = if at == 0 { first } else { 1 };
        let spans = TokenSpans::new(vec![row], seq).expect("spans");
        let pass = Pass { ids: &ids[at..at + seq], spans: &spans, phase, stop_at: None, logits: Logits::All };
        let output = decoder.pass(&pass, Some(&mut cache), &mut NoHook);
        logits.extend(to_f32(output.logits.expect("asked for")).expect("values"));
        cache.check().expect("values within f16");
        at += seq;
    }
    logits
}

fn whole(model: &CausalLm, ids: &[u32]) -> Vec<f32> {
    let batch = Batch::whole(&[Sequence { prompt: ids, ..Sequence::default() }]).expect("a sequence");
    let output = model.forward(&batch, ForwardOptions { stop_at: None, logits: Logits::All }, &mut NoHook);
    to_f32(output.expect("a pass").logits.expect("asked for")).expect("values")
}

/// The greatest difference of logits, relative to the greatest logit.
fn gap(what: &str, found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    compare(what.to_owned(), found, expected).max_abs / largest
}

#[test]
fn decoding_with_a_cache_in_f16_is_close_to_the_full_pass() {
    for device in [Device::flex(), Device::flex().autodiff().gradient_checkpointing()] {
        for name in MODELS {
            let model = load(name, &device, DType::F32);
            let ids = prompt(3, 60);
            let full = whole(&model, &ids);
            let rounded = gap("f16", &cached(&model, &ids, 30, DType::F16), &full);
            let exact = gap("f32", &cached(&model, &ids, 30, DType::F32), &full);
            println!("{name}: {exact:.1e} with f32, {rounded:.1e} with f16");
            assert!(exact < 1e-5 && rounded < 2e-3, "{name}: {exact:.1e}, {rounded:.1e}");
            assert!(rounded > 2.0 * exact, "{name}: the cache is not in f16");
        }
        pv_tests::free_graphs(&device);
    }
}

/// Also with compute types in 16 bits, whose keys and values f16 holds exactly unless they are small.
#[test]
fn a_row_does_not_depend_on_its_batch() {
    for name in MODELS {
        for dtype in [DType::F32, DType::BF16] {
            let model = load(name, &Device::flex(), dtype);
            let lengths = [5, 11, 3, 8, 1, 17, 9, 40];
            let requests: Vec<Request> = lengths
                .iter()
                .enumerate()
                .map(|(i, len)| Request::rollouts(prompt(i as u32, *len), 2, i as u64))
                .collect();
            let alone: Vec<Generation> = requests
                .iter()
                .flat_map(|request| generate(&model, std::slice::from_ref(request), &sampled(1)))
                .collect();
            // Rows leave, join, move along the columns and are trimmed.
            for batch_size in [2, 3, 64] {
                assert_eq!(generate(&model, &requests, &sampled(batch_size)), alone, "{name}, batch {batch_size}");
            }
        }
    }
}

/// A value that the cache cannot hold is an error of the run, not an infinity.
#[test]
fn a_key_beyond_f16_ends_the_run() {
    // With the kernels, and with Burn's tensors.
    for dtype in [DType::F32, DType::BF16] {
        let model = load("qwen2", &Device::flex(), dtype);
        let run = |model: &CausalLm, cache| {
            let options = GenerateOptions { cache, ..sampled(1) };
            model.generate(&[Request::new(prompt(1, 9), 0)], &options, &mut NoHook, |_| ControlFlow::Continue(()))
        };
        let scaled = |factor: f64| {
            let mut decoder = model.decoder().clone();
            let qkv = &mut decoder.blocks[1].qkv;
            qkv.bias = qkv.bias.take().map(|bias| Param::from_tensor(bias.val() * 0.0 + factor));
            model.clone().with_decoder(decoder).expect("the same architecture")
        };
        assert!(run(&scaled(30_000.0), CacheType::F16).is_ok());
        assert!(run(&scaled(70_000.0), CacheType::Compute).is_ok());
        match run(&scaled(70_000.0), CacheType::F16) {
            Err(Error::CacheOverflow { value, limit }) => assert!(value > 65_520.0 && limit == 65_504.0),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn settings_without_the_type_are_those_of_before() {
    let before = serde_json::to_value(GenerateOptions::default()).expect("JSON");
    assert!(before.get("cache").is_none(), "{before}");
    let read: GenerateOptions = serde_json::from_value(before).expect("settings");
    assert_eq!(read.cache, CacheType::Compute);
    let chosen = serde_json::to_value(sampled(1)).expect("JSON");
    assert_eq!(chosen["cache"], "f16");
    assert_eq!(serde_json::from_value::<GenerateOptions>(chosen).expect("settings"), sampled(1));
    for (name, kind) in CacheType::ALL {
        assert_eq!((name.parse(), kind.to_string()), (Ok(kind), name.to_owned()));
    }
    assert!("f32".parse::<CacheType>().is_err());
}

/// A real model's answers, if `PV_SMOLLM2` names its folder.
#[test]
fn smollm2_answers_alike() {
    let Some(folder) = std::env::var_os("PV_SMOLLM2").map(PathBuf::from) else {
        println!("PV_SMOLLM2 names no folder: NOT CHECKED");
        return;
    };
    let model = CausalLm::from_folder(folder, &Device::flex(), DType::F32).expect("SmolLM2");
    let mut prompts = Vec::new();
    for question in ["What is the capital of France?", "How do I boil an egg?", "Why is the sky blue?"] {
        prompts.push(model.prompt(&[Message::user(question)]).expect("a prompt"));
    }
    let requests: Vec<Request> = prompts.into_iter().map(|prompt| Request::new(prompt, 0)).collect();
    let options = |cache| GenerateOptions { max_new_tokens: 48, cache, ..GenerateOptions::default() };
    let (exact, rounded) = (
        generate(&model, &requests, &options(CacheType::Compute)),
        generate(&model, &requests, &options(CacheType::F16)),
    );
    for ((request, exact), rounded) in requests.iter().zip(&exact).zip(&rounded) {
        let common = exact.tokens.iter().zip(&rounded.tokens).take_while(|(a, b)| a == b).count();
        let ids: Vec<u32> = request.prompt.iter().chain(&exact.tokens).copied().collect();
        let full = whole(&model, &ids);
        let gap = gap("f16", &cached(&model, &ids, request.prompt.len(), DType::F16), &full);
        println!("{common} of {} tokens equal, logits to {gap:.1e}: {:?}", exact.tokens.len(), rounded.text);
        assert!(gap < 2e-3, "{gap}");
    }
}
