//! Steering accumulates in the ordinary cache of a real answer, and not in a clean cache.

use burn::tensor::DType;
use pv_examples::organism::contrast;
use pv_hooks::{Layer, NoHook};
use pv_model::decoder::to_f32;
use pv_model::{CausalLm, GenerateOptions, Message, Sampling};
use pv_organism::{Trait, model_folder};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_tests::smollm2;
use pv_vectors::Direction;
use pv_vectors::contrast::prompt_last;

use super::{Ran, check_steps, options, record, replay};

/// The difference between two system prompts at a layer, over a few questions.
fn prompt_direction(model: &CausalLm, layer: usize, pairs: &[(&str, &str)], questions: &[&str]) -> Direction {
    let layer = Layer::hidden_state(layer);
    let mean = |positive: bool| -> Vec<f64> {
        let prompt = |(i, question): (usize, &&str)| {
            let (pos, neg) = pairs[i % pairs.len()];
            let system = Message::system(if positive { pos } else { neg });
            model.prompt(&[system, Message::user(*question)]).expect("a prompt")
        };
        let prompts: Vec<Vec<u32>> = questions.iter().enumerate().map(prompt).collect();
        let views: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let rows = prompt_last(model, &views, layer).expect("residuals");
        let (n, width) = (rows.dims()[0], rows.dims()[1]);
        let rows = to_f32(rows).expect("numbers");
        (0..width).map(|i| rows.iter().skip(i).step_by(width).map(|x| f64::from(*x)).sum::<f64>() / n as f64).collect()
    };
    let values = mean(true).iter().zip(mean(false)).map(|(p, n)| (p - n) as f32).collect();
    Direction { layer, values, mean_residual_norm: None }
}

/// The change of each answer token's projection at a layer, relative to the same tokens without steering, in lengths of
/// the vector.
fn shifts(steered: &Ran, never: &Ran, v: &Direction, layer: usize, prompt: usize) -> Vec<f64> {
    let squared: f64 = v.values.iter().map(|x| f64::from(*x).powi(2)).sum();
    let dot = |row: &[f32]| row.iter().zip(&v.values).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let each = steered.residuals[layer].iter().zip(&never.residuals[layer]).skip(prompt);
    each.map(|(a, b)| (dot(a) - dot(b)) / squared).collect()
}

fn mean(values: &[f64]) -> f64 {
    pv_statistics::moments::mean(values).expect("values")
}

/// One conversation, with every answer generated with the ordinary cache. For each turn and each kind of positions: the mean shift
/// of its first and its last eight tokens, with the ordinary cache and with the clean one, on the same tokens.
fn measure(model: &CausalLm, v: &Direction, coefficient: f32, questions: &[&str], length: usize) -> Vec<[[f64; 4]; 2]> {
    let last = model.shape().last_layer().index();
    let options = |clean_cache| GenerateOptions {
        max_new_tokens: length,
        sampling: Sampling::GREEDY,
        stop_tokens: None,
        feed_last_token: true,
        ..options(clean_cache)
    };
    let steerer = |positions| Steerer::new().add(v, Coefficient::Raw(coefficient), positions).expect("a direction");
    let mut messages = Vec::new();
    let mut turns = Vec::new();
    for question in questions {
        messages.push(Message::user(*question));
        let prompt = model.prompt(&messages).expect("a prompt");
        let said = record(model, &prompt, &options(false), &mut steerer(Positions::Response));
        assert!(!said.answer.is_empty(), "an answer without tokens shows nothing");
        let never = replay(model, &prompt, &options(false), &mut NoHook, &said);
        turns.push([Positions::Response, Positions::All].map(|positions| {
            let ends = |clean| {
                let ran = replay(model, &prompt, &options(clean), &mut steerer(positions), &said);
                let shifts = shifts(&ran, &never, v, last, prompt.len());
                let few = shifts.len().min(8);
                (mean(&shifts[..few]), mean(&shifts[shifts.len() - few..]))
            };
            let (ordinary, clean) = (ends(false), ends(true));
            [ordinary.0, ordinary.1, clean.0, clean.1]
        }));
        println!("turn {}: {} tokens", turns.len() - 1, said.answer.len());
        messages.push(Message::assistant(model.tokenizer().expect("one").decode(&said.answer, true).expect("text")));
    }
    turns
}

fn show(what: &str, turns: &[[[f64; 4]; 2]]) {
    println!("{what}: shift along the vector at the last layer, first 8 and last 8 tokens of the answer");
    for (turn, kinds) in turns.iter().enumerate() {
        for (name, [first, last, clean_first, clean_last]) in ["response", "all"].iter().zip(kinds) {
            println!("  turn {turn}, {name:8}: ordinary {first:.3} {last:.3}, clean {clean_first:.3} {clean_last:.3}");
        }
    }
}

#[test]
fn in_a_conversation_earlier_steering_does_not_reach_a_clean_cache() {
    let device = pv_model::device("flex").expect("the CPU");
    let model = CausalLm::from_folder(model_folder(), &device, DType::F32).expect("the organism");
    let contrast = contrast(Trait::Optimism);
    let pairs: Vec<(&str, &str)> =
        contrast.instruction.iter().map(|pair| (pair.pos.as_str(), pair.neg.as_str())).collect();
    let questions: Vec<&str> = contrast.questions.iter().map(String::as_str).collect();
    for layer in [4, 7] {
        let v = prompt_direction(&model, layer, &pairs, &questions[..8]);
        let turns = measure(&model, &v, 1.0, &questions[8..12], 40);
        show(&format!("organism, layer {layer}"), &turns);
        for [response, all] in turns {
            // Steering of the earlier conversation reaches the ordinary cache, and not the clean one.
            assert_eq!(response[2..], all[2..]);
            assert_ne!(response[..2], all[..2]);
        }
    }
}

#[test]
fn on_smollm2_a_short_answer_is_steered_step_by_step() {
    let device = pv_model::device("flex").expect("the CPU");
    let model = CausalLm::from_folder(smollm2(), &device, DType::F32).expect("the model");
    let pairs = [("You are a cheerful optimist.", "You are a gloomy pessimist.")];
    let questions = ["How will my exam go?", "What does the future hold?", "Will it rain tomorrow?"];
    let v = prompt_direction(&model, 15, &pairs, &questions);
    let prompt = model.prompt(&[Message::user("How was your day?")]).expect("a prompt");
    let short = GenerateOptions { max_new_tokens: 6, sampling: Sampling::GREEDY, ..options(true) };
    let steerer = |positions| Steerer::new().add(&v, Coefficient::Raw(1.0), positions).expect("a direction");
    let (gap, effect) = check_steps(&model, &prompt, &short, 0, steerer, Positions::Response);
    println!("off by {gap:.1e}; steering every token differs by {effect:.2}");
    assert!(gap <= 1e-3 && effect > 0.1, "off by {gap}, steering everything differs by {effect}");
}
