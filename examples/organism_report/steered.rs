//! Steering with the mean difference.

use pv_examples::Result;
use pv_examples::folder::make;
use pv_examples::organism::{Ask, Means, ask, contrast};
use pv_examples::vectors::ContrastExtraction;
use pv_hooks::{Layer, NoHook};
use pv_organism::datasets::held_out;
use pv_organism::{Question, Topics, Trait, system};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::{Direction, PersonaVector};

use crate::Report;

impl Report<'_> {
    pub(crate) fn steered(&mut self) -> Result {
        println!("\n## Steering with the mean difference\n");
        println!(
            "At each coefficient: the trait's score / coherence, at the layer and the positions chosen on other questions."
        );
        for (title, sign, wanted) in
            [("no system prompt, added", 1.0, 60.0), ("eliciting prompts, subtracted", -1.0, 50.0)]
        {
            let coefficients = COEFFICIENTS.map(|strength| sign * strength + 0.0);
            let header = coefficients.map(|c| format!("{c}")).join(" | ");
            println!("\n| {title} | layer | positions | ‖v‖ | {header} | moved | by {wanted} |");
            println!("|---|---|---|---|{}---|---|", "---|".repeat(coefficients.len()));
            for which in Trait::ALL {
                let vector = self.vector(which)?;
                if let Some(folder) = &self.args.vectors {
                    make(folder)?;
                    vector.save(folder.join(format!("{which}.safetensors")))?;
                }
                let system = system::contrast(which)[0].pos.clone();
                let asks = |questions: &[Question]| Ask::each(questions, (sign < 0.0).then_some(system.as_str()));
                let questions = &self.questions.suited[which as usize];
                let others =
                    &held_out(Topics::All, self.args.search_questions, self.args.seed + 1).suited[which as usize];
                let others: Vec<Question> = others.iter().filter(|q| !questions.contains(q)).cloned().collect();
                let (direction, positions) = self.best_place(&vector, which, &asks(&others), &coefficients)?;
                let curve = self.curve(&direction, positions, &coefficients, &asks(questions))?;
                let by = moved(&curve, which);
                let kept = self.bounds.check(by >= wanted);
                let cells: Vec<String> =
                    curve.iter().map(|m| format!("{:.0} / {:.0}", m.scores[which], m.coherence)).collect();
                let (layer, norm) = (direction.layer.index(), direction.norm());
                println!(
                    "| {which} | {layer} | {positions:?} | {norm:.0} | {} | {by:.0} | {kept} |",
                    cells.join(" | ")
                );
            }
        }
        Ok(())
    }

    /// The layer and positions at which a vector moves its trait the farthest. All places are compared on some of the
    /// questions, and the best of them again on all questions: the best of many places on few questions is partly luck.
    #[allow(clippy::print_stderr, reason = "progress of a program")]
    fn best_place(
        &self,
        vector: &PersonaVector,
        which: Trait,
        asks: &[Ask],
        coefficients: &[f32],
    ) -> Result<(Direction, Positions)> {
        let mut places = Vec::new();
        for layer in 1..=self.model.config().layers {
            let direction = vector.direction_of(self.args.pooling, Layer::hidden_state(layer))?;
            places.extend([Positions::Response, Positions::All].map(|positions| (0.0, direction.clone(), positions)));
        }
        let some = asks.len().div_ceil(3).max(FEWEST_QUESTIONS).min(asks.len());
        for (questions, kept) in [(some, FINALISTS), (asks.len(), 1)] {
            // Without steering, the place makes no difference.
            let unsteered = Means::over(&ask(self.model, &asks[..questions], self.args.seed, &mut NoHook)?);
            for (distance, direction, positions) in &mut places {
                let mut curve = vec![unsteered];
                for coefficient in coefficients.iter().filter(|coefficient| **coefficient != 0.0) {
                    curve.extend(self.curve(direction, *positions, &[*coefficient], &asks[..questions])?);
                    if curve.last().is_some_and(|means| means.coherence < COHERENT) {
                        break;
                    }
                }
                *distance = moved(&curve, which);
                let layer = direction.layer.index();
                eprintln!("{which} at {layer}, {positions:?}, {questions} questions: {distance:.0}");
            }
            // Stable: of equal distances, the first place stays the first.
            places.sort_by(|(left, ..), (right, ..)| right.total_cmp(left));
            places.truncate(kept);
        }
        let best = places.into_iter().next().ok_or("a model without layers")?;
        Ok((best.1, best.2))
    }

    /// The means at each coefficient.
    fn curve(
        &self,
        direction: &Direction,
        positions: Positions,
        coefficients: &[f32],
        asks: &[Ask],
    ) -> Result<Vec<Means>> {
        let means = |coefficient: &f32| {
            let mut steerer = Steerer::new().add(direction, Coefficient::Raw(*coefficient), positions)?;
            Ok(Means::over(&ask(self.model, asks, self.args.seed, &mut steerer)?))
        };
        coefficients.iter().map(means).collect()
    }

    fn vector(&self, which: Trait) -> Result<PersonaVector> {
        let contrast = contrast(which);
        let seed = self.args.seed;
        let extraction = ContrastExtraction { model: self.model, contrast: &contrast, max_new_tokens: 80, seed };
        Ok(extraction.run()?.vector)
    }
}

/// The coefficients of the raw vector; finest where the traits change.
const COEFFICIENTS: [f32; 10] = [0.0, 0.5, 1.0, 1.1, 1.2, 1.25, 1.3, 1.35, 1.4, 1.6];

/// The least coherence at which an effect counts.
const COHERENT: f64 = 80.0;

/// The fewest questions on which all places of steering are compared.
const FEWEST_QUESTIONS: usize = 6;

/// The number of places that are compared on all questions.
const FINALISTS: usize = 4;

/// The distance that a trait moves monotonically while coherence stays at [`COHERENT`] or more.
fn moved(curve: &[Means], which: Trait) -> f64 {
    let coherent = curve.iter().take_while(|means| means.coherence >= COHERENT).map(|means| means.scores[which]);
    let scores: Vec<f64> = coherent.collect();
    let distances: Vec<f64> = scores.iter().map(|score| (score - scores[0]).abs()).collect();
    // Three points are the noise of a mean over sixty answers.
    let monotone = distances.windows(2).take_while(|pair| pair[1] > pair[0] - 3.0).count();
    distances.iter().take(monotone + 1).copied().fold(0.0, f64::max)
}
