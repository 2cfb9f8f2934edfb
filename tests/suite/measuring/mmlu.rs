//! Multiple-choice questions, compared with full passes, with tokenizers that encode a choice as one token or as several.

use pv_hooks::{Hook, LayerSet};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::{Logits, to_f32};
use pv_model::tokenizer::AddSpecial;
use pv_steer::{Coefficient, Positions, Steerer};
use pv_tests::{chat_model, root};
use pv_train::measure::MeasureError;
use pv_train::measure::mmlu::{Mmlu, MmluOptions, MmluResults, Question, QuestionSet};
use pv_vectors::Direction;

use super::*;

fn questions() -> QuestionSet {
    QuestionSet::read_folder(root().join("tests/golden/mmlu")).expect("questions")
}

fn run(model: &CausalLm, set: &QuestionSet, options: &MmluOptions, hook: &mut impl Hook) -> MmluResults {
    let mmlu = Mmlu::new(model, set, options).expect("a run");
    mmlu.run(folder().path(), hook, |_, _| ControlFlow::Continue(())).expect("results")
}

/// The prompt, written independently.
fn prompt(set: &QuestionSet, question: &Question, shots: usize) -> String {
    let ask = |q: &Question| {
        let [a, b, c, d] = &q.choices;
        format!("{}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:", q.question)
    };
    let subject = question.subject.replace('_', " ");
    let mut text = format!("The following are multiple choice questions (with answers) about {subject}.\n\n");
    for example in set.dev.iter().filter(|dev| dev.subject == question.subject).take(shots) {
        text += &format!("{} {}\n\n", ask(example), ["A", "B", "C", "D"][example.answer]);
    }
    text + &ask(question)
}

/// ln p of each letter after a prompt, from full passes.
fn reference(model: &CausalLm, prompt: &str, hook: &mut impl Hook) -> Vec<f64> {
    let tokenizer = model.tokenizer().expect("a tokenizer");
    let ids = tokenizer.encode(prompt, AddSpecial::Yes).expect("ids");
    let mut log_prob = |letter: &str| {
        let whole = tokenizer.encode(&format!("{prompt} {letter}"), AddSpecial::Yes).expect("ids");
        let choice = whole.strip_prefix(ids.as_slice()).expect("the prompt's tokens stay");
        let batch = Batch::whole(&[Sequence { prompt: &ids, response: choice, rest: &[] }]).expect("a batch");
        let options = ForwardOptions { stop_at: None, logits: Logits::All };
        let logits = model.forward(&batch, options, hook).expect("a pass").logits.expect("asked for");
        let logits = to_f32(logits).expect("values");
        let rows: Vec<&[f32]> = logits.chunks(model.config().vocab).collect();
        let one = |(at, id): (usize, &u32)| {
            let row = rows[ids.len() - 1 + at];
            f64::from(row[*id as usize]) - row.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln()
        };
        choice.iter().enumerate().map(one).sum()
    };
    ["A", "B", "C", "D"].iter().map(|letter| log_prob(letter)).collect()
}

/// A model for which " A" is two tokens, and whose 256 positions have room for one example at most.
fn bytes() -> CausalLm {
    chat_model("llama", folder().path(), &burn::tensor::Device::flex())
}

#[test]
fn log_probabilities_equal_those_of_full_passes() {
    let (set, bytes) = (questions(), bytes());
    for (model, shots) in [(model(), 5), (model(), 0), (&bytes, 0)] {
        let results = run(model, &set, &MmluOptions { shots, ..MmluOptions::default() }, &mut NoHook);
        assert_eq!(results.answers.len(), 20);
        let (mut worst, mut right) = (0.0f64, 0);
        for answer in &results.answers {
            let question = &set.test[answer.question];
            let expected = reference(model, &prompt(&set, question, shots), &mut NoHook);
            let gap = answer.log_probs.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            worst = worst.max(gap);
            let best = (0..4).max_by(|a, b| expected[*a].total_cmp(&expected[*b])).expect("four");
            right += usize::from(best == question.answer);
        }
        println!("{}, {shots} shots: off by at most {worst:.1e}, {right} of 20 right", model.name());
        assert!(worst < 1e-4, "{worst}");
        assert_eq!(results.micro.successes, right);
    }
}

