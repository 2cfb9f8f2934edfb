//! A calibration from answers that are generated for it, in a folder.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::runs::through_text;
use pv_data::tables::pretty_json;
use pv_data::{Journal, RunFolder};
use pv_model::{CausalLm, GenerateOptions, Message, ModelIdentity, RenderOptions, Request};
use pv_vectors::contrast::Progress;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::calibration::{Calibration, Calibrator};
use super::hook::Monitor;
use super::reading::Answer;
use super::runs::{hash_of_tokens, unless_broken};
use super::watch::Watch;
use crate::Result;
use crate::error::SettingError;

const FORMAT: &str = "monitor-calibrating/1";
const RUN: &str = "run.json";
const READINGS: &str = "readings.jsonl";
const CALIBRATION: &str = "calibration.json";

/// Options of the ordinary answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CalibrateOptions {
    /// The seed of the first answer; the answer to prompt `i` has `seed + i`.
    pub seed: u64,
    /// The options of generation. The last tokens are fed back whatever this says, so that whole answers are read.
    pub generate: GenerateOptions,
    /// Whether the prompts' tokens are read too ([`Monitor::with_prompt_tokens`](super::Monitor::with_prompt_tokens)).
    pub prompt_tokens: bool,
    /// How prompts are rendered.
    pub render: RenderOptions,
    /// Additional rates at which false alarms are measured ([`Calibrator::with_rates`]). They do not affect generation,
    /// and may change when a calibration resumes.
    pub rates: Vec<f64>,
}

/// A line of the journal: the readings of the answer to a prompt.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    prompt: usize,
    seed: u64,
    answer: Answer,
}

/// Generates answers to prompts of ordinary traffic, and adds their readings to a calibration.
///
/// The calibration has a folder: `run.json` (its description), `readings.jsonl` (the readings of each answer, as they
/// are reached) and at the end `calibration.json`, which [`Calibration::load`] reads. An interrupted calibration
/// resumes and gives the same result. A calibration can be extended in its folder with more prompts after the existing
/// ones, and computed again from the first of them.
///
/// # Errors
/// [`Error::Setting`](crate::Error::Setting) without prompts or for an invalid rate; those of [`Monitor::new`], of rendering and of
/// generating; [`MonitorError::NotFinite`](crate::error::MonitorError::NotFinite); a folder that is in use or contains another calibration (with other prompts,
/// options, directions or another model); [`Error::Cancelled`](crate::Error::Cancelled). After any error, the results so far are kept.
pub fn calibrate(
    model: &CausalLm,
    watches: &[Watch],
    prompts: &[Vec<Message>],
    options: &CalibrateOptions,
    folder: impl AsRef<Path>,
    mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Calibration> {
    if prompts.is_empty() {
        return Err(SettingError::NoPrompts.into());
    }
    let monitor = Monitor::new(watches.iter().cloned())?;
    let mut monitor = if options.prompt_tokens { monitor.with_prompt_tokens() } else { monitor };
    pv_hooks::hook::check(&monitor, &model.shape(), None)?;
    let render = options.render.as_prompt();
    let mut asked = Vec::with_capacity(prompts.len());
    for messages in prompts {
        asked.push(model.prompt_with(messages, &render)?);
    }
    let folder = RunFolder::lock(folder.as_ref())?;
    let identity = model.identity()?;
    folder.claim_growing(RUN, &header(&identity, watches, &asked, options), &["/model/weights"], &["/prompts"])?;
    // The folder may have more prompts than these.
    let description = folder.read_json(RUN)?;
    let prompts = description.as_ref().and_then(|description| description["prompts"].as_array()).map_or(0, Vec::len);
    let seed = |prompt: usize| options.seed.wrapping_add(prompt as u64);
    let mut known: BTreeMap<usize, Answer> = BTreeMap::new();
    let mut journal = Journal::open_json(&folder, READINGS, |Line { prompt, seed: kept, answer }: Line| {
        let fits = prompt < prompts && kept == seed(prompt) && !known.contains_key(&prompt);
        let fits = fits && answer.readings(0).all(|reading| reading.check(watches).is_ok());
        if fits {
            known.insert(prompt, answer);
        }
        fits
    })?;
    let missing: Vec<usize> = (0..asked.len()).filter(|prompt| !known.contains_key(prompt)).collect();
    let requests: Vec<Request> =
        missing.iter().map(|&prompt| Request::new(asked[prompt].clone(), seed(prompt))).collect();
    let (mut done, total) = (asked.len() - missing.len(), asked.len());
    // No last bit of a projection may depend on the other prompts.
    let generate = GenerateOptions { feed_last_token: true, prefill_tokens: 0, ..options.generate.clone() };
    let readings = monitor.readings();
    if !requests.is_empty() {
        model.generate_each(&requests, &generate, &mut monitor, |sequence, _| -> Result<()> {
            let prompt = missing[sequence];
            let answer = readings.take(sequence)?.unwrap_or_default();
            answer.readings(0).try_for_each(|reading| reading.check(watches))?;
            let line = journal.append_json(&Line { prompt, seed: seed(prompt), answer })?;
            known.insert(prompt, line.answer);
            done += 1;
            unless_broken(on_progress(Progress::Answering { done, total }))
        })?;
        journal.sync()?;
    }
    // In the order of the prompts, whatever the order in which their answers finished.
    let mut calibrator = Calibrator::new(watches)?.with_render(&options.render).with_rates(&options.rates)?;
    known.range(..total).try_for_each(|(_, answer)| calibrator.add_answer(answer))?;
    let calibration = calibrator.finish(&identity);
    let text = pretty_json(&calibration);
    folder.write(CALIBRATION, |file| file.write_all(text.as_bytes()))?;
    Ok(calibration)
}

/// The description that identifies the run in its folder. The batch size may change.
fn header(model: &ModelIdentity, watches: &[Watch], asked: &[Vec<u32>], options: &CalibrateOptions) -> Value {
    let generate =
        GenerateOptions { batch_size: 0, prefill_tokens: 0, feed_last_token: true, ..options.generate.clone() };
    json!({
        "format": FORMAT,
        "model": through_text(model),
        "directions": through_text(&watches.iter().map(Watch::id).collect::<Vec<_>>()),
        "seed": options.seed,
        "prompt_tokens": options.prompt_tokens,
        "generate": through_text(&generate),
        "prompts": asked.iter().map(|ids| hash_of_tokens(ids)).collect::<Vec<_>>(),
    })
}
