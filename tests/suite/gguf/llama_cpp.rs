//! Answers of a model's file here and in llama.cpp.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{DType, Device};
use pv_hooks::NoHook;
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::weights::Activations;
use pv_model::{CausalLm, GenerateOptions, LoadOptions, Message, Request};
use serde::Deserialize;

use super::{own_file, script, text};

#[derive(Deserialize)]
struct Answer {
    tokens: Vec<u32>,
    /// The log-probabilities of the most likely first tokens.
    first: BTreeMap<u32, f64>,
}

#[test]
fn answers_and_probabilities_are_those_of_llama_cpp() {
    let model = load(&own_file(), Activations::F32);
    let questions = [
        "What is the capital of France?",
        "Name three colours.",
        "How many legs does a spider have?",
        "Write one sentence about the sea.",
        "What is 2 + 2?",
        "Who wrote Hamlet?",
    ];
    let prompts: Vec<Vec<u32>> =
        questions.iter().map(|question| model.prompt(&[Message::user(*question)]).expect("a prompt")).collect();
    compare_with_llama_cpp(&own_file(), &prompts);
}

fn load(file: &Path, activations: Activations) -> CausalLm {
    let options = LoadOptions { activations, ..LoadOptions::default() };
    CausalLm::from_folder_with(file, &Device::flex(), DType::F32, &options).expect("a model")
}

/// Compares greedy answers to prompts, and the probabilities of the first tokens. llama.cpp rounds the inputs of products to 8
/// bits: where we do so too, the results are about as far from those without rounding as llama.cpp's.
pub(super) fn compare_with_llama_cpp(file: &Path, prompts: &[Vec<u32>]) {
    let input = serde_json::to_string(prompts).expect("JSON");
    let Some(found) = script(&["answers", text(file)], &input) else { return };
    let theirs: Vec<Answer> = serde_json::from_value(found).expect("answers");
    assert!(theirs.iter().all(|answer| answer.first.len() == 20));
    let exact = load(file, Activations::F32);
    let without = first_tokens(&exact, prompts, &theirs);
    let reference: Vec<f64> = theirs.iter().flat_map(|answer| answer.first.values().copied()).collect();
    let [mean, worst] = differences(&reference, &without);
    println!("log-probabilities of llama.cpp differ by {mean:.3} on average, {worst:.3} at most");
    assert!(mean < 0.15 && worst < 0.6, "{mean} and {worst}");
    same_answers(&exact, prompts, &theirs, 2.0 * worst);

    let rounded = load(file, Activations::Q8);
    let [our_mean, our_worst] = differences(&first_tokens(&rounded, prompts, &theirs), &without);
    println!("with activations in 8 bits, ours by {our_mean:.3} on average, {our_worst:.3} at most");
    // The means of a few prompts differ by chance: the tokens of a prompt have related errors.
    assert!(our_mean > 0.0 && our_mean <= 1.5 * mean, "{our_mean}, llama.cpp {mean}");
    same_answers(&rounded, prompts, &theirs, 2.0 * (worst + our_worst));
}

/// The log-probabilities of the tokens that are most likely for llama.cpp after each prompt.
fn first_tokens(model: &CausalLm, prompts: &[Vec<u32>], theirs: &[Answer]) -> Vec<f64> {
    let of_prompt = |(prompt, theirs): (&Vec<u32>, &Answer)| {
        let last = last_logits(model, prompt);
        let most = f64::from(last.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let norm = last.iter().map(|logit| (f64::from(*logit) - most).exp()).sum::<f64>().ln() + most;
        theirs.first.keys().map(|id| f64::from(last[*id as usize]) - norm).collect::<Vec<_>>()
    };
    prompts.iter().zip(theirs).flat_map(of_prompt).collect()
}

/// The mean and the largest difference.
fn differences(found: &[f64], expected: &[f64]) -> [f64; 2] {
    let all: Vec<f64> = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).collect();
    [all.iter().sum::<f64>() / all.len() as f64, all.iter().copied().fold(0.0, f64::max)]
}

/// Where greedy answers part, the two tokens are almost equally likely.
fn same_answers(model: &CausalLm, prompts: &[Vec<u32>], theirs: &[Answer], most: f64) {
    let options = GenerateOptions { max_new_tokens: 24, ..GenerateOptions::default() };
    let requests: Vec<Request> = prompts.iter().map(|prompt| Request::new(prompt.clone(), 0)).collect();
    let ours = model.generate(&requests, &options, &mut NoHook, |_| ControlFlow::Continue(())).expect("answers");
    let mut gaps = Vec::new();
    for ((prompt, theirs), ours) in prompts.iter().zip(theirs).zip(&ours) {
        let reference: Vec<u32> =
            theirs.tokens.iter().copied().filter(|token| !model.stop_ids().contains(token)).collect();
        let same = ours.tokens.iter().zip(&reference).take_while(|(ours, theirs)| ours == theirs).count();
        if let (Some(our), Some(their)) = (ours.tokens.get(same), reference.get(same)) {
            let here = last_logits(model, &[prompt.as_slice(), &reference[..same]].concat());
            gaps.push(f64::from(here[*our as usize] - here[*their as usize]));
        }
    }
    println!("answers part at gaps of {gaps:.3?}");
    assert!(gaps.iter().all(|gap| *gap < most), "{gaps:?} for {most}");
}

fn last_logits(model: &CausalLm, prompt: &[u32]) -> Vec<f32> {
    let batch = Batch::whole(&[Sequence { prompt, ..Sequence::default() }]).expect("a batch");
    let options = ForwardOptions { stop_at: None, logits: Logits::Last };
    let output = model.forward(&batch, options, &mut NoHook).expect("a pass");
    to_f32(output.logits.expect("asked for")).expect("values")
}
