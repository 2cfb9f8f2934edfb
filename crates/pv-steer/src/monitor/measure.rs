//! Measurements of how well projections predict a judge's scores, over many prompts.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::tables::pretty_json;
use pv_data::{Journal, RunFolder};
use pv_judge::{Judge, Rubric};
use pv_model::batch::Batch;
use pv_model::causal_lm::ForwardOptions;
use pv_model::{CausalLm, GenerateOptions, Message, ModelIdentity, RenderOptions};
use pv_vectors::contrast::Progress;
use pv_vectors::judged_answers::JudgedAnswers;
use serde::{Deserialize, Serialize};

use self::folder::{Identity, Known, KnownPrompt, Place};
use super::correlation::{self, MonitoringCorrelation, MonitoringPoint, correlations};
use super::file;
use super::hook::Monitor;
use super::runs::{hash_of_tokens, unless_broken};
use super::watch::{Watch, WatchId};
use crate::error::{MonitorError, SettingError};
use crate::{Error, Result};

mod folder;

const PROJECTIONS: &str = "projections.jsonl";
const STUDY: &str = "study.json";
const POINTS: &str = "points.csv";

/// A prompt whose answers are predicted and judged.
#[derive(Clone, Debug, PartialEq)]
pub struct MonitoredPrompt {
    /// Its name in the results.
    pub id: String,
    /// The condition of the prompt, such as the level of its system prompt.
    pub condition: String,
    /// The conversation, up to the question.
    pub messages: Vec<Message>,
    /// The question as it is shown to the judge.
    pub question: String,
}

/// Options of a measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasureOptions {
    /// The number of answers to each prompt.
    pub rollouts: usize,
    /// The seed from which the seeds of all answers are derived.
    pub seed: u64,
    /// The options of generation.
    pub generate: GenerateOptions,
    /// How prompts are rendered.
    pub render: RenderOptions,
}

impl Default for MeasureOptions {
    /// Ten answers to each prompt.
    fn default() -> Self {
        Self { rollouts: 10, seed: 0, generate: GenerateOptions::default(), render: RenderOptions::default() }
    }
}

/// The results of a measurement, with everything that is needed to draw or repeat it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MonitoringStudy {
    /// The model.
    pub model: ModelIdentity,
    /// The judge's name.
    pub judge: String,
    /// The number of answers to each prompt.
    pub rollouts: usize,
    /// The seed from which the seeds of the answers are derived.
    pub seed: u64,
    /// The options of generation.
    pub generate: GenerateOptions,
    /// The options with which prompts were rendered.
    #[serde(default, skip_serializing_if = "RenderOptions::is_default")]
    pub render: RenderOptions,
    /// The directions.
    pub directions: Vec<WatchId>,
    /// Every prompt on every direction.
    pub points: Vec<MonitoringPoint>,
    /// The correlations over the points.
    pub correlations: Vec<MonitoringCorrelation>,
}

impl MonitoringStudy {
    /// Saves the study as JSON, atomically; [`write_points`](super::write_points) writes only the points, as CSV.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        file::write_json(path.as_ref(), self)
    }

    /// Loads a study that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`FileError::Read`](pv_data::FileError::Read) or [`Error::BadFile`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        file::read_json(path.as_ref(), "a study of monitoring")
    }
}

/// A line of the projections' journal: the projections of one prompt's last token. The prompt is an index of the
/// folder's list.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    prompt: usize,
    values: Vec<f32>,
}

