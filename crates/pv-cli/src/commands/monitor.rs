//! Monitors a trait: while a model answers, on ordinary traffic, and compared with a judge.

mod calibrate;
mod chat;
mod study;

use pv_hooks::Layer;
use pv_model::{CausalLm, GenerateOptions, RenderOptions};
use pv_steer::monitor::{Calibration, Kind, Watch};
use serde_json::Value;

use crate::calibrating::{Ordinary, OrdinaryArgs, kept_calibration};
use crate::invocation::Invocation;
use crate::traits::NamedTrait;
use crate::vectors::{TraitOfModel, TraitVectorArgs};
use crate::{Result, SAMPLING};

/// The subcommands of `persona monitor`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Answer questions with tokens coloured by their projection on a trait's vector, and with alarms.
    ///
    /// Without arguments, the organism answers one question without a system prompt and then under one that elicits the
    /// trait.
    Chat(chat::Args),
    /// Calibrate: measure and save the distribution of a trait's projections on ordinary traffic.
    Calibrate(calibrate::Args),
    /// Measure how well projections before the answer predict the judged answers.
    ///
    /// A study can be extended in its folder (--out) with more questions and answers, or judged again by another judge:
    /// existing answers and scores are used again.
    Study(study::Args),
}

impl Command {
    pub(super) fn run(self, here: &Invocation) -> Result<Value> {
        match self {
            Self::Chat(args) => chat::run(&args),
            Self::Calibrate(args) => calibrate::run(&args),
            Self::Study(args) => study::run(&args, here),
        }
    }
}

/// What is monitored, and the ordinary traffic.
#[derive(clap::Args, Debug)]
struct WatchArgs {
    #[command(flatten)]
    of: TraitVectorArgs,
    #[command(flatten)]
    ordinary: OrdinaryArgs,
    /// The share of ordinary answers that may raise an alarm, half of it before the answer and half by the answer's
    /// mean. By default 0.05, or more if there are too few ordinary questions for that.
    #[arg(long, alias = "alarm", value_name = "RATE", value_parser = rate)]
    alarm_rate: Option<f64>,
    /// The maximum number of tokens in an answer.
    #[arg(long, default_value_t = 80)]
    max_new_tokens: usize,
}

/// The readings that can raise an alarm.
const KINDS: [(Kind, &str); 2] =
    [(Kind::PromptLast, "before the answer"), (Kind::ResponseMean, "by the answer's mean")];

/// A model, and what is monitored while it answers.
struct Watched {
    named: NamedTrait,
    model: CausalLm,
    watches: [Watch; 1],
    layer: Layer,
    options: GenerateOptions,
    render: RenderOptions,
    questions: Vec<String>,
    /// The share of ordinary answers that may raise an alarm, in total and for each kind of reading.
    alarm: f64,
    each: f64,
}

impl WatchArgs {
    fn load(&self) -> Result<Watched> {
        let loaded = self.of.load()?;
        let vector = self.of.vector(&loaded, self.max_new_tokens, 0)?;
        let TraitOfModel { named, render, contrast, model } = loaded;
        let layer = self.of.layer(&model);
        let watches = [Watch::of(&vector, layer)?];
        let options = GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            sampling: SAMPLING,
            feed_last_token: true,
            ..GenerateOptions::default()
        };
        let questions = self.ordinary.questions(&self.of.model, &contrast)?;
        // Each half of the ordinary answers must be large enough to measure the alarms of the other half.
        let least = KINDS.len() as f64 / (questions.len() / 2 + 1) as f64;
        let alarm = self.alarm_rate.unwrap_or(least.clamp(0.05, 0.5));
        let each = alarm / KINDS.len() as f64;
        Ok(Watched { named, model, watches, layer, options, render, questions, alarm, each })
    }

    /// The calibration, measured or loaded from the cache.
    fn calibration(&self, watched: &Watched) -> Result<Calibration> {
        let Watched { model, watches, options, render, questions, each, .. } = watched;
        let rates = [*each];
        let ordinary = Ordinary { questions, generate: options, render, rates: &rates };
        kept_calibration(&self.of.model, model, watches, &ordinary)
    }
}

/// Parses a rate of alarms.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate < 1.0 => Ok(rate),
        _ => Err(format!("{text:?} is not a rate between 0 and 1")),
    }
}
