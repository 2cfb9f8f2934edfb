//! Calibrates a trait's projections on ordinary traffic, and caps them at quantiles of it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pv_data::runs::through_text;
use pv_model::{CausalLm, GenerateOptions, Message, RenderOptions};
use pv_organism::datasets::held_out;
use pv_organism::{Question, Topics};
use pv_steer::monitor::{self, CalibrateOptions, Calibration, Kind, Watch};
use pv_steer::{Condition, Positions, Steerer};
use pv_vectors::{Contrast, Direction};
use serde_json::json;

use crate::folder::make;
use crate::program::lines;
use crate::{Bar, ModelArgs, OutArgs, Result, note};

/// The ordinary traffic.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct OrdinaryArgs {
    /// A file of ordinary questions, one per line; their answers define the ordinary range. By default 200 of the
    /// organism's questions; for other models the few questions that the trait's vector is extracted from.
    #[arg(long, value_name = "FILE")]
    pub ordinary: Option<PathBuf>,
}

impl OrdinaryArgs {
    /// The questions.
    ///
    /// # Errors
    /// A file that cannot be read or contains no question.
    pub fn questions(&self, args: &ModelArgs, contrast: &Contrast) -> Result<Vec<String>> {
        match &self.ordinary {
            Some(file) => lines(file),
            None if args.is_organism() => Ok(held_out(Topics::All, 200, 1).mixed.iter().map(Question::text).collect()),
            None => Ok(contrast.questions.clone()),
        }
    }
}

/// How the answers of a calibration are generated.
#[derive(Clone, Debug)]
pub struct Ordinary<'a> {
    /// The questions, each asked without a system prompt.
    pub questions: &'a [String],
    /// The options of generation.
    pub generate: &'a GenerateOptions,
    /// The options of rendering.
    pub render: &'a RenderOptions,
    /// The rates at which false alarms are measured on held-out answers, in addition to the default ones.
    pub rates: &'a [f64],
}

/// Measures the readings of ordinary questions and answers, including the prompts' tokens. An interrupted calibration
/// resumes in its folder.
///
/// # Errors
/// Those of [`monitor::calibrate`].
pub fn calibrate(model: &CausalLm, watches: &[Watch], ordinary: &Ordinary<'_>, folder: &Path) -> Result<Calibration> {
    let prompts: Vec<Vec<Message>> = ordinary.questions.iter().map(|text| vec![Message::user(text)]).collect();
    let options = CalibrateOptions {
        seed: 0,
        generate: ordinary.generate.clone(),
        prompt_tokens: true,
        render: ordinary.render.clone(),
        rates: ordinary.rates.to_vec(),
    };
    let bar = Bar::new("calibrating");
    Ok(monitor::calibrate(model, watches, &prompts, &options, folder, |progress| {
        bar.show("calibrating", progress);
        ControlFlow::Continue(())
    })?)
}

/// Like [`calibrate`], but cached in a folder below runs, where a calibration with the same settings is found. If the
/// folder cannot be created, the calibration is not cached.
///
/// # Errors
/// Those of [`calibrate`].
pub fn kept_calibration(
    args: &ModelArgs,
    model: &CausalLm,
    watches: &[Watch],
    ordinary: &Ordinary<'_>,
) -> Result<Calibration> {
    let settings = json!({
        "model": model.identity()?,
        "directions": through_text(&watches.iter().map(Watch::id).collect::<Vec<_>>()),
        "questions": ordinary.questions,
        "generate": through_text(ordinary.generate),
        "render": ordinary.render,
    });
    let name = watches.first().map_or("", |watch| watch.trait_name.as_str());
    let folder = OutArgs::folder_of("calibration", &[&args.title(), name], &settings);
    if let Err(error) = make(&folder) {
        tracing::warn!("{error}; the calibration is not cached");
        return calibrate(model, watches, ordinary, tempfile::tempdir()?.path());
    }
    let found = calibrate(model, watches, ordinary, &folder)?;
    note(&format!("the calibration is cached in {}", folder.join("calibration.json").display()));
    Ok(found)
}

/// Caps along directions at quantiles of ordinary traffic. The projections of prompt tokens and of answer tokens are
/// distributed differently, so each kind has its own threshold.
#[derive(Clone, Copy, Debug)]
pub struct Caps<'a> {
    /// The directions, in the order of their calibration.
    pub directions: &'a [Direction],
    /// Their calibration.
    pub calibration: &'a Calibration,
    /// The quantile of ordinary prompts' tokens that caps the tokens of a prompt.
    pub prompt: f64,
    /// The quantile of ordinary answers' tokens that caps the tokens of an answer.
    pub answer: f64,
}

impl Caps<'_> {
    /// The kinds of tokens that have a threshold of their own.
    fn sides(&self) -> [(Kind, Positions, f64); 2] {
        [(Kind::PromptToken, Positions::Prompt, self.prompt), (Kind::Token, Positions::ResponseFrom(0), self.answer)]
    }

    /// The projection on a direction that the given share of ordinary readings stays below.
    ///
    /// # Errors
    /// A share that is not between 0 and 1, or readings that were not measured.
    pub fn threshold(&self, direction: usize, kind: Kind, share: f64) -> Result<f32> {
        let found = self.calibration.distribution(direction, kind).and_then(|readings| readings.quantile(share));
        let found =
            found.ok_or_else(|| format!("the calibration has no quantile {share}: quantiles are from 0 to 1"))?;
        Ok(found as f32)
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

    /// Caps only at tokens whose projection on the first direction, that of the lowest layer, is above this quantile of
    /// its kind.
    ///
    /// # Errors
    /// Those of [`everywhere`](Self::everywhere) and of [`Steerer::inhibit_when`].
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
