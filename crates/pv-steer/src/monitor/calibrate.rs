//! A calibration from answers that are generated for it, in a folder.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::runs::through_text;
use pv_data::{Journal, RunFolder};
use pv_model::{CausalLm, GenerateOptions, Message, ModelIdentity, RenderOptions, Request};
use pv_vectors::{Progress, pretty_json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::measure::{hash_of_tokens, unless_broken};
use super::{Answer, Calibration, Calibrator, Error, Monitor, Result, Watch};

const FORMAT: &str = "monitor-calibrating/1";
const RUN: &str = "run.json";
const READINGS: &str = "readings.jsonl";
const CALIBRATION: &str = "calibration.json";

/// How ordinary answers are generated.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrateOptions {
    /// The seed of the first answer; that to prompt `i` has `seed + i`.
    pub seed: u64,
    /// How answers are generated. Their last tokens are fed back whatever it says, so that whole answers are read.
    pub generate: GenerateOptions,
    /// Whether the prompts' tokens are read too
    /// ([`Monitor::with_prompt_tokens`](super::Monitor::with_prompt_tokens)).
    pub prompt_tokens: bool,
    /// How prompts are rendered.
    pub render: RenderOptions,
    /// Rates of false alarms that are measured besides the usual ones ([`Calibrator::with_rates`]). They change nothing that is
    /// generated, and may be others when a calibration goes on.
    pub rates: Vec<f64>,
}

/// A line of the journal: the readings of the answer to a prompt.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    prompt: usize,
    seed: u64,
    answer: Answer,
}

/// Answers prompts of ordinary traffic, and takes the readings of the answers in.
///
/// It lives in a folder: `run.json` (what it is), `readings.jsonl` (those of each answer, as they are reached) and at the end
/// `calibration.json`, which [`Calibration::load`] reads. One that was broken off or killed goes on where it was and ends with the
/// same calibration.
///
/// # Errors
/// [`Error::BadSetting`] without prompts or for a rate that is none; those of [`Monitor::new`], of rendering and of generating; [`Error::NotFinite`]; a folder
/// that is in use or holds another calibration (of other prompts, options, directions or another model); [`Error::Cancelled`].
/// Whatever the error, what had been done is kept.
pub fn calibrate(
    model: &CausalLm,
    watches: &[Watch],
    prompts: &[Vec<Message>],
    options: &CalibrateOptions,
    folder: impl AsRef<Path>,
    mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Calibration> {
    if prompts.is_empty() {
        return Err(Error::BadSetting { reason: "a calibration without prompts".to_owned() });
    }
    let monitor = Monitor::new(watches.iter().cloned())?;
    let mut monitor = if options.prompt_tokens { monitor.with_prompt_tokens() } else { monitor };
    pv_hooks::check(&monitor, &model.shape(), None)?;
    let render = options.render.as_prompt();
    let mut asked = Vec::with_capacity(prompts.len());
    for messages in prompts {
        asked.push(model.prompt_with(messages, &render)?);
    }
    let folder = RunFolder::lock(folder.as_ref())?;
    let identity = model.identity()?;
    folder.claim_with(RUN, &header(&identity, watches, &asked, options), &["/model/weights"])?;
    let seed = |prompt: usize| options.seed.wrapping_add(prompt as u64);
    let mut known: BTreeMap<usize, Answer> = BTreeMap::new();
    let mut journal = Journal::open_json(&folder, READINGS, |Line { prompt, seed: kept, answer }: Line| {
        let fits = prompt < asked.len() && kept == seed(prompt) && !known.contains_key(&prompt);
        let fits = fits && answer.readings(0).all(|reading| reading.check(watches).is_ok());
        if fits {
            known.insert(prompt, answer);
        }
        fits
    })?;
    let missing: Vec<usize> = (0..asked.len()).filter(|prompt| !known.contains_key(prompt)).collect();
    let requests: Vec<Request> =
        missing.iter().map(|&prompt| Request::new(asked[prompt].clone(), seed(prompt))).collect();
    // Every prompt by itself: in a batch, its last bits would depend on its neighbours.
    let generate = GenerateOptions { feed_last_token: true, prefill_tokens: 0, ..options.generate.clone() };
    let readings = monitor.readings();
    if !requests.is_empty() {
        model.generate_each(&requests, &generate, &mut monitor, |sequence, _| -> Result<()> {
            let prompt = missing[sequence];
            let answer = readings.take(sequence)?.unwrap_or_default();
            answer.readings(0).try_for_each(|reading| reading.check(watches))?;
            let line = journal.append_json(&Line { prompt, seed: seed(prompt), answer })?;
            known.insert(prompt, line.answer);
            unless_broken(on_progress(Progress::Answering { done: known.len(), total: asked.len() }))
        })?;
        journal.sync()?;
    }
    // In the order of the prompts, whatever the order in which their answers ended.
    let mut calibrator = Calibrator::new(watches)?.with_render(&options.render).with_rates(&options.rates)?;
    known.values().try_for_each(|answer| calibrator.add_answer(answer))?;
    let calibration = calibrator.finish(&identity);
    let text = pretty_json(&calibration);
    folder.write(CALIBRATION, |file| file.write_all(text.as_bytes()))?;
    Ok(calibration)
}

/// What a folder belongs to. Another batch size is welcome.
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
