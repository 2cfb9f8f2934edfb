//! Caps a trait of the organism at its range on ordinary traffic.
//!
//! The prompt elicits the trait, and ordinary projections differ between prompts and answers: a prompt's tokens are capped
//! at their own quantile, along the vector of prompts, and the answer's tokens at another one.

use pv_hooks::Layer;
use pv_model::{CausalLm, GenerateOptions, RenderOptions};
use pv_organism::Question;
use pv_steer::monitor::{Calibration, Kind, Watch};
use pv_steer::{Positions, Steerer};
use pv_vectors::vector::Pooling;
use pv_vectors::{Direction, PersonaVector};

use crate::calibrating::{Ordinary, calibrate as calibrate_in};
use crate::{Result, SAMPLING};

/// How strictly a trait is capped: quantiles of the projections on ordinary traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cap {
    /// Of the prompts' tokens, at every layer.
    pub prompt: f64,
    /// Of the answers' tokens, at the layers of [`ANSWER_LAYERS`].
    pub answer: f64,
}

/// The layers at which the answers' tokens are capped.
pub const ANSWER_LAYERS: std::ops::RangeInclusive<usize> = 4..=8;

/// A vector's directions at every layer, for each pooling in the order of [`Pooling::ALL`].
///
/// # Errors
/// A vector that lacks a layer.
pub fn directions(vector: &PersonaVector, layers: usize) -> Result<Vec<(Pooling, Direction)>> {
    let places = (1..=layers).flat_map(|layer| Pooling::ALL.map(|pooling| (pooling, Layer::hidden_state(layer))));
    places.map(|(pooling, layer)| Ok((pooling, vector.direction_of(pooling, layer)?))).collect()
}

/// The distribution of the projections on these directions while the model answers these questions.
///
/// # Errors
/// Those of generating and of calibrating.
pub fn calibrate(model: &CausalLm, directions: &[(Pooling, Direction)], questions: &[Question]) -> Result<Calibration> {
    let watch = |(pooling, direction): &(Pooling, Direction)| Ok(Watch::new(format!("{pooling:?}"), direction.unit()?));
    let watches = directions.iter().map(watch).collect::<Result<Vec<Watch>>>()?;
    let questions: Vec<String> = questions.iter().map(Question::text).collect();
    let options =
        GenerateOptions { max_new_tokens: 80, sampling: SAMPLING, batch_size: 32, ..GenerateOptions::default() };
    let (generate, render) = (&options, &RenderOptions::default());
    let ordinary = Ordinary { questions: &questions, generate, render, rates: &[] };
    calibrate_in(model, &watches, &ordinary, tempfile::tempdir()?.path())
}

impl Cap {
    /// The cap as a hook, for directions and their calibration in the same order.
    ///
    /// # Errors
    /// A calibration without these directions.
    pub fn steerer(self, directions: &[(Pooling, Direction)], calibration: &Calibration) -> Result<Steerer> {
        let mut steerer = Steerer::new();
        for (number, (pooling, direction)) in directions.iter().enumerate() {
            let threshold = |kind, quantile| {
                let found = calibration.distribution(number, kind).and_then(|readings| readings.quantile(quantile));
                found.map(|value| value as f32).ok_or_else(|| format!("the calibration has no {quantile} quantile"))
            };
            steerer = steerer.cap(direction, threshold(Kind::PromptToken, self.prompt)?, Positions::Prompt)?;
            if *pooling == Pooling::ResponseMean && ANSWER_LAYERS.contains(&direction.layer.index()) {
                steerer = steerer.cap(direction, threshold(Kind::Token, self.answer)?, Positions::ResponseFrom(0))?;
            }
        }
        Ok(steerer)
    }
}
