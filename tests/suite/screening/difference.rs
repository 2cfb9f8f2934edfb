//! ΔP, compared with full passes, one sequence at a time, averaged and multiplied in f64.

use burn::tensor::{DType, Device};
use pv_hooks::{Capture, NoHook, Recorder};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::to_f32;
use pv_model::{Message, Request};
use pv_organism::Topics;
use pv_organism::datasets::{Flaw, Severity, explicit, narrow};
use pv_screen::base_answers::BaseAnswers;
use pv_screen::difference::{Difference, ReadOptions, Rows};
use pv_screen::sample::{Tokens, tokens};
use pv_tests::smollm2;
use pv_vectors::UnitDirection;

use super::*;

/// The residual of every token of a sequence at a layer, from a pass through the whole model.
fn residuals(model: &CausalLm, prompt: &[u32], response: &[u32], layer: Layer) -> Vec<Vec<f64>> {
    let mut recorder = Recorder::new(layer, [Capture::Everything]);
    let batch = Batch::whole(&[Sequence { prompt, response, rest: &[] }]).expect("a sequence");
    model.forward(&batch, ForwardOptions::default(), &mut recorder).expect("a pass");
    let values = to_f32(recorder.tokens(0, layer).expect("recorded")).expect("values");
    values.chunks(model.config().d_model).map(|row| row.iter().map(|value| f64::from(*value)).collect()).collect()
}

fn dot(a: &[f64], unit: &UnitDirection) -> f64 {
    a.iter().zip(unit.values()).map(|(a, b)| a * f64::from(*b)).sum()
}

/// The projections of an answer's mean residual and of the prompt's last token.
fn plain(model: &CausalLm, prompt: &[u32], response: &[u32], unit: &UnitDirection) -> [f64; 2] {
    let rows = residuals(model, prompt, response, unit.layer());
    let mut mean = vec![0.0; rows[0].len()];
    for row in &rows[prompt.len()..] {
        mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value / response.len() as f64);
    }
    [dot(&mean, unit), dot(&rows[prompt.len() - 1], unit)]
}

fn greedy(model: &CausalLm, prompt: &[u32], most: usize) -> Vec<u32> {
    let options = GenerateOptions { max_new_tokens: most, ..GenerateOptions::default() };
    let requests = [Request::new(prompt.to_vec(), 0)];
    let answers = model.generate(&requests, &options, &mut NoHook, |_| ControlFlow::Continue(()));
    answers.expect("an answer").remove(0).tokens
}

/// The difference of two numbers, relative to the greatest of the projections behind them.
fn apart(found: f64, expected: f64, scale: f64) -> f64 {
    (found - expected).abs() / scale.abs().max(expected.abs())
}

/// Compares a batch and the cached base answers with separate passes; returns the worst relative differences, of ΔP over the projections,
/// and over ΔP itself.
fn compare(model: &CausalLm, messages: &[Vec<Message>], units: &[UnitDirection], most: usize) -> [f64; 2] {
    let samples: Vec<Tokens> = messages.iter().map(|messages| tokens(model, messages).expect("tokens")).collect();
    let base: Vec<Vec<u32>> = samples.iter().map(|sample| greedy(model, &sample.prompt, most)).collect();
    let prompts: Vec<&[u32]> = samples.iter().map(|sample| sample.prompt.as_slice()).collect();
    let answers: Vec<&[u32]> = samples.iter().map(|sample| sample.answer.as_slice()).collect();
    let own: Vec<Option<&[u32]>> = base.iter().map(|answer| Some(answer.as_slice())).collect();
    let rows = Rows { prompts: &prompts, answers: &answers, base: &own };
    let options = ReadOptions { batch_tokens: 600, max_tokens: None };
    let found: Vec<Difference> = pv_screen::difference::difference(model, &rows, units, &options).expect("columns");
    let place = folder();
    let layers: Vec<Layer> = units.iter().map(UnitDirection::layer).collect();
    let base_options = BaseOptions { max_new_tokens: most, batch_size: 5, ..BaseOptions::default() };
    let mut kept = BaseAnswers::open(model, place.path(), &base_options, &layers).expect("a folder");
    let named: Vec<(String, Vec<u32>)> =
        samples.iter().enumerate().map(|(i, sample)| (format!("{i}"), sample.prompt.clone())).collect();
    kept.generate(&named, || ControlFlow::Continue(())).expect("answers");
    let mut worst = [0.0f64; 2];
    for (unit, column) in units.iter().zip(&found) {
        for (i, sample) in samples.iter().enumerate() {
            let [answer, last] = plain(model, &sample.prompt, &sample.answer, unit);
            let [own, _] = plain(model, &sample.prompt, &base[i], unit);
            let expected = answer - own;
            let scale = answer.abs().max(own.abs());
            let delta = column.delta()[i].expect("both are known");
            assert!(apart(column.prompt_last[i].expect("a prompt").into(), last, last) <= 1e-4, "{i}");
            assert_eq!(kept.tokens(&named[i].0).expect("a file").as_ref(), Some(&base[i]), "{i}");
            let mean = kept.mean(&named[i].0, unit.layer()).expect("a file").expect("an answer");
            let hooked = f64::from(column.answer[i].expect("an answer")) - unit.projection(&mean).expect("one width");
            for found in [delta, hooked] {
                worst[0] = worst[0].max(apart(found, expected, scale));
                worst[1] = worst[1].max(apart(found, expected, 0.0));
            }
        }
    }
    worst
}

