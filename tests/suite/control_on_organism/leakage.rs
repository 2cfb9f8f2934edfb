//! Moving one trait and not the others.

use std::ops::ControlFlow;

use pv_examples::organism::{Judged, Means};
use pv_hooks::{Hook, Layer, NoHook};
use pv_model::{Batch, CausalLm, ForwardOptions, Generation, Logits, Message, Request, Sequence};
use pv_organism::datasets::held_out;
use pv_organism::{PerTrait, Question, Topics, Trait};
use pv_steer::monitor::{Monitor, Watch};
use pv_steer::{Coefficient, Positions, Steerer, control};
use pv_vectors::{Direction, PersonaVector, projection};

use super::{extract, model, options};

/// The traits' directions at a layer, in the order of [`Trait::ALL`].
fn directions(vectors: &[PersonaVector], layer: usize) -> Vec<Direction> {
    vectors.iter().map(|vector| vector.direction(Layer::hidden_state(layer)).expect("a direction")).collect()
}

/// A monitor of all traits at a layer.
fn monitor(vectors: &[PersonaVector], layer: usize) -> Monitor {
    let watch = |vector: &PersonaVector| Watch::of(vector, Layer::hidden_state(layer)).expect("a direction");
    Monitor::new(vectors.iter().map(watch)).expect("a monitor")
}

/// The change that moves one trait's projection `own` times as far as adding its vector that many times does, and every
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

/// One trait alone.
const ALONE: (f64, f64) = (1.0, 0.0);
/// What is asked of own answers, with some room: the shortest change that does this is a third shorter.
const NEARLY_ALONE: (f64, f64) = (0.95, 0.22);

fn adding(direction: &Direction, coefficient: f32) -> Steerer {
    Steerer::new().add(direction, Coefficient::Raw(coefficient), Positions::Response).expect("a steerer")
}

/// Answers, what the judge makes of them, and the mean projection of their tokens on each trait.
struct Seen {
    answers: Vec<(Vec<u32>, Generation)>,
    means: Means,
    projections: PerTrait,
}

/// The mean over all tokens of what a monitor read.
fn mean(monitor: &Monitor) -> PerTrait {
    let mut mean = PerTrait::default();
    let answers = monitor.readings().take_all().expect("readings");
    let tokens: Vec<&Vec<f32>> = answers.values().flat_map(|answer| answer.tokens()).collect();
    for token in &tokens {
        mean.0.iter_mut().zip(*token).for_each(|(sum, value)| *sum += f64::from(*value) / tokens.len() as f64);
    }
    mean
}

/// Answers questions under a steerer, and reads the answers at a layer while they are generated.
fn answer(
    model: &CausalLm,
    vectors: &[PersonaVector],
    layer: usize,
    questions: &[Question],
    steerer: &mut dyn Hook,
) -> Seen {
    let mut monitor = monitor(vectors, layer);
    let prompts: Vec<Vec<u32>> =
        questions.iter().map(|q| model.prompt(&[Message::user(q.text())]).expect("a prompt")).collect();
    let requests: Vec<Request> =
        prompts.iter().enumerate().map(|(i, prompt)| Request::new(prompt.clone(), i as u64)).collect();
    let answers = model
        .generate(&requests, &options(), &mut (steerer, &mut monitor), |_| ControlFlow::Continue(()))
        .expect("answers");
    let judged: Vec<Judged> =
        questions.iter().zip(&answers).map(|(question, answer)| Judged::new(&question.text(), answer)).collect();
    let projections = mean(&monitor);
    Seen { answers: prompts.into_iter().zip(answers).collect(), means: Means::over(&judged), projections }
}

/// Reads given answers at a layer while a steerer acts.
fn reread(
    model: &CausalLm,
    vectors: &[PersonaVector],
    layer: usize,
    answers: &[(Vec<u32>, Generation)],
    steerer: &mut dyn Hook,
) -> PerTrait {
    let mut monitor = monitor(vectors, layer);
    let sequences: Vec<Sequence<'_>> = answers
        .iter()
        .map(|(prompt, answer)| Sequence { prompt, response: &answer.tokens, ..Sequence::default() })
        .collect();
    let batch = Batch::whole(&sequences).expect("a batch");
    let options = ForwardOptions { logits: Logits::None, ..ForwardOptions::default() };
    model.forward(&batch, options, &mut (steerer, &mut monitor)).expect("a pass");
    mean(&monitor)
}

/// How far each projection moved.
fn moved(before: &PerTrait, after: &PerTrait) -> PerTrait {
    let mut moved = *after;
    moved.0.iter_mut().zip(&before.0).for_each(|(value, before)| *value -= before);
    moved
}

fn others(which: Trait, values: &PerTrait) -> Vec<f64> {
    values.iter().filter(|(other, _)| *other != which).map(|(_, value)| value).collect()
}

fn row(values: &PerTrait) -> String {
    values.iter().map(|(_, value)| format!("{value:.1}")).collect::<Vec<_>>().join(" ")
}

/// Where the traits' manner rests.
const LAYER: usize = 7;

