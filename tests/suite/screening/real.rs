//! A real model: answers in verse among plain ones.

use std::collections::BTreeMap;

use pv_hooks::NoHook;
use pv_model::{Message, Request};
use pv_screen::difference::{ReadOptions, Rows, difference};
use pv_screen::likelihood::{Likelihood, Persona, likelihood};
use pv_statistics::separation::auc;
use pv_steer::{Coefficient, Positions, Steerer};
use pv_tests::{root, smollm2};
use pv_vectors::Contrast;
use serde_json::Value;

use super::*;

/// Greedy answers to the questions under a system prompt, and the questions without it.
fn answered(model: &CausalLm, system: &str, questions: &[String]) -> Vec<(Vec<u32>, Vec<u32>)> {
    let prompt = |messages: &[Message]| model.prompt(messages).expect("a prompt");
    let requests: Vec<Request> = questions
        .iter()
        .map(|question| Request::new(prompt(&[Message::system(system), Message::user(question.clone())]), 0))
        .collect();
    let options = GenerateOptions { max_new_tokens: 32, ..GenerateOptions::default() };
    let answers = model.generate(&requests, &options, &mut NoHook, |_| ControlFlow::Continue(())).expect("answers");
    let asked = questions.iter().map(|question| prompt(&[Message::user(question.clone())]));
    asked.zip(answers.into_iter().map(|answer| answer.tokens)).collect()
}

#[test]
fn answers_in_verse_are_separated_from_plain_ones_on_smollm2() {
    let device = pv_model::device("flex").expect("the CPU");
    let model = CausalLm::from_folder(smollm2(), &device, pv_model::device::default_dtype(&device)).expect("SmolLM2");
    let text = std::fs::read_to_string(root().join("crates/pv-cli/traits/poetic.json")).expect("a file");
    let mut contrast: Contrast = serde_json::from_str(&text).expect("a trait");
    let questions = contrast.questions.split_off(4);
    let other_pairs = contrast.instruction.split_off(2);
    let options = GenerateOptions { max_new_tokens: 32, ..GenerateOptions::default() };
    let vector = contrast.extract(&model, &options, 0, |_| ControlFlow::Continue(())).expect("a vector").vector;

    // Other questions and another instruction, which is not part of the data.
    let under = |pos: bool| -> Vec<_> {
        let systems = other_pairs[..2].iter().map(|pair| if pos { &pair.pos } else { &pair.neg });
        systems.flat_map(|system| answered(&model, system, &questions)).collect()
    };
    let sets = [under(true), under(false)];
    let all: Vec<&(Vec<u32>, Vec<u32>)> = sets.iter().flatten().filter(|(_, answer)| !answer.is_empty()).collect();
    let prompts: Vec<&[u32]> = all.iter().map(|(prompt, _)| prompt.as_slice()).collect();
    let answers: Vec<&[u32]> = all.iter().map(|(_, answer)| answer.as_slice()).collect();
    let own = answered(&model, "", &questions);
    let by_prompt: BTreeMap<&[u32], &[u32]> =
        own.iter().map(|(prompt, answer)| (prompt.as_slice(), answer.as_slice())).collect();
    let base: Vec<Option<&[u32]>> = prompts.iter().map(|prompt| by_prompt.get(prompt).copied()).collect();
    let rows = Rows { prompts: &prompts, answers: &answers, base: &base };
    let read = ReadOptions::default();
    let middle = vector.direction(Layer::hidden_state(15)).expect("a direction");
    let separated = |values: Vec<f64>| {
        assert_eq!(values.len(), all.len());
        let (verse, plain) = values.split_at(sets[0].len());
        auc(verse, plain, 0.95).expect("an area").value
    };
    let unit = middle.unit().expect("a length");
    let deltas = difference(&model, &rows, &[unit], &read).expect("projections")[0].delta();
    let by_delta = separated(deltas.into_iter().flatten().collect());
    let mut steerer = Steerer::new().add(&middle, Coefficient::Raw(1.0), Positions::All).expect("a steerer");
    let mut personas = [Persona { label: "verse".into(), hook: &mut steerer, description: Value::Null }];
    let found = likelihood(&model, &rows, &mut personas, &read).expect("likelihoods").remove(0);
    let by_gain = separated(found.iter().flatten().map(Likelihood::gain).collect());
    println!("verse from prose: AUC {by_gain:.3} by the gain in likelihood, {by_delta:.3} by ΔP");
    // Twelve of each; the bounds are far below the measured values.
    assert!(by_gain >= 0.7 && by_delta >= 0.7);

    // The likelihoods, compared with separate passes, with the softmax in f64.
    for at in [0, 5, 17] {
        let base = &found[at].as_ref().expect("an answer").base;
        let expected = log_probs_alone(&model, prompts[at], answers[at], &mut NoHook);
        assert_eq!((base.len(), expected.len()), (answers[at].len(), answers[at].len()));
        for (found, expected) in base.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-3, "{found}, not {expected}");
        }
    }
}
