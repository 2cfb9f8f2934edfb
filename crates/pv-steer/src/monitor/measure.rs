//! Asking a model under many prompts, and judging what the projections foretold.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::runs::through_text;
use pv_data::{Journal, RunFolder};
use pv_judge::{Judge, Rubric};
use pv_model::{Batch, CausalLm, ForwardOptions, GenerateOptions, Message, ModelIdentity, RenderOptions};
use pv_vectors::{JudgedAnswers, Progress, pretty_json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Error, Monitor, MonitoringCorrelation, MonitoringPoint, Result, Watch, WatchId, correlation, correlations, file,
};

const FORMAT: &str = "monitor-study/1";
const RUN: &str = "run.json";
const PROJECTIONS: &str = "projections.jsonl";
const STUDY: &str = "study.json";
const POINTS: &str = "points.csv";

/// A prompt whose answers are foretold and judged.
#[derive(Clone, Debug, PartialEq)]
pub struct MonitoredPrompt {
    /// Its name in the results.
    pub id: String,
    /// What it was made to do.
    pub condition: String,
    /// The conversation, up to the question.
    pub messages: Vec<Message>,
    /// The question, as the judge is told it.
    pub question: String,
}

/// How the prompts are answered.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasureOptions {
    /// How many answers to each prompt.
    pub rollouts: usize,
    /// The seed of the first answer; answer `i` over all prompts has `seed + i`.
    pub seed: u64,
    /// How answers are generated.
    pub generate: GenerateOptions,
    /// How prompts are rendered.
    pub render: RenderOptions,
}

/// What was measured, with what it takes to draw or repeat it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MonitoringStudy {
    /// The model.
    pub model: ModelIdentity,
    /// The judge's name.
    pub judge: String,
    /// How many answers to each prompt.
    pub rollouts: usize,
    /// The seed of the first.
    pub seed: u64,
    /// How they were generated.
    pub generate: GenerateOptions,
    /// How prompts were rendered.
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
    /// The directions.
    pub directions: Vec<WatchId>,
    /// Every prompt on every direction.
    pub points: Vec<MonitoringPoint>,
    /// What follows from them.
    pub correlations: Vec<MonitoringCorrelation>,
}

impl MonitoringStudy {
    /// Writes it as JSON, whole or not at all; [`write_points`](super::write_points) writes the points alone as CSV.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        file::write_json(path.as_ref(), self)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read) or [`Error::BadFile`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        file::read_json(path.as_ref(), "a study of monitoring")
    }
}

/// A line of the projections' journal: those of a prompt's last token.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    prompt: usize,
    values: Vec<f32>,
}

/// Which answer of a measurement. Ordered as its journal is at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Place {
    prompt: usize,
    answer: usize,
}

/// Projects the last token of each prompt on every direction, answers the prompt, has the answers judged for the direction's
/// trait, and correlates the two (method: arXiv 2507.21509, monitoring).
///
/// A measurement lives in a folder: `run.json` (what it is), `projections.jsonl` and `journal.jsonl` (projections, answers and
/// verdicts, as they are reached) and at the end `study.json` and `points.csv`. One that was broken off or killed, or that the
/// judge failed, goes on where it was and ends with the same files, as a [`Sweep`](crate::Sweep) does: nothing is generated,
/// and no judge is asked, twice.
pub struct Measurement<'a> {
    model: &'a CausalLm,
    identity: ModelIdentity,
    watches: &'a [Watch],
    prompts: &'a [MonitoredPrompt],
    rubrics: &'a [Rubric],
    judge: &'a dyn Judge,
    options: MeasureOptions,
    /// The prompts' tokens.
    asked: Vec<Vec<u32>>,
    /// Each direction's among the rubrics.
    rubric_of: Vec<usize>,
}

impl std::fmt::Debug for Measurement<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Measurement");
        shown.field("prompts", &self.prompts.len()).field("options", &self.options).field("judge", &self.judge.name());
        shown.finish_non_exhaustive()
    }
}

