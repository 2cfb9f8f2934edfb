//! A real chat model, compared with transformers.

use std::ops::ControlFlow;

use burn::tensor::DType;
use pv_hooks::{Capture, Hook, Layer, LayerSet, NoHook, Recorder};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::generate::FinishReason;
use pv_model::{CausalLm, GenerateOptions, Message, Request};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_tests::{Golden, compare, root, smollm2};
use pv_vectors::Direction;
use serde_json::Value;

fn model() -> CausalLm {
    CausalLm::from_folder(smollm2(), &pv_model::device("flex").expect("the CPU"), DType::F32).expect("the model")
}

fn golden() -> Golden {
    Golden::open(&root().join("tests/golden/smollm2"))
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("token ids")
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).expect("numbers")
}

fn messages(case: &Value) -> Vec<Message> {
    serde_json::from_value(case["messages"].clone()).expect("messages")
}

fn relative_error(ours: &[f32], reference: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let gap: f64 = ours.iter().zip(reference).map(|(a, b)| square(f64::from(a - b))).sum();
    let size: f64 = reference.iter().map(|b| square(f64::from(*b))).sum();
    (gap / size).sqrt()
}

#[test]
fn prompts_are_rendered_and_encoded_like_in_transformers() {
    let (model, golden) = (model(), golden());
    for case in golden.setting("/cases").as_array().expect("cases") {
        let expected = &ids(&case["token_ids"])[..case["prompt_len"].as_u64().expect("a length") as usize];
        assert_eq!(model.prompt(&messages(case)).expect("a prompt"), expected, "{}", case["prompt_text"]);
    }
}

#[test]
fn activations_match_transformers_at_every_layer() {
    let (model, golden) = (model(), golden());
    let last = model.shape().last_layer();
    let cases = golden.setting("/cases").as_array().expect("cases");
    let all: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["token_ids"])).collect();
    let split = |i: usize| all[i].split_at(cases[i]["prompt_len"].as_u64().expect("a length") as usize);
    let sequences: Vec<_> =
        (0..cases.len()).map(|i| Sequence { prompt: split(i).0, response: split(i).1, rest: &[] }).collect();
    let captures = [Capture::ResponseMean, Capture::PromptMean, Capture::PromptLast, Capture::Everything];
    let mut recorder = Recorder::new(LayerSet::All, captures.clone());
    // One left-padded batch of all four; the references were computed one by one.
    let batch = Batch::whole(&sequences).expect("sequences");
    let options = ForwardOptions { stop_at: None, logits: Logits::Last };
    let output = model.forward(&batch, options, &mut recorder).expect("a pass");

    let names = ["response_avg", "prompt_avg", "prompt_last"];
    let mut worst: f64 = 0.0;
    for (capture, name) in captures.iter().zip(names) {
        for index in 0..last.index() {
            let layer = Layer::hidden_state(index);
            let ours = to_f32(recorder.get(capture, layer).expect("recorded")).expect("values");
            for (row, ours) in ours.chunks(576).enumerate() {
                let reference = &golden.floats(&format!("{row}.{name}"))[index * 576..][..576];
                let error = relative_error(ours, reference);
                worst = worst.max(error);
                assert!(error <= 1e-5, "{name} of case {row} at {layer}: relative error {error:.2e}");
            }
        }
    }
    println!("worst relative error of a mean: {worst:.2e}");

    // Every hidden state of the first case. The file states the reference's own deviation from fp64.
    let reference = golden.floats("0.hidden_states");
    let noise = floats(&cases[0]["max_abs_dev_vs_fp64_per_layer"]);
    for (index, noise) in noise[..last.index()].iter().enumerate() {
        let layer = Layer::hidden_state(index);
        let ours = to_f32(recorder.tokens(0, layer).expect("recorded")).expect("values");
        let found = compare(layer.to_string(), &ours, &reference[index * ours.len()..][..ours.len()]);
        assert!(found.max_abs <= 2e-4 + 3.0 * noise, "{found} (the reference is off by {noise:.1e})");
    }

    let logits = to_f32(output.logits.expect("asked for")).expect("values");
    for (row, ours) in logits.chunks(49152).enumerate() {
        let found = compare(format!("last logits of case {row}"), ours, &golden.floats(&format!("{row}.last_logits")));
        assert!(found.max_abs <= 2e-4, "{found}");
    }
}

