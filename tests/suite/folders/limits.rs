//! Null values, models that are too large, and unbounded input.

use std::ffi::OsStr;
use std::io::Write;
use std::ops::ControlFlow;

use pv_hooks::{HookError, NoHook};
use pv_model::batch::Batch;
use pv_model::continuations::{Continuations, ScoreOptions};
use pv_model::generate::FinishReason;
use pv_model::{GenerateOptions, LoadOptions, Request, Sampling};
use pv_tests::{measured_apart, peak_memory, tell_bytes};

use super::*;

fn read(folder: &Path, file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(file)).expect("a file")).expect("JSON")
}

#[test]
fn null_values_count_as_absent() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&organism(), folder.path());
    let whole = load(folder.path()).expect("the model");
    let mut config = read(folder.path(), "config.json");
    for key in
        ["rope_scaling", "quantization_config", "dtype", "torch_dtype", "text_config", "eos_token_id", "pad_token_id"]
    {
        config[key] = Value::Null;
    }
    write(folder.path(), "config.json", &config);
    let mut tokens = read(folder.path(), "tokenizer_config.json");
    for key in
        ["unk_token", "added_tokens_decoder", "extra_special_tokens", "chat_template", "additional_special_tokens"]
    {
        tokens[key] = Value::Null;
    }
    write(folder.path(), "tokenizer_config.json", &tokens);
    write(folder.path(), "special_tokens_map.json", &json!({ "eos_token": null }));
    write(folder.path(), "generation_config.json", &json!({ "eos_token_id": null }));
    // A weights header with null metadata, as some writers produce.
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).expect("weights");
    for metadata in [json!(null), json!({ "format": "pt", "step": null })] {
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
        header["__metadata__"] = metadata;
        let header = header.to_string();
        let changed = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..]].concat();
        std::fs::write(&path, changed).expect("a writable folder");
        let model = load(folder.path()).expect("the same model");
        assert_eq!(model.stop_ids(), [2], "the tokenizer's own");
        assert_eq!(model.config().rope, whole.config().rope);
    }
}

#[test]
fn a_stop_token_that_the_model_lacks_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&organism(), folder.path());
    write(folder.path(), "generation_config.json", &json!({ "eos_token_id": [2, 128_009] }));
    let error = load(folder.path()).expect_err("no such token");
    assert!(matches!(error, Error::StopTokenOutOfRange { id: 128_009, .. }), "{error}");
}