impl<'a> Measurement<'a> {
    /// Puts a measurement together, and refuses what could not be run to its end.
    ///
    /// # Errors
    /// [`Error::BadSetting`] without prompts, answers, or a rubric of each trait's name; those of [`Monitor::new`] and of
    /// rendering a prompt; directions that the model lacks.
    pub fn new(
        model: &'a CausalLm,
        watches: &'a [Watch],
        prompts: &'a [MonitoredPrompt],
        rubrics: &'a [Rubric],
        judge: &'a dyn Judge,
        options: &MeasureOptions,
    ) -> Result<Self> {
        let bad = |reason: String| Err(Error::BadSetting { reason });
        if prompts.is_empty() || options.rollouts == 0 {
            return bad(format!("a measurement of {} prompts with {} answers each", prompts.len(), options.rollouts));
        }
        pv_model::Request::count(prompts.len(), options.rollouts)?;
        pv_hooks::check(&Monitor::new(watches.iter().cloned())?, &model.shape(), None)?;
        let mut rubric_of = Vec::with_capacity(watches.len());
        for watch in watches {
            match rubrics.iter().position(|rubric| rubric.name == watch.trait_name) {
                Some(rubric) => rubric_of.push(rubric),
                None => return bad(format!("there is no rubric for {}", watch.trait_name)),
            }
        }
        let render = options.render.as_prompt();
        let mut asked = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            asked.push(model.prompt_with(&prompt.messages, &render)?);
        }
        let identity = model.identity()?;
        Ok(Self { model, identity, watches, prompts, rubrics, judge, options: options.clone(), asked, rubric_of })
    }

    /// Runs the measurement in a folder, or goes on with the one that is there.
    ///
    /// # Errors
    /// A folder that is in use, or that holds another measurement (of other prompts, options, directions, rubrics, another model or
    /// judge); what the model and the judge say; [`Error::NotFinite`]; [`Error::MissingVerdicts`]; [`Error::Cancelled`]. Whatever
    /// the error, what had been done is kept.
    pub fn run(
        &self,
        folder: impl AsRef<Path>,
        mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<MonitoringStudy> {
        let folder = RunFolder::lock(folder.as_ref())?;
        folder.claim_with(RUN, &self.header(), &["/model/weights"])?;
        let projections = self.project(&folder, &mut on_progress)?;
        let known = |place: Place| place.prompt < self.prompts.len() && place.answer < self.options.rollouts;
        let mut answers = JudgedAnswers::open(folder, |place| known(place).then(|| self.seed(place)))?;
        self.answer(&mut answers, &mut on_progress)?;
        answers.sort()?;
        let study = self.study(&projections, &answers);
        let (text, table) = (pretty_json(&study), correlation::table(&study.points)?);
        answers.folder().write(STUDY, |file| file.write_all(text.as_bytes()))?;
        answers.folder().write(POINTS, |file| file.write_all(&table))?;
        Ok(study)
    }

    fn seed(&self, Place { prompt, answer }: Place) -> u64 {
        self.options.seed.wrapping_add((prompt * self.options.rollouts + answer) as u64)
    }

    fn places(&self) -> Vec<Place> {
        let answers = |prompt| (0..self.options.rollouts).map(move |answer| Place { prompt, answer });
        (0..self.prompts.len()).flat_map(answers).collect()
    }

    /// What a folder belongs to. Another batch size is welcome.
    fn header(&self) -> Value {
        let prompts = self.prompts.iter().zip(&self.asked);
        let prompts: Vec<Value> = prompts
            .map(|(MonitoredPrompt { id, condition, question, .. }, ids)| {
                json!({ "id": id, "condition": condition, "question": question, "sha256": hash_of_tokens(ids) })
            })
            .collect();
        let generate = GenerateOptions { batch_size: 0, prefill_tokens: 0, ..self.options.generate.clone() };
        json!({
            "format": FORMAT,
            "model": through_text(&self.identity),
            "judge": self.judge.name(),
            "directions": through_text(&self.watches.iter().map(Watch::id).collect::<Vec<_>>()),
            "rubrics": through_text(&self.rubrics),
            "rollouts": self.options.rollouts,
            "seed": self.options.seed,
            "generate": through_text(&generate),
            "prompts": prompts,
        })
    }

    /// The projections of every prompt's last token, each prompt read by itself; those that the journal has are not read again.
    fn project(
        &self,
        folder: &RunFolder,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<f32>>> {
        let mut known: Vec<Vec<f32>> = Vec::new();
        // In the order of the prompts.
        let mut journal = Journal::open_json(folder, PROJECTIONS, |line: Line| {
            let next = line.prompt == known.len() && line.prompt < self.asked.len();
            let fits = next && line.values.len() == self.watches.len();
            known.extend(fits.then_some(line.values));
            fits
        })?;
        let mut monitor = Monitor::new(self.watches.iter().cloned())?;
        let readings = monitor.readings();
        for (prompt, ids) in self.asked.iter().enumerate().skip(known.len()) {
            let batch = Batch::prompts(&[ids], vec![vec![0]])?;
            self.model.forward(&batch, ForwardOptions::default(), &mut monitor)?;
            let read = readings.take(0)?;
            let values = read.as_ref().and_then(|read| read.prompt_last()).unwrap_or_default().to_vec();
            let unread = self.watches.iter().enumerate().find(|(i, _)| !values.get(*i).is_some_and(|v| v.is_finite()));
            if let Some((_, watch)) = unread {
                let (trait_name, layer) = (watch.trait_name.clone(), watch.layer());
                return Err(Error::NotFinite { trait_name, layer });
            }
            known.push(journal.append_json(&Line { prompt, values })?.values);
            unless_broken(on_progress(Progress::Reading { done: known.len(), total: self.asked.len() }))?;
        }
        journal.sync()?;
        Ok(known)
    }

    /// Generates the answers that are missing, and asks for the verdicts that are.
    fn answer(
        &self,
        answers: &mut JudgedAnswers<Place>,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        let places = self.places();
        let (mut done, total) = (answers.answered(&places), places.len());
        let asked = |place: Place| (self.asked[place.prompt].as_slice(), self.seed(place));
        answers.generate(self.model, &places, asked, self.options.generate.clone(), &mut pv_hooks::NoHook, || {
            done += 1;
            unless_broken(on_progress(Progress::Answering { done, total }))
        })?;
        let (mut done, total) = (answers.judged(&places), places.len() * self.rubrics.len());
        let question = |place: Place| self.prompts[place.prompt].question.as_str();
        let rubrics: Vec<&Rubric> = self.rubrics.iter().collect();
        answers.judge(self.judge, &places, rubrics, question, || {
            done += 1;
            unless_broken(on_progress(Progress::Judging { done, total }))
        })?;
        match done < total {
            true => Err(Error::MissingVerdicts { judge: self.judge.name(), done, total }),
            false => Ok(()),
        }
    }

    fn study(&self, projections: &[Vec<f32>], answers: &JudgedAnswers<Place>) -> MonitoringStudy {
        let MeasureOptions { rollouts, seed, generate, render } = self.options.clone();
        let mut points = Vec::with_capacity(self.prompts.len() * self.watches.len());
        for (index, (prompt, projections)) in self.prompts.iter().zip(projections).enumerate() {
            for ((watch, rubric), projection) in self.watches.iter().zip(&self.rubric_of).zip(projections) {
                let places = (0..rollouts).map(|answer| Place { prompt: index, answer });
                let scores: Vec<f64> = places.filter_map(|place| answers.get(place)?.score(*rubric)).collect();
                let n = scores.len();
                points.push(MonitoringPoint {
                    prompt: prompt.id.clone(),
                    condition: prompt.condition.clone(),
                    trait_name: watch.trait_name.clone(),
                    layer: watch.layer(),
                    projection: f64::from(*projection),
                    expression: (n > 0).then(|| scores.iter().sum::<f64>() / n as f64),
                    n,
                });
            }
        }
        MonitoringStudy {
            model: self.identity.clone(),
            judge: self.judge.name(),
            rollouts,
            seed,
            generate,
            render: render.closed(),
            directions: self.watches.iter().map(Watch::id).collect(),
            correlations: correlations(&points),
            points,
        }
    }
}

/// The SHA-256 of a prompt's token ids, 4 bytes each, little-endian, in hexadecimal.
pub(super) fn hash_of_tokens(ids: &[u32]) -> String {
    hex::encode(Sha256::digest(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>()))
}

pub(super) fn unless_broken(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(Error::Cancelled) } else { Ok(()) }
}