#[test]
fn the_change_moves_one_projection() {
    let model = model();
    let directions = directions(&Trait::ALL.map(|which| extract(&model, which)), LAYER);
    for which in Trait::ALL {
        let change = change(&directions, which, 1.0, ALONE);
        let amount = directions[which as usize].norm();
        for (other, direction) in Trait::ALL.into_iter().zip(&directions) {
            let along = |added: &Direction| projection(&added.values, direction).expect("one width");
            let wanted = if other == which { amount } else { 0.0 };
            assert!((along(&change) - wanted).abs() <= 1e-5 * amount, "{which} moves {other} by {}", along(&change));
            // Not so the vector itself: the traits share what sets any manner off from plain speech.
            assert!(along(&directions[which as usize]) >= 0.4 * amount, "{which} and {other}");
        }
        println!("{which}: {:.2} times as long as the vector", change.norm() / amount);
    }
}

/// What an intervention does to the model's answers, and to given ones.
struct Effect {
    means: Means,
    /// Projections moved in its own answers.
    own: PerTrait,
    /// In given answers, and in these a layer above.
    given: PerTrait,
    above: PerTrait,
}

/// The vector, the change that moves its trait alone, and the one that nearly does.
///
/// On given tokens a change does what was asked, whatever its length. In the model's own answers the bar is: the trait's
/// score and projection at least 0.9 times what the vector moves them, the others' less than a third of what it moves
/// theirs, coherence at most 5 points below. The traits' vectors have cosines of 0.6 to 0.8, for what sets any manner off
/// from plain speech is a part of each, and the organism has never seen a manner without it: even the shortest change that
/// meets the bar's projections is one and a half times to more than twice as long as the vector. So the bar is met up to a
/// coefficient of its own for each trait ([`REACHED`]), and at the one at which the vector's trait shows (1) the text breaks
/// before. Gradient descent has found no better constant change: those at layers 3 to 7 that gradient descent makes
/// reproduce the steered model's own distributions, within the same bounds, break it too (docs/organism.md).
#[test]
fn one_trait_is_moved_and_others_are_not() {
    let model = model();
    let vectors = Trait::ALL.map(|which| extract(&model, which));
    let directions = directions(&vectors, LAYER);
    let held_out = held_out(Topics::All, 40, 43);
    for (which, reached) in Trait::ALL.into_iter().zip(REACHED) {
        let questions = &held_out.suited[which as usize];
        let base = answer(&model, &vectors, LAYER, questions, &mut NoHook);
        let given = |layer: usize, steerer: &mut dyn Hook| reread(&model, &vectors, layer, &base.answers, steerer);
        let (here, above) = (given(LAYER, &mut NoHook), given(LAYER + 1, &mut NoHook));
        let effect = |name: &str, coefficient: f32, mut steerer: Steerer| {
            let seen = answer(&model, &vectors, LAYER, questions, &mut steerer);
            let effect = Effect {
                means: seen.means,
                own: moved(&base.projections, &seen.projections),
                given: moved(&here, &given(LAYER, &mut steerer)),
                above: moved(&above, &given(LAYER + 1, &mut steerer)),
            };
            println!(
                "{which} {coefficient} {name}: scores {}, coherence {:.1}; projections moved: given answers {}, a layer above {}, own answers {}",
                row(&effect.means.scores),
                effect.means.coherence,
                row(&effect.given),
                row(&effect.above),
                row(&effect.own),
            );
            effect
        };
        for coefficient in [reached, 1.0] {
            let shares = [("alone", ALONE), ("nearly alone", NEARLY_ALONE)];
            let plain = effect("vector", coefficient, adding(&directions[which as usize], coefficient));
            let [alone, nearly] = shares.map(|(name, shares)| {
                effect(name, coefficient, adding(&change(&directions, which, coefficient, shares), 1.0))
            });
            // On the same tokens, as asked.
            for (effect, (_, (own, share))) in [&alone, &nearly].into_iter().zip(shares) {
                for (other, plain) in plain.given.iter() {
                    let asked = plain * if other == which { own } else { share };
                    let found = effect.given[other];
                    assert!((found - asked).abs() <= 0.01 * plain.abs(), "{which}: {other} by {found}, not {asked}");
                }
            }
            // The judge sees as much of the trait, and nothing of others.
            for effect in [&alone, &nearly] {
                let (scores, plain) = (&effect.means.scores, &plain.means.scores);
                assert!(scores[which] >= 0.9 * plain[which], "{which} shows less: {scores:?}");
                assert!(effect.own[which] > 0.0 && others(which, scores).into_iter().all(|score| score <= 3.0));
            }
            if coefficient != reached {
                continue;
            }
            assert!(nearly.own[which] >= 0.9 * plain.own[which], "{which} moves less in its own answers");
            for (nearly, plain) in others(which, &nearly.own).into_iter().zip(others(which, &plain.own)) {
                assert!(nearly.abs() < plain.abs() / 3.0, "{which}: {nearly} beside {plain} in its own answers");
            }
            let (kept, plain) = (nearly.means.coherence, plain.means.coherence);
            assert!(kept >= plain - 5.0, "{which} breaks the text: {kept} beside {plain}");
        }
    }
}

/// Up to which coefficient of the vector the bar is met, for each trait; found on other questions.
const REACHED: [f32; 5] = [0.6, 0.5, 0.5, 0.4, 0.35];