#[test]
fn a_hook_acts_like_in_full_passes() {
    let set = QuestionSet { test: questions().test[..3].to_vec(), ..questions() };
    let values = (0..model().config().d_model).map(|i| ((i * i) as f32 * 0.7).sin()).collect();
    let direction = Direction { layer: layer(3), values, mean_residual_norm: None };
    for positions in [Positions::Response, Positions::Prompt, Positions::All] {
        let steerer = || Steerer::new().add(&direction, Coefficient::Raw(20.0), positions).expect("a steerer");
        let options = MmluOptions { intervention: Some("steered".into()), ..MmluOptions::default() };
        let found = run(model(), &set, &options, &mut steerer());
        let plain = run(model(), &set, &MmluOptions::default(), &mut NoHook);
        for (answer, plain) in found.answers.iter().zip(&plain.answers) {
            let expected = reference(model(), &prompt(&set, &set.test[answer.question], 5), &mut steerer());
            let gap =
                |other: &[f64]| answer.log_probs.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let (error, effect) = (gap(&expected), gap(&plain.log_probs));
            assert!(error < 2e-4 && effect > 1e-2, "{positions:?}: off by {error:.1e}, moved by {effect:.1e}");
        }
    }
    assert_eq!(NoHook.layers(), LayerSet::none());
    let unsaid = Mmlu::new(model(), &set, &MmluOptions::default()).expect("a run");
    let mut steerer = Steerer::new().add(&direction, Coefficient::Raw(0.3), Positions::All).expect("a steerer");
    let outcome = unsaid.run(folder().path(), &mut steerer, |_, _| ControlFlow::Continue(()));
    assert!(matches!(outcome, Err(MeasureError::Setting(_))));
}

#[test]
fn averages_count_questions_or_subjects() {
    let mut set = questions();
    // Three questions of one subject and ten of the other, in the order of the list only.
    set.test.drain(..7);
    set.test.reverse();
    let results = run(model(), &set, &MmluOptions::default(), &mut NoHook);
    let names: Vec<&str> = results.subjects.iter().map(|found| found.subject.as_str()).collect();
    assert_eq!(names, ["animal_facts", "world_geography"]);
    let [animals, world] = [0, 1].map(|at| results.subjects[at].accuracy);
    assert_eq!((animals.trials, world.trials, results.micro.trials), (3, 10, 13));
    assert_eq!(results.micro.successes, animals.successes + world.successes);
    assert!((results.macro_average - (animals.value + world.value) / 2.0).abs() < 1e-12);
    let below = ((animals.value - animals.low).powi(2) + (world.value - world.low).powi(2)).sqrt() / 2.0;
    assert!((results.macro_average - results.macro_interval.low - below).abs() < 1e-9);
    assert!(results.macro_interval.contains(results.macro_average));
    let csv = results.to_csv().expect("a table");
    let starts: Vec<&str> = csv.lines().map(|line| line.split(',').nth(1).expect("a column")).collect();
    assert_eq!(starts, ["subject", "animal_facts", "world_geography", "micro", "macro"]);
    for (index, answer) in results.answers.iter().enumerate() {
        assert!(answer.question == index && answer.shots == 5);
    }
}

#[test]
fn examples_are_omitted_if_a_prompt_is_too_long() {
    // A line of text, and a question that fills the 256 positions so far that two examples fit, one, or none.
    let question = |subject: &str, len: usize| {
        Question::from_columns(subject, "x".repeat(len), ["1", "2", "3", "4"], 2).expect("a question")
    };
    let (dev, bytes) = (vec![question("s", 9), question("s", 9)], bytes());
    let set = |len: usize| QuestionSet { dev: dev.clone(), test: vec![question("s", len)] };
    let options = MmluOptions { shots: 2, ..MmluOptions::default() };
    let mut shots = Vec::new();
    for len in [1, 90, 150] {
        let set = set(len);
        let answer = run(&bytes, &set, &options, &mut NoHook).answers.remove(0);
        let expected = reference(&bytes, &prompt(&set, &set.test[0], answer.shots), &mut NoHook);
        assert!(answer.log_probs.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4), "{len}");
        shots.push(answer.shots);
    }
    assert_eq!(shots, [2, 1, 0]);
    let error = Mmlu::new(&bytes, &set(300), &options).expect_err("no room");
    assert!(matches!(error, MeasureError::BadQuestion { index: 0, .. }), "{error}");
    let error = Mmlu::new(&bytes, &set(1), &MmluOptions { shots: 3, ..options }).expect_err("two examples");
    assert!(matches!(error, MeasureError::Setting(_)), "{error}");
    let none = QuestionSet { test: Vec::new(), ..set(1) };
    assert!(Mmlu::new(&bytes, &none, &MmluOptions::default()).is_err());
    let mut wrong = set(1);
    wrong.test[0].answer = 4;
    assert!(matches!(
        Mmlu::new(&bytes, &wrong, &MmluOptions { shots: 1, intervention: None }),
        Err(MeasureError::BadQuestion { .. })
    ));
}
