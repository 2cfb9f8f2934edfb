//! A data set's screening, from its files to a table and a summary, stopped and gone on with at will.

mod answer;
mod project;
mod summary;
mod write;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pv_data::conversations::Format;
use pv_data::files::sha256_of_file;
use pv_data::runs::through_text;
use pv_data::{ConversationReader, Journal, RunFolder};
use pv_hooks::HookError;
use pv_model::CausalLm;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::estimate::{EstimateOptions, Stop};
use crate::hashes;
use crate::likelihood::Persona;
use crate::sample::ReadingOptions;
use crate::{BaseOptions, Error, Result, TraitDirection, Turns};
pub use summary::{DirectionSummary, HashedFile, Summary};

const FORMAT: &str = "pv-screening/1";
const HEADER: &str = "screening.json";
const JOURNAL: &str = "projections.jsonl";
/// The table: one [`ScoreRow`](crate::ScoreRow) per line.
pub const SCORES: &str = "scores.jsonl";
/// What was not screened: a place and a [`Skip`](crate::Skip) per line.
pub const SKIPPED: &str = "skipped.jsonl";
/// What was noticed of answers that were screened: a place and a [`Skip`](crate::Skip) per line. There is no such file where
/// nothing was.
pub const NOTICED: &str = "noticed.jsonl";
/// The [`Summary`].
pub const SUMMARY: &str = "summary.json";

/// For which samples the base model's answer is generated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "for")]
pub enum Base {
    /// For every one: each gets its ΔP.
    #[default]
    Every,
    /// For a random part, from which the data set's ΔP is estimated.
    Random {
        /// How many distinct samples.
        size: usize,
    },
    /// For a growing random part, until enough is known on every direction.
    Until {
        /// How many at first, at least [`FIRST_LOOK`](crate::FIRST_LOOK); then twice as many each time.
        first: usize,
        /// How many at most.
        most: usize,
        /// When it is enough.
        stop: Stop,
    },
    /// For none: projections only.
    None,
}

/// How data is screened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScreenOptions {
    /// Which answers of a conversation.
    pub turns: Turns,
    /// The roles that messages may have, where they are others than
    /// [`ConversationReader`]'s.
    pub roles: Option<Vec<String>>,
    /// The form in which every row holds its conversation; `None` for what its keys say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// How the model reads a conversation: template options, and how to treat what the template leaves out. Base answers are
    /// to the same prompts.
    #[serde(default, skip_serializing_if = "ReadingOptions::is_default")]
    pub reading: ReadingOptions,
    /// How many tokens prompt and answer may have together; `None` for as many as the model has positions.
    pub max_tokens: Option<usize>,
    /// How many tokens are read in one pass, padding included.
    pub batch_tokens: usize,
    /// So many distinct answers are sorted by length together; as many are in memory at a time.
    pub chunk: usize,
    /// Which samples get a base answer.
    pub base: Base,
    /// How base answers are generated.
    pub answers: BaseOptions,
    /// Where base answers are kept, for several screenings; beside the table by default.
    #[serde(skip)]
    pub cache: Option<PathBuf>,
    /// How the data set's ΔP is estimated.
    pub estimate: EstimateOptions,
    /// Seeds which samples are the random part.
    pub seed: u64,
}

impl Default for ScreenOptions {
    fn default() -> Self {
        Self {
            turns: Turns::Every,
            roles: None,
            format: None,
            reading: ReadingOptions::default(),
            max_tokens: None,
            batch_tokens: 4096,
            chunk: 512,
            base: Base::Every,
            answers: BaseOptions::default(),
            cache: None,
            estimate: EstimateOptions::default(),
            seed: 0,
        }
    }
}

/// What a screening is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Counting what there is.
    Counting,
    /// Projecting the data set's answers.
    Projecting,
    /// Generating base answers.
    Answering,
    /// Writing the table.
    Writing,
}

/// How far a screening has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScreenProgress {
    /// What it is doing.
    pub step: Step,
    /// How much of the step is done, earlier runs included.
    pub done: usize,
    /// How much there is; 0 while it is being counted.
    pub total: usize,
    /// How much this run does in a second.
    pub per_second: f64,
    /// How long the step will take yet, where that can be told.
    pub left: Option<Duration>,
}

/// The screening of data sets on directions.
#[derive(Clone, Debug)]
pub struct Screen<'a> {
    model: &'a CausalLm,
    directions: Vec<TraitDirection>,
    options: ScreenOptions,
}

impl<'a> Screen<'a> {
    /// On directions of any traits and layers, each label once.
    ///
    /// # Errors
    /// [`Error::BadSetting`]; directions that the model lacks.
    pub fn new(model: &'a CausalLm, directions: &[TraitDirection], options: &ScreenOptions) -> Result<Self> {
        if directions.is_empty() {
            return Err(Error::bad("a screening without directions"));
        }
        if options.chunk == 0 {
            return Err(Error::bad("a screening of nothing at a time"));
        }
        if let Base::Until { first, most, stop } = options.base
            && (first == 0 || most < first || stop == Stop::default())
        {
            return Err(Error::bad("a screening until nothing in particular, or from no samples on"));
        }
        let shape = model.shape();
        for (at, named) in directions.iter().enumerate() {
            let (layer, found) = (named.direction.layer(), named.direction.values().len());
            let hook = "the screening".to_owned();
            if layer > shape.last_layer() {
                return Err(HookError::LayerOutOfRange { hook, layer, last: shape.last_layer() }.into());
            }
            if found != shape.d_model {
                return Err(HookError::WidthMismatch { hook, layer, expected: shape.d_model, found }.into());
            }
            if directions[..at].iter().any(|other| other.label() == named.label()) {
                return Err(Error::bad(format!("there are two directions {}", named.label())));
            }
        }
        Ok(Self { model, directions: directions.to_vec(), options: options.clone() })
    }