/// A folder whose weights are hundreds of gigabytes of zeros, in a sparse file.
#[test]
fn a_model_that_is_too_large_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let huge = json!({ "hidden_size": 8192, "vocab_size": 8_000_000, "intermediate_size": 8192, "num_attention_heads": 64,
        "num_key_value_heads": 64, "num_hidden_layers": 200 });
    let huge = config(&huge);
    write(folder.path(), "config.json", &huge.to_json().expect("it can be said"));
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for tensor in huge.expected_tensors() {
        let start = end;
        end += tensor.shape.iter().product::<usize>() * 2;
        header.insert(tensor.name, json!({ "dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, end] }));
    }
    let header = Value::Object(header).to_string();
    let mut file = std::fs::File::create(folder.path().join("model.safetensors")).expect("a file");
    file.write_all(&(header.len() as u64).to_le_bytes())
        .and_then(|()| file.write_all(header.as_bytes()))
        .expect("a file");
    file.set_len((8 + header.len() + end) as u64).expect("a file with holes");
    let error = load(folder.path()).expect_err("no machine has so much");
    let Error::NotEnoughMemory { needed, available, .. } = &error else { panic!("{error}") };
    // Matrices stay in 16 bits; norms are in f32.
    let tensors = huge.expected_tensors();
    let bytes = tensors.iter().map(|t| t.shape.iter().product::<usize>() * if t.shape.len() == 2 { 2 } else { 4 });
    assert_eq!(*needed, bytes.sum::<usize>() as u64);
    assert!(*available < *needed && error.to_string().contains("GiB"), "{error}");
    println!("{error}");
    // The check can be disabled.
    let ignoring = LoadOptions { ignore_memory: true, ..LoadOptions::default() };
    assert!(CausalLm::from_folder_with(organism(), &Device::flex(), DType::F32, &ignoring).is_ok());
}

#[test]
fn an_answer_without_a_limit_ends_at_the_last_position() {
    let model = model(&json!({}));
    let run = |max_new_tokens: usize, prompts: &[Vec<u32>]| {
        let options = GenerateOptions { max_new_tokens, stop_tokens: Some(vec![]), ..GenerateOptions::default() };
        let requests: Vec<_> = prompts.iter().map(|prompt| Request::new(prompt.clone(), 1)).collect();
        model.generate(&requests, &options, &mut NoHook, |_| ControlFlow::Continue(())).expect("answers")
    };
    let prompts = [vec![1, 2, 3], vec![4; 40]];
    for answer in run(usize::MAX, &prompts) {
        assert_eq!((answer.tokens.len(), answer.finish), (64, FinishReason::Length));
    }
    assert_eq!(run(usize::MAX, &prompts), run(64, &prompts));
    assert!(run(5, &prompts).iter().all(|answer| answer.tokens.len() == 5));
}

#[test]
fn impossible_input_is_refused() {
    let model = model(&json!({}));
    let batch = |prompts: &[&[u32]], sequences: Vec<Vec<usize>>| Batch::prompts(prompts, sequences).map(drop);
    let bad = |row| Err(HookError::BadSpans { row, reason: "" });
    let rows = |found: Result<(), HookError>| {
        found.map_err(|error| match error {
            HookError::BadSpans { row, .. } => HookError::BadSpans { row, reason: "" },
            other => other,
        })
    };
    assert_eq!(rows(batch(&[&[1], &[2]], vec![vec![0]])), bad(1));
    assert_eq!(rows(batch(&[&[1]], vec![vec![0], vec![1]])), bad(1));
    assert_eq!(rows(batch(&[&[1], &[]], vec![vec![0], vec![1]])), bad(1));
    assert_eq!(rows(batch(&[&[1], &[2]], vec![vec![0], vec![]])), bad(1));
    assert_eq!(rows(batch(&[&[1], &[2]], vec![vec![0], vec![1]])), Ok(()));

    let generate = |prompt: Vec<u32>, sampling: Sampling| {
        let options = GenerateOptions { sampling, max_new_tokens: 2, ..GenerateOptions::default() };
        model.generate(&[Request::new(prompt, 0)], &options, &mut NoHook, |_| ControlFlow::Continue(()))
    };
    assert!(matches!(generate(vec![], Sampling::GREEDY), Err(Error::EmptyPrompt { index: 0 })));
    assert!(matches!(generate(vec![1, 60], Sampling::GREEDY), Err(Error::TokenOutOfRange { id: 60, vocab: 60 })));
    assert!(matches!(generate(vec![u32::MAX], Sampling::GREEDY), Err(Error::TokenOutOfRange { .. })));
    for sampling in [
        Sampling::temperature(f32::NAN),
        Sampling::temperature(-1.0),
        Sampling::temperature(f32::INFINITY),
        Sampling { top_p: f32::NAN, ..Sampling::temperature(1.0) },
        Sampling { top_p: 0.0, ..Sampling::temperature(1.0) },
        Sampling { top_k: Some(0), ..Sampling::temperature(1.0) },
        Sampling { repetition_penalty: f32::NAN, ..Sampling::GREEDY },
        Sampling { repetition_penalty: 0.0, ..Sampling::GREEDY },
    ] {
        assert!(matches!(generate(vec![1], sampling.clone()), Err(Error::BadOption { .. })), "{sampling:?}");
    }
    assert!(generate(vec![1], Sampling { top_k: Some(usize::MAX), ..Sampling::temperature(1.0) }).is_ok());
    let score = |prompt: &[u32], continuations: &[Vec<u32>]| {
        let asked = [Continuations { prompt, continuations }];
        model.score_continuations(&asked, &ScoreOptions::default(), &mut NoHook, |_| ControlFlow::Continue(()))
    };
    assert!(matches!(score(&[], &[vec![1]]), Err(Error::EmptyPrompt { index: 0 })));
    assert!(matches!(score(&[1], &[vec![60]]), Err(Error::TokenOutOfRange { .. })));
}

const CHILD: &str = "PV_CONTINUATION_MEMORY";

/// In a process of its own: scores one long continuation, whose cache takes 20 MB, and three that share 200 of their tokens.
fn child() {
    let model = model(
        &json!({ "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 128, "max_position_embeddings": 512 }),
    );
    let long: Vec<u32> = (0..300).map(|i| (i * 7 % 60) as u32).collect();
    let branched: Vec<Vec<u32>> = (0..3).map(|i| [&long[..200], &[i, i + 1, 5]].concat()).collect();
    let before = peak_memory();
    for continuations in [vec![long.clone()], branched] {
        let asked = [Continuations { prompt: &[1, 2, 3], continuations: &continuations }];
        let mut lengths = Vec::new();
        let scored = model.score_continuations(&asked, &ScoreOptions::default(), &mut NoHook, |scored| {
            lengths.extend(scored.log_probs.iter().map(Vec::len));
            ControlFlow::Continue(())
        });
        scored.expect("scores");
        assert_eq!(lengths, continuations.iter().map(Vec::len).collect::<Vec<_>>());
    }
    tell_bytes(peak_memory() - before);
}

#[test]
fn a_long_continuation_takes_one_cache() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let taken = measured_apart("folders::limits::a_long_continuation_takes_one_cache", &[(CHILD, OsStr::new("1"))]);
    println!("300 tokens took {} MB", taken >> 20);
    assert!(taken < 200 << 20, "{taken} bytes");
}
