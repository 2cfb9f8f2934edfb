//! What a trait's projections are on ordinary traffic.

use std::ops::ControlFlow;

use pv_model::{CausalLm, GenerateOptions, Message, Request};
use pv_organism::datasets::held_out;
use pv_organism::{Question, Topics};
use pv_steer::monitor::{Calibration, Calibrator, Monitor, Watch};
use pv_vectors::Contrast;

use crate::{ModelArgs, Result};

/// What is ordinary: questions without system prompt; the trait's own ones where there are no better.
pub fn ordinary_questions(args: &ModelArgs, contrast: &Contrast) -> Vec<String> {
    match args.is_organism() {
        true => held_out(Topics::All, 200, 1).mixed.iter().map(Question::text).collect(),
        false => contrast.questions.clone(),
    }
}

/// Takes the readings of ordinary answers, and of the tokens of their prompts.
///
/// # Errors
/// Those of generating and of [`Calibrator`].
pub fn calibrate(
    model: &CausalLm,
    watches: &[Watch],
    questions: &[String],
    options: &GenerateOptions,
) -> Result<Calibration> {
    let mut calibrator = Calibrator::new(watches)?;
    let mut monitor = Monitor::new(watches.iter().cloned())?.with_prompt_tokens();
    let mut requests = Vec::with_capacity(questions.len());
    for (i, question) in questions.iter().enumerate() {
        requests.push(Request::new(model.prompt(&[Message::user(question)])?, i as u64));
    }
    model.generate(&requests, options, &mut monitor, |_| ControlFlow::Continue(()))?;
    for answer in monitor.readings().take_all()?.values() {
        calibrator.add_answer(answer)?;
    }
    Ok(calibrator.finish(model.id()))
}