/// Projects the last token of each prompt on every direction, generates answers to the prompt, has them judged for the
/// direction's trait, and correlates the two (method: arXiv 2507.21509, monitoring).
///
/// A measurement has a folder: `run.json` (what determines its answers), `projections.jsonl` and `journal.jsonl`
/// (projections, answers and verdicts, as they are reached) and at the end `study.json` and `points.csv`. After an
/// interruption or a failure of the judge it resumes, and its final files are the same, as with a
/// [`Sweep`](crate::sweep::Sweep): no answer is generated and no verdict requested twice.
///
/// A measurement can be extended in its folder, with more prompts or more answers to each, and several judges, or
/// several versions of a rubric, may score the same answers, one run after another. The results are those of a
/// measurement that was as large from the beginning. `study.json` has the results of the last run; the verdicts of all
/// are kept in the journal. A folder of an earlier version, whose seeds depended on the number of answers, keeps its
/// answers when it is extended.
pub struct Measurement<'a> {
    model: &'a CausalLm,
    identity: ModelIdentity,
    watches: &'a [Watch],
    prompts: &'a [MonitoredPrompt],
    /// Those of the directions' traits.
    rubrics: Vec<&'a Rubric>,
    judge: &'a dyn Judge,
    options: MeasureOptions,
    /// The token ids of the prompts.
    asked: Vec<Vec<u32>>,
    /// The index of each direction's rubric.
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
    /// Sets up a measurement, and refuses one that could not finish.
    ///
    /// # Errors
    /// [`Error::Setting`] without prompts, without answers, or without a rubric with each trait's name; those of
    /// [`Monitor::new`] and of rendering a prompt; directions that do not fit the model.
    pub fn new(
        model: &'a CausalLm,
        watches: &'a [Watch],
        prompts: &'a [MonitoredPrompt],
        rubrics: &'a [Rubric],
        judge: &'a dyn Judge,
        options: &MeasureOptions,
    ) -> Result<Self> {
        if prompts.is_empty() {
            return Err(SettingError::NoPrompts.into());
        }
        if options.rollouts == 0 {
            return Err(SettingError::Zero { name: "the number of answers to each prompt" }.into());
        }
        pv_model::Request::count(prompts.len(), options.rollouts)?;
        pv_hooks::hook::check(&Monitor::new(watches.iter().cloned())?, &model.shape(), None)?;
        let (mut used, mut rubric_of) = (Vec::<&Rubric>::new(), Vec::with_capacity(watches.len()));
        for watch in watches {
            let named = |rubric: &&Rubric| rubric.name == watch.trait_name;
            let Some(rubric) = rubrics.iter().find(named) else {
                return Err(SettingError::NoRubric { trait_name: watch.trait_name.clone() }.into());
            };
            rubric_of.push(used.iter().position(named).unwrap_or(used.len()));
            if rubric_of.last() == Some(&used.len()) {
                used.push(rubric);
            }
        }
        let render = options.render.as_prompt();
        let mut asked = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            asked.push(model.prompt_with(&prompt.messages, &render)?);
        }
        let identity = model.identity()?;
        Ok(Self { model, identity, watches, prompts, rubrics: used, judge, options: options.clone(), asked, rubric_of })
    }

    /// Runs the measurement in a folder, or resumes or extends the one in it.
    ///
    /// # Errors
    /// A folder that is in use, or that contains a measurement with other answers or directions (of another model, with
    /// another seed or other options of generation); errors of the model and the judge; [`MonitorError::NotFinite`]; [`Error::MissingVerdicts`];
    /// [`Error::Cancelled`]. After any error, the results so far are kept.
    pub fn run(
        &self,
        folder: impl AsRef<Path>,
        mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<MonitoringStudy> {
        let folder = RunFolder::lock(folder.as_ref())?;
        let known = self.identity().claim(&folder)?;
        let projections = self.project(&folder, &known, &mut on_progress)?;
        let mut answers = JudgedAnswers::open_for(
            folder,
            |place| known.seed(place),
            self.judge,
            self.rubrics.iter().copied(),
            |_, _| None,
        )?;
        self.answer(&mut answers, &known, &mut on_progress)?;
        answers.sort()?;
        let study = self.study(&projections, &answers, &known);
        let (text, table) = (pretty_json(&study), correlation::table(&study.points)?);
        answers.folder().write(STUDY, |file| file.write_all(text.as_bytes()))?;
        answers.folder().write(POINTS, |file| file.write_all(&table))?;
        Ok(study)
    }

    fn identity(&self) -> Identity<'_> {
        let prompts = self.prompts.iter().zip(&self.asked).map(|(MonitoredPrompt { id, question, .. }, ids)| {
            KnownPrompt { id: id.clone(), question: question.clone(), sha256: hash_of_tokens(ids) }
        });
        Identity {
            model: &self.identity,
            directions: self.watches.iter().map(Watch::id).collect(),
            seed: self.options.seed,
            generate: &self.options.generate,
            prompts: prompts.collect(),
        }
    }

    /// The projections of every prompt's last token, each prompt read alone. Those in the journal are not computed
    /// again.
    fn project(
        &self,
        folder: &RunFolder,
        known: &Known,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<f32>>> {
        let mut found: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
        let mut journal = Journal::open_json(folder, PROJECTIONS, |Line { prompt, values }: Line| {
            let fits = prompt < known.len() && values.len() == self.watches.len() && !found.contains_key(&prompt);
            if fits {
                found.insert(prompt, values);
            }
            fits
        })?;
        let mut monitor = Monitor::new(self.watches.iter().cloned())?;
        let readings = monitor.readings();
        let total = self.asked.len();
        let mut done = known.of.iter().filter(|prompt| found.contains_key(prompt)).count();
        for (&prompt, ids) in known.of.iter().zip(&self.asked) {
            if found.contains_key(&prompt) {
                continue;
            }
            let batch = Batch::prompts(&[ids], vec![vec![0]])?;
            self.model.forward(&batch, ForwardOptions::default(), &mut monitor)?;
            let read = readings.take(0)?;
            let values = read.as_ref().and_then(|read| read.prompt_last()).unwrap_or_default().to_vec();
            let unread = self.watches.iter().enumerate().find(|(i, _)| !values.get(*i).is_some_and(|v| v.is_finite()));
            if let Some((_, watch)) = unread {
                let (trait_name, layer) = (watch.trait_name.clone(), watch.layer());
                return Err(MonitorError::NotFinite { trait_name, layer }.into());
            }
            found.insert(prompt, journal.append_json(&Line { prompt, values })?.values);
            done += 1;
            unless_broken(on_progress(Progress::Reading { done, total }))?;
        }
        journal.sync()?;
        Ok(known.of.iter().filter_map(|prompt| found.get(prompt).cloned()).collect())
    }

    /// Generates the missing answers, and requests the missing verdicts.
    fn answer(
        &self,
        answers: &mut JudgedAnswers<Place>,
        known: &Known,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        // Which of this measurement's prompts a prompt of the folder is.
        let of: BTreeMap<usize, usize> = known.of.iter().enumerate().map(|(here, &prompt)| (prompt, here)).collect();
        let each = |&prompt: &usize| (0..self.options.rollouts).map(move |answer| Place { prompt, answer });
        let places: Vec<Place> = known.of.iter().flat_map(each).collect();
        let (mut done, total) = (answers.answered(&places), places.len());
        let asked = |place: Place| (self.asked[of[&place.prompt]].as_slice(), known.seed(place).unwrap_or_default());
        answers.generate(self.model, &places, asked, self.options.generate.clone(), &mut pv_hooks::NoHook, || {
            done += 1;
            unless_broken(on_progress(Progress::Answering { done, total }))
        })?;
        let (mut done, total) = (answers.judged(&places), places.len() * self.rubrics.len());
        let question = |place: Place| self.prompts[of[&place.prompt]].question.as_str();
        answers.judge(self.judge, &places, &self.rubrics, question, || {
            done += 1;
            unless_broken(on_progress(Progress::Judging { done, total }))
        })?;
        match done < total {
            true => Err(Error::MissingVerdicts { judge: self.judge.name(), done, total }),
            false => Ok(()),
        }
    }

    fn study(&self, projections: &[Vec<f32>], answers: &JudgedAnswers<Place>, known: &Known) -> MonitoringStudy {
        let MeasureOptions { rollouts, seed, generate, render } = self.options.clone();
        let mut points = Vec::with_capacity(self.prompts.len() * self.watches.len());
        for ((prompt, &index), projections) in self.prompts.iter().zip(&known.of).zip(projections) {
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