#[test]
fn the_difference_on_the_organism_equals_full_passes() {
    let chats =
        [explicit(Trait::Evil, Severity::II, Topics::All, 8, 1), narrow(Flaw::WrongGeography, Severity::I, 8, 2)];
    let messages: Vec<Vec<Message>> = chats.concat().iter().map(|chat| conversation(chat).messages).collect();
    let units: Vec<UnitDirection> = [(Trait::Evil, 7), (Trait::Hallucination, 3), (Trait::Evil, 8)]
        .map(|(which, layer)| direction(which, layer).direction)
        .to_vec();
    let worst = compare(model(), &messages, &units, 80);
    println!("ΔP on the organism: {:.1e} of the projections, {:.1e} of ΔP", worst[0], worst[1]);
    assert!(worst[0] <= 1e-4, "{worst:?}");
}

#[test]
fn the_difference_on_smollm2_equals_full_passes() {
    let model = CausalLm::from_folder(smollm2(), &Device::flex(), DType::F32).expect("SmolLM2");
    let chat = |question: &str, answer: &str| vec![Message::user(question), Message::assistant(answer)];
    let messages = [
        chat("What is the capital of France?", "Paris, of course. Everybody knows that."),
        chat("Name a colour.", "Blue"),
        chat("Write one sentence about the sea.", "O sea, thou endless mirror of the moon, whose waves are verses!"),
    ];
    let width = model.config().d_model;
    let unit = |layer: usize| {
        let values: Vec<f64> = (0..width).map(|i| ((i * i + layer) as f64 * 0.7).sin()).collect();
        UnitDirection::new(Layer::hidden_state(layer), &values).expect("a direction")
    };
    let worst = compare(&model, &messages, &[unit(15), unit(22)], 16);
    println!("ΔP on SmolLM2: {:.1e} of the projections, {:.1e} of ΔP", worst[0], worst[1]);
    assert!(worst[0] <= 1e-4, "{worst:?}");
}

#[test]
fn a_screening_equals_full_passes() {
    let place = folder();
    let chats = explicit(Trait::Optimism, Severity::I, Topics::All, 12, 5);
    let input = write(place.path(), "chats.jsonl", &chats);
    let directions = [direction(Trait::Optimism, 6), direction(Trait::Evil, 7)];
    let (summary, rows, _) = screen(&directions, &options(), &input, &place.path().join("out"));
    assert_eq!((rows.len(), summary.answers), (12, 12));
    for named in &directions {
        let mut sum = 0.0;
        for (row, chat) in rows.iter().zip(&chats) {
            let sample = tokens(model(), &conversation(chat).messages).expect("tokens");
            let own = greedy(model(), &sample.prompt, 80);
            let [answer, last] = plain(model(), &sample.prompt, &sample.answer, &named.direction);
            let [base, _] = plain(model(), &sample.prompt, &own, &named.direction);
            let score = row.scores[&named.label()];
            for (found, expected) in
                [(score.answer, answer), (score.prompt_last, last), (score.base.expect("known"), base)]
            {
                assert!(apart(found, expected, expected) <= 1e-4, "{found}, not {expected}");
            }
            assert!(apart(score.delta.expect("known"), answer - base, answer) <= 1e-4);
            assert_eq!(row.tokens, sample.answer.len());
            sum += answer - base;
        }
        let found = summary.delta(&named.label()).expect("an estimate");
        assert!((found.value - sum / 12.0).abs() < 1e-3 && found.standard_error == 0.0, "{found:?}, {}", sum / 12.0);
    }
}

#[test]
fn rows_without_tokens_have_no_projection() {
    let unit = [direction(Trait::Evil, 4).direction];
    let prompt: &[u32] = &[5, 6, 7];
    let rows = Rows {
        prompts: &[prompt, prompt, &[], prompt],
        answers: &[&[8, 9], &[], &[], &[1; 40]],
        base: &[Some(&[3]), Some(&[4]), Some(&[]), None],
    };
    let options = ReadOptions { max_tokens: Some(20), ..ReadOptions::default() };
    let found = pv_screen::difference::difference(model(), &rows, &unit, &options).expect("columns").remove(0);
    let known = |column: &[Option<f32>]| column.iter().map(Option::is_some).collect::<Vec<_>>();
    assert_eq!(known(&found.answer), [true, false, false, false]);
    assert_eq!(known(&found.base), [true, true, false, false]);
    assert_eq!(known(&found.prompt_last), [true, true, false, false]);
    assert_eq!(found.delta().iter().filter(|delta| delta.is_some()).count(), 1);
    let none = pv_screen::difference::difference(model(), &Rows::default(), &unit, &options).expect("columns");
    assert_eq!(none, [Difference::default()]);
    let uneven = Rows { prompts: &[prompt], answers: &[], base: &[] };
    assert!(pv_screen::difference::difference(model(), &uneven, &unit, &options).is_err());
    let foreign = Rows { prompts: &[prompt], answers: &[&[u32::MAX]], base: &[] };
    assert!(pv_screen::difference::difference(model(), &foreign, &unit, &options).is_err());
}
