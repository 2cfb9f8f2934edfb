//! Moving one trait and no others, in the model's own answers.

use std::ops::ControlFlow;

use pv_examples::organism::{Judged, Means};
use pv_examples::{Result, SAMPLING};
use pv_hooks::{Hook, Layer, NoHook};
use pv_model::{GenerateOptions, Message, Request};
use pv_organism::datasets::held_out;
use pv_organism::{Question, Topics, Trait};
use pv_steer::control::control;
use pv_steer::monitor::{Monitor, Watch};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::projection::projection;
use pv_vectors::{Direction, PersonaVector};

use crate::measured::Measured;
use crate::{Share, Study};

/// The layer of the traits' manner.
const LAYER: usize = 7;

/// The target for own answers, with a margin: the share of the vector's effect on the trait's projection, and
/// on the others'.
const ASKED: (f64, f64) = (0.95, 0.22);

/// The greatest coefficient of the vector at which the bound is met, for each trait; found on other questions.
const REACHED: [f32; 5] = [0.6, 0.5, 0.5, 0.4, 0.35];

/// Answers with the judge's readings, and each one's mean projections on all traits.
struct Seen {
    judged: Vec<Judged>,
    projections: Vec<Vec<f32>>,
}

impl Seen {
    /// The change of each answer's projection on a trait.
    fn moved(&self, base: &Self, which: Trait) -> Vec<f64> {
        let at = which as usize;
        let pairs = self.projections.iter().zip(&base.projections);
        pairs.map(|(after, before)| f64::from(after[at]) - f64::from(before[at])).collect()
    }

    fn scores(&self, which: Trait) -> Vec<f64> {
        self.judged.iter().map(|judged| judged.reading.scores[which]).collect()
    }

    fn coherence(&self) -> Vec<f64> {
        self.judged.iter().map(|judged| judged.reading.coherence).collect()
    }
}

/// The shortest change that moves a trait's projection, and hardly the others'.
fn change(directions: &[Direction], which: Trait, coefficient: f32) -> Result<Direction> {
    let vector = &directions[which as usize];
    let mut amounts = Vec::with_capacity(directions.len());
    for (i, direction) in directions.iter().enumerate() {
        let share = if i == which as usize { ASKED.0 } else { ASKED.1 };
        let whole = projection(&vector.values, direction).ok_or("directions of another width")?;
        amounts.push((direction, share * f64::from(coefficient) * whole));
    }
    Ok(control(&amounts)?)
}

impl Study<'_> {
    fn answer(&self, vectors: &[PersonaVector], questions: &[Question], steerer: &mut dyn Hook) -> Result<Seen> {
        let watches = vectors.iter().map(|vector| Watch::of(vector, Layer::hidden_state(LAYER)));
        let mut monitor = Monitor::new(watches.collect::<Result<Vec<_>, _>>()?)?;
        let mut requests = Vec::with_capacity(questions.len());
        for (i, question) in questions.iter().enumerate() {
            requests.push(Request::new(self.model.prompt(&[Message::user(question.text())])?, self.seeded(i as u64)));
        }
        let options =
            GenerateOptions { max_new_tokens: 80, sampling: SAMPLING, batch_size: 32, ..GenerateOptions::default() };
        let answers =
            self.model.generate(&requests, &options, &mut (steerer, &mut monitor), |_| ControlFlow::Continue(()))?;
        let judged = questions.iter().zip(&answers).map(|(q, answer)| Judged::new(&q.text(), answer)).collect();
        let readings = monitor.readings().take_all()?;
        let projections: Vec<Vec<f32>> =
            readings.values().map(|answer| answer.mean().ok_or("an answer of no tokens")).collect::<Result<_, _>>()?;
        Ok(Seen { judged, projections })
    }

    /// Compares the vector with the change that moves almost only its trait. On given tokens a change has the requested effect at
    /// any length (a test); in the model's own answers, it has up to a coefficient that depends on the trait.
    pub(crate) fn control(&self) -> Result {
        println!("\n## Moving one trait and no others, in the model's own answers\n");
        println!(
            "Bounds: the trait's projection moves by at least 0.9 of the vector's effect, the others' by less than a third of its effect on them, and at most 5 points of coherence are lost.\n"
        );
        println!(
            "| trait | coefficient | score: vector, change | own projection, share of the vector's effect | others', at most | coherence: vector, change | lost | met |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        let vectors = Trait::ALL.map(|which| self.vector(which, Share::HalfOfTheQuestions));
        let vectors = vectors.into_iter().collect::<Result<Vec<_>>>()?;
        let directions = vectors.iter().map(|vector| vector.direction(Layer::hidden_state(LAYER)));
        let directions = directions.collect::<Result<Vec<_>, _>>()?;
        let held_out = held_out(Topics::All, 40, self.seeded(43));
        for (which, reached) in Trait::ALL.into_iter().zip(REACHED) {
            let questions = &held_out.suited[which as usize];
            let base = self.answer(&vectors, questions, &mut NoHook)?;
            for coefficient in [reached, 1.0] {
                let adding = |direction: &Direction, coefficient| {
                    Steerer::new().add(direction, Coefficient::Raw(coefficient), Positions::Response)
                };
                let mut steerer = adding(&directions[which as usize], coefficient)?;
                let plain = self.answer(&vectors, questions, &mut steerer)?;
                let mut steerer = adding(&change(&directions, which, coefficient)?, 1.0)?;
                let alone = self.answer(&vectors, questions, &mut steerer)?;
                let share = |of| Measured::share(&alone.moved(&base, of), &plain.moved(&base, of));
                let own = share(which)?;
                let mut others = Vec::new();
                for other in Trait::ALL.into_iter().filter(|other| *other != which) {
                    others.push(share(other)?);
                }
                others.sort_by(|a, b| a.value().abs().total_cmp(&b.value().abs()));
                let most = *others.last().ok_or("no other traits")?;
                let lost = Measured::lost(&plain.coherence(), &alone.coherence())?;
                let mut bounds = self.bounds.borrow_mut();
                let kept = if coefficient == reached {
                    let sides = [bounds.at_most(most, 1.0 / 3.0), bounds.at_least(most, -1.0 / 3.0)];
                    format!(
                        "{}, {} and {}, {}",
                        bounds.at_least(own, 0.9),
                        sides[0],
                        sides[1],
                        bounds.at_most(lost, 5.0)
                    )
                } else {
                    "no bound".to_owned()
                };
                let coherence = [&plain, &alone].map(|seen| Means::over(&seen.judged).coherence);
                let scores = [Measured::mean(&plain.scores(which))?, Measured::mean(&alone.scores(which))?];
                println!(
                    "| {which} | {coefficient} | {}, {} | {own:.2} | {most:.2} | {:.1}, {:.1} | {lost} | {kept} |",
                    scores[0], scores[1], coherence[0], coherence[1]
                );
            }
        }
        Ok(())
    }
}