    /// Screens one data set (files, folders and patterns, as [`ConversationReader`] takes them) into a folder: the table
    /// [`SCORES`], [`SKIPPED`] and [`SUMMARY`].
    ///
    /// A run that was broken off or killed, at any moment, goes on in its folder, and ends with the same files as one that was not:
    /// of what had been computed, at most one batch is computed again. Identical prompts with identical answers are computed
    /// once. The data is read several times, a few rows at a time; in memory are a few hundred bytes per distinct answer
    /// (ids, places, projections), and no text or activation of it.
    ///
    /// # Errors
    /// Inputs that are not there, a folder of another screening (of other files, another model, or other options), the errors of
    /// passes and generation, [`Error::Cancelled`]. Bad rows and files are no errors: they are counted and listed.
    pub fn run<P: AsRef<Path>>(
        &self,
        inputs: &[P],
        folder: &Path,
        on_progress: impl FnMut(ScreenProgress) -> ControlFlow<()>,
    ) -> Result<Summary> {
        self.run_with(inputs, folder, &mut [], on_progress)
    }

    /// As [`run`](Self::run), and every answer is read under each of some personas too, which gives the table its likelihoods.
    ///
    /// # Errors
    /// As [`run`](Self::run); two personas of one label; personas that do not fit the model.
    pub fn run_with<P: AsRef<Path>>(
        &self,
        inputs: &[P],
        folder: &Path,
        personas: &mut [Persona<'_>],
        mut on_progress: impl FnMut(ScreenProgress) -> ControlFlow<()>,
    ) -> Result<Summary> {
        for (at, persona) in personas.iter().enumerate() {
            pv_hooks::check(persona.hook, &self.model.shape(), None)?;
            if personas[..at].iter().any(|other| other.label == persona.label) {
                return Err(Error::bad(format!("there are two personas {}", persona.label)));
            }
        }
        let inputs: Vec<PathBuf> = inputs.iter().map(|input| input.as_ref().to_owned()).collect();
        let files = ConversationReader::new(&inputs)?.files().to_vec();
        let hashed = |path: &PathBuf| Ok(HashedFile { path: path.clone(), sha256: sha256_of_file(path)?.0 });
        let files = files.iter().map(hashed).collect::<Result<Vec<_>>>()?;
        let place = RunFolder::lock(folder)?;
        let mut header = json!({
            "format": FORMAT,
            "model": self.model.identity()?,
            "directions": self.directions.iter().map(DirectionSummary::identity).collect::<Vec<_>>(),
            "files": files,
            "options": self.saved_options(),
        });
        if !personas.is_empty() {
            let described = personas.iter().map(|persona| (&persona.label, &persona.description));
            header["personas"] = json!(described.collect::<Vec<_>>());
        }
        place.claim(HEADER, &through_text(&header))?;
        let mut entries = HashMap::new();
        let (width, speakers) = (self.directions.len(), personas.len());
        let journal = Journal::open(&place, JOURNAL, |at, line| match serde_json::from_slice::<project::Line>(line) {
            Ok(line) if line.fits(width, speakers) => {
                entries.insert(hashes::key(&line.id), project::Entry { at, ok: line.skip.is_none(), count: 0 });
                true
            }
            _ => false,
        })?;
        let mut run = Run {
            screen: self,
            personas,
            inputs,
            folder: place,
            journal,
            entries,
            order: Vec::new(),
            answers: 0,
            on_progress: &mut on_progress,
        };
        run.count()?;
        run.project()?;
        let found = run.answer()?;
        run.write(files, found)
    }

    /// The options that decide the result.
    fn saved_options(&self) -> ScreenOptions {
        let answers = BaseOptions { batch_size: 0, ..self.options.answers.clone() };
        ScreenOptions { cache: None, answers, ..self.options.clone() }
    }
}

/// A screening that is going on.
struct Run<'s, 'a, 'p> {
    screen: &'s Screen<'a>,
    personas: &'s mut [Persona<'p>],
    inputs: Vec<PathBuf>,
    folder: RunFolder,
    journal: Journal,
    /// What is known of each distinct answer.
    entries: HashMap<u128, project::Entry>,
    /// The distinct answers with projections, in an order that the seed and their ids decide.
    order: Vec<(u64, u128)>,
    /// Answers in the data set.
    answers: usize,
    on_progress: &'s mut dyn FnMut(ScreenProgress) -> ControlFlow<()>,
}

impl Run<'_, '_, '_> {
    fn tell(&mut self, meter: &Meter, done: usize, total: usize) -> Result<()> {
        match (self.on_progress)(meter.read(done, total)) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }
}

/// Measures the pace of a step.
struct Meter {
    step: Step,
    began: Instant,
    /// How much of the step was done by earlier runs.
    before: usize,
}

impl Meter {
    fn new(step: Step, before: usize) -> Self {
        Self { step, began: Instant::now(), before }
    }

    fn read(&self, done: usize, total: usize) -> ScreenProgress {
        let fresh = done.saturating_sub(self.before) as f64;
        let seconds = self.began.elapsed().as_secs_f64();
        let per_second = if seconds > 0.0 { fresh / seconds } else { 0.0 };
        let left = (per_second > 0.0 && total > 0).then(|| total.saturating_sub(done) as f64 / per_second);
        let left = left.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        ScreenProgress { step: self.step, done, total, per_second, left }
    }
}
