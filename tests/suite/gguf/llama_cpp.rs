//! Answers of a model's file here and in llama.cpp.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{DType, Device};
use pv_hooks::NoHook;
use pv_model::weights::Activations;
use pv_model::{CausalLm, GenerateOptions, LoadOptions, Message, Request};
use serde::Deserialize;

use super::{logits, own_file, script, text};

#[derive(Deserialize)]
struct Answer {
    tokens: Vec<u32>,
    /// The log-probabilities of the most likely first tokens.
    first: BTreeMap<u32, f64>,
}

#[test]
fn answers_and_probabilities_are_those_of_llama_cpp() {
    // llama.cpp rounds the inputs of products to 8 bits; by default they are in f32 here.
    [Activations::F32, Activations::Q8].into_iter().for_each(compare);
}

fn compare(activations: Activations) {
    let options = LoadOptions { activations, ..LoadOptions::default() };
    let model = CausalLm::from_folder_with(own_file(), &Device::flex(), DType::F32, &options).expect("a model");
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
    compare_with_llama_cpp(&model, &own_file(), &prompts);
}

/// Compares greedy answers to prompts, and the probabilities of the first tokens.
pub(super) fn compare_with_llama_cpp(model: &CausalLm, file: &Path, prompts: &[Vec<u32>]) {
    let input = serde_json::to_string(prompts).expect("JSON");
    let Some(found) = script(&["answers", text(file)], &input) else { return };
    let theirs: Vec<Answer> = serde_json::from_value(found).expect("answers");
    let options = GenerateOptions { max_new_tokens: 24, ..GenerateOptions::default() };
    let requests: Vec<Request> = prompts.iter().map(|prompt| Request::new(prompt.clone(), 0)).collect();
    let ours = model.generate(&requests, &options, &mut NoHook, |_| ControlFlow::Continue(())).expect("answers");
    let after = |ids: &[u32]| -> Vec<f32> {
        let logits = logits(model, ids);
        logits[logits.len() - model.config().vocab..].to_vec()
    };
    let mut differences = Vec::new();
    let mut gaps = Vec::new();
    for ((prompt, theirs), ours) in prompts.iter().zip(&theirs).zip(&ours) {
        let last = after(prompt);
        let most = f64::from(last.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let norm = last.iter().map(|logit| (f64::from(*logit) - most).exp()).sum::<f64>().ln() + most;
        assert_eq!(theirs.first.len(), 20);
        differences
            .extend(theirs.first.iter().map(|(id, theirs)| (f64::from(last[*id as usize]) - norm - theirs).abs()));
        let reference: Vec<u32> =
            theirs.tokens.iter().copied().filter(|token| !model.stop_ids().contains(token)).collect();
        // Where the answers part, the two tokens are almost equally likely.
        let same = ours.tokens.iter().zip(&reference).take_while(|(ours, theirs)| ours == theirs).count();
        if let (Some(our), Some(their)) = (ours.tokens.get(same), reference.get(same)) {
            let here = after(&[prompt.as_slice(), &reference[..same]].concat());
            gaps.push(f64::from(here[*our as usize] - here[*their as usize]));
        }
    }
    let worst = differences.iter().copied().fold(0.0, f64::max);
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    let activations = model.identity().expect("an identity").activations;
    println!(
        "{activations:?}: log-probabilities differ by {mean:.3} on average, {worst:.3} at most; answers part at gaps of {gaps:.3?}"
    );
    assert!(mean < 0.15 && worst < 0.6, "{mean} and {worst}");
    assert!(gaps.iter().all(|gap| *gap < 2.0 * worst), "{gaps:?} for {worst}");
}
