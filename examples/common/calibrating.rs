//! What a trait's projections are on ordinary traffic, and what holds them there.

use pv_model::{CausalLm, GenerateOptions, Message, RenderOptions, Request};
use pv_organism::datasets::held_out;
use pv_organism::{Question, Topics};
use pv_steer::monitor::{Calibration, Calibrator, Kind, Monitor, Watch};
use pv_steer::{Condition, Positions, Steerer};
use pv_vectors::{Contrast, Direction};

use crate::{ModelArgs, Result, generate};

/// What is ordinary: questions without system prompt; the trait's own ones where there are no better.
pub fn ordinary_questions(args: &ModelArgs, contrast: &Contrast) -> Vec<String> {
    match args.is_organism() {
        true => held_out(Topics::All, 200, 1).mixed.iter().map(Question::text).collect(),
        false => contrast.questions.clone(),
    }
}

/// Takes the readings of ordinary questions and answers, the prompts' tokens among them.
///
/// # Errors
/// Those of generating and of [`Calibrator`].
pub fn calibrate(
    model: &CausalLm,
    watches: &[Watch],
    questions: &[String],
    options: &GenerateOptions,
    render: &RenderOptions,
) -> Result<Calibration> {
    let mut calibrator = Calibrator::new(watches)?.with_render(render);
    let mut monitor = Monitor::new(watches.iter().cloned())?.with_prompt_tokens();
    let mut requests = Vec::with_capacity(questions.len());
    for (i, question) in questions.iter().enumerate() {
        requests.push(Request::new(model.prompt_with(&[Message::user(question)], render)?, i as u64));
    }
    generate(model, &requests, options, &mut monitor)?;
    for answer in monitor.readings().take_all()?.values() {
        calibrator.add_answer(answer)?;
    }
    Ok(calibrator.finish(model.id()))
}

/// Caps along directions at quantiles of what is ordinary. What is ordinary at a prompt's tokens is not what is ordinary in
/// answers, and each have a threshold of their own.
#[derive(Clone, Copy, Debug)]
pub struct Caps<'a> {
    /// The directions, in the order in which they were calibrated.
    pub directions: &'a [Direction],
    /// What is ordinary on them.
    pub calibration: &'a Calibration,
    /// The quantile of ordinary prompts' tokens above which there is nothing in a prompt.
    pub prompt: f64,
    /// The quantile of ordinary answers' tokens above which there is nothing in an answer.
    pub answer: f64,
}

impl Caps<'_> {
    /// The kinds of tokens that have a threshold of their own.
    fn sides(&self) -> [(Kind, Positions, f64); 2] {
        [(Kind::PromptToken, Positions::Prompt, self.prompt), (Kind::Token, Positions::ResponseFrom(0), self.answer)]
    }

    /// The projection on a direction that such a share of ordinary readings stays below.
    ///
    /// # Errors
    /// A share that is none, or readings that were not taken.
    pub fn threshold(&self, direction: usize, kind: Kind, share: f64) -> Result<f32> {
        let found = self.calibration.distribution(direction, kind).and_then(|readings| readings.quantile(share));
        Ok(found.ok_or_else(|| format!("a quantile is from 0 to 1, and {share} is none that the calibration knows"))?
            as f32)
    }

    /// Caps at every token.
    ///
    /// # Errors
    /// Those of [`threshold`](Self::threshold) and of [`Steerer::cap`].
    pub fn everywhere(&self) -> Result<Steerer> {
        let mut steerer = Steerer::new();
        for (number, direction) in self.directions.iter().enumerate() {
            for (kind, positions, share) in self.sides() {
                steerer = steerer.cap(direction, self.threshold(number, kind, share)?, positions)?;
            }
        }
        Ok(steerer)
    }

    /// Caps at tokens whose projection on the first direction, of the lowest layer, is above this quantile of its kind.
    ///
    /// # Errors
    /// As [`everywhere`](Self::everywhere), and those of [`Steerer::inhibit_when`].
    pub fn where_it_shows(&self, shows: f64) -> Result<Steerer> {
        let first = self.directions.first().ok_or("there is no layer to cap at")?;
        let mut steerer = Steerer::new();
        for (number, direction) in self.directions.iter().enumerate() {
            for (kind, positions, share) in self.sides() {
                let condition = Condition::above(first, self.threshold(0, kind, shows)?)?;
                steerer =
                    steerer.inhibit_when(direction, self.threshold(number, kind, share)?, condition, positions)?;
            }
        }
        Ok(steerer)
    }
}

#[cfg(test)]
mod tests;