/// Greedy tokens are equal up to the first whose lead is less than 1e-3.
fn assert_same_text(what: &str, ours: &[u32], reference: &[u32], margins: Option<&[f32]>) {
    let reference: Vec<u32> = reference.iter().copied().take_while(|&token| token != 2).collect();
    for at in 0..ours.len().max(reference.len()) {
        if ours.get(at) != reference.get(at) {
            let margin = margins.and_then(|margins| margins.get(at).copied());
            assert!(margin.is_some_and(|m| m <= 1e-3), "{what}: token {at} differs, the margin is {margin:?}");
            return;
        }
    }
}

fn answer(model: &CausalLm, prompts: &[Vec<u32>], hook: &mut impl Hook) -> Vec<Vec<u32>> {
    let options = GenerateOptions { max_new_tokens: 40, ..GenerateOptions::default() };
    let requests: Vec<Request> = prompts.iter().map(|prompt| Request::new(prompt.clone(), 0)).collect();
    let answers = model.generate(&requests, &options, hook, |_| ControlFlow::Continue(())).expect("answers");
    answers.into_iter().map(|answer| answer.tokens).collect()
}

#[test]
fn greedy_and_steered_texts_match_transformers() {
    let (model, golden) = (model(), golden());
    let cases = golden.setting("/cases").as_array().expect("cases");
    let prompts: Vec<Vec<u32>> = cases.iter().map(|case| model.prompt(&messages(case)).expect("a prompt")).collect();
    let direction = Direction {
        layer: Layer::after_block(golden.setting("/steer/layer_idx").as_u64().expect("a block") as usize),
        values: golden.floats("steer_vector"),
        mean_residual_norm: None,
    };
    // The four prompts in one left-padded batch; transformers computed them one by one and batched.
    let plain = answer(&model, &prompts, &mut NoHook);
    for (row, case) in cases.iter().enumerate() {
        let margins = floats(&case["greedy_margin"]);
        assert_same_text(&format!("case {row}"), &plain[row], &ids(&case["greedy40"]), Some(&margins));
    }
    for (name, positions) in [("response", Positions::Response), ("prompt", Positions::Prompt), ("all", Positions::All)]
    {
        let mut steerer = Steerer::new().add(&direction, Coefficient::Raw(1.0), positions).expect("a direction");
        let steered = answer(&model, &prompts, &mut steerer);
        for (row, case) in cases.iter().enumerate() {
            let reference = ids(&case["steered_greedy40"][name]);
            assert_same_text(&format!("case {row} steered at {name}"), &steered[row], &reference, None);
        }
    }
}

#[test]
fn streamed_text_is_the_answer_and_stop_strings_end_it() {
    let model = model();
    let prompt = model.prompt(&[Message::user("What is the capital of France?")]).expect("a prompt");
    let run = |options: &GenerateOptions| {
        let mut streamed = String::new();
        let answers = model.generate(&[Request::new(prompt.clone(), 0)], options, &mut NoHook, |event| {
            if let pv_model::generate::Event::Token { text, .. } = event {
                streamed.push_str(text);
            }
            ControlFlow::Continue(())
        });
        (answers.expect("an answer").remove(0), streamed)
    };
    let options = GenerateOptions { max_new_tokens: 40, ..GenerateOptions::default() };
    let (whole, streamed) = run(&options);
    assert_eq!((whole.text.as_str(), whole.finish), ("The capital of France is Paris.", FinishReason::StopToken));
    assert_eq!(streamed, whole.text);
    // "of France" spans two tokens, so that the first one must be held back.
    let (cut, streamed) = run(&GenerateOptions { stop_strings: vec!["of France".into()], ..options });
    assert_eq!((cut.text.as_str(), cut.finish), ("The capital ", FinishReason::StopString));
    assert_eq!(streamed, cut.text);
}
