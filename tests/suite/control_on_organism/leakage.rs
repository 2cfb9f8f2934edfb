//! Moving one trait and no others.

use std::ops::ControlFlow;

use pv_hooks::{Hook, Layer, NoHook};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::decoder::Logits;
use pv_model::generate::Generation;
use pv_model::{Message, Request};
use pv_organism::datasets::held_out;
use pv_organism::{PerTrait, Topics, Trait};
use pv_steer::control::control;
use pv_steer::monitor::{Monitor, Watch};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_tests::{organism, seed};
use pv_vectors::projection::projection;
use pv_vectors::{Direction, PersonaVector};

use super::{extract, options};

/// The layer of the traits' manner.
const LAYER: usize = 7;

/// The traits' directions, in the order of [`Trait::ALL`].
fn directions(vectors: &[PersonaVector]) -> Vec<Direction> {
    vectors.iter().map(|vector| vector.direction(Layer::hidden_state(LAYER)).expect("a direction")).collect()
}

/// The change that moves one trait's projection `own` times as far as adding its vector would, and every
/// other's `others` times as far.
fn change(directions: &[Direction], which: Trait, coefficient: f32, (own, others): (f64, f64)) -> Direction {
    let vector = &directions[which as usize];
    let amount = |i: usize, direction: &Direction| {
        let share = if i == which as usize { own } else { others };
        share * f64::from(coefficient) * projection(&vector.values, direction).expect("one width")
    };
    let amounts: Vec<(&Direction, f64)> =
        directions.iter().enumerate().map(|(i, direction)| (direction, amount(i, direction))).collect();
    control(&amounts).expect("a change")
}

/// One trait only.
const ALONE: (f64, f64) = (1.0, 0.0);
/// Almost only: the shortest change that does this is a third shorter.
const NEARLY_ALONE: (f64, f64) = (0.95, 0.22);

fn adding(direction: &Direction, coefficient: f32) -> Steerer {
    Steerer::new().add(direction, Coefficient::Raw(coefficient), Positions::Response).expect("a steerer")
}

/// The mean projection of the tokens of given answers on each trait while a steerer acts.
fn read(vectors: &[PersonaVector], answers: &[(Vec<u32>, Generation)], steerer: &mut dyn Hook) -> PerTrait {
    let watch = |vector: &PersonaVector| Watch::of(vector, Layer::hidden_state(LAYER)).expect("a direction");
    let mut monitor = Monitor::new(vectors.iter().map(watch)).expect("a monitor");
    let sequences: Vec<Sequence<'_>> = answers
        .iter()
        .map(|(prompt, answer)| Sequence { prompt, response: &answer.tokens, ..Sequence::default() })
        .collect();
    let batch = Batch::whole(&sequences).expect("a batch");
    let options = ForwardOptions { logits: Logits::None, ..ForwardOptions::default() };
    organism().forward(&batch, options, &mut (steerer, &mut monitor)).expect("a pass");
    let mut mean = PerTrait::default();
    let answers = monitor.readings().take_all().expect("readings");
    let count = answers.values().map(|answer| answer.tokens().nrows()).sum::<usize>() as f64;
    for answer in answers.values() {
        for token in answer.tokens().outer_iter() {
            mean.0.iter_mut().zip(token).for_each(|(sum, value)| *sum += f64::from(*value) / count);
        }
    }
    mean
}

/// The equation of the control solution with the organism's own vectors, on the tokens of its own answers: a change moves the projections
/// as requested, at any length.
#[test]
fn the_change_moves_one_projection() {
    let vectors = Trait::ALL.map(extract);
    let directions = directions(&vectors);
    let held_out = held_out(Topics::All, 10, seed(43));
    for which in Trait::ALL {
        let alone = change(&directions, which, 1.0, ALONE);
        let amount = directions[which as usize].norm();
        for (other, direction) in Trait::ALL.into_iter().zip(&directions) {
            let along = |added: &Direction| projection(&added.values, direction).expect("one width");
            let wanted = if other == which { amount } else { 0.0 };
            assert!((along(&alone) - wanted).abs() <= 1e-5 * amount, "{which} moves {other} by {}", along(&alone));
            // The vector itself moves the other projections too: all traits share a component of unusual manner. Without it, the
            // test would be trivial.
            assert!(along(&directions[which as usize]) >= 0.2 * amount, "{which} and {other}");
        }
        println!("{which}: {:.2} times as long as the vector", alone.norm() / amount);

        let prompt =
            |question: &pv_organism::Question| organism().prompt(&[Message::user(question.text())]).expect("a prompt");
        let prompts: Vec<Vec<u32>> = held_out.suited[which as usize].iter().map(prompt).collect();
        let requests: Vec<Request> =
            prompts.iter().enumerate().map(|(i, prompt)| Request::new(prompt.clone(), seed(i as u64))).collect();
        let answers = organism().generate(&requests, &options(), &mut NoHook, |_| ControlFlow::Continue(()));
        let answers: Vec<(Vec<u32>, Generation)> = prompts.into_iter().zip(answers.expect("answers")).collect();
        let base = read(&vectors, &answers, &mut NoHook);
        for (coefficient, (own, others)) in [(0.5, ALONE), (1.0, ALONE), (1.0, NEARLY_ALONE)] {
            let plain = read(&vectors, &answers, &mut adding(&directions[which as usize], coefficient));
            let change = change(&directions, which, coefficient, (own, others));
            let found = read(&vectors, &answers, &mut adding(&change, 1.0));
            for other in Trait::ALL {
                let by_vector = plain[other] - base[other];
                let asked = by_vector * if other == which { own } else { others };
                let moved = found[other] - base[other];
                assert!((moved - asked).abs() <= 0.01 * by_vector.abs(), "{which}: {other} by {moved}, not {asked}");
            }
        }
    }
}
