//! The screening of a data set, from its files to a table and a summary; it can be interrupted and resumed.

mod answer;
mod project;
mod stream;
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
use serde_json::{Value, json};

use crate::base_answers::BaseOptions;
use crate::error::SettingError;
use crate::estimate::{EstimateOptions, Stop};
use crate::likelihood::Persona;
use crate::sample::{ReadingOptions, Turns};
use crate::{Error, Result, hashes};
use pv_vectors::TraitDirection;
pub use summary::{DirectionSummary, HashedFile, Summary};

const FORMAT: &str = "pv-screening/1";
const HEADER: &str = "screening.json";
const JOURNAL: &str = "projections.jsonl";
/// The table: one [`ScoreRow`](crate::scores::ScoreRow) per line.
pub const SCORES: &str = "scores.jsonl";
/// The skipped rows and answers: a place and a [`Skip`](crate::sample::Skip) per line.
pub const SKIPPED: &str = "skipped.jsonl";
/// Remarks on answers that were screened: a place and a [`Skip`](crate::sample::Skip) per line. Without remarks the
/// file does not exist.
pub const NOTICED: &str = "noticed.jsonl";
/// The [`Summary`].
pub const SUMMARY: &str = "summary.json";

/// The samples for which a base answer is generated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "for")]
pub enum Base {
    /// All samples: each has a ΔP.
    #[default]
    Every,
    /// A random subset, from which the data set's ΔP is estimated.
    Random {
        /// The number of distinct samples.
        size: usize,
    },
    /// A growing random subset, until every direction is decided.
    Until {
        /// The initial number of samples, at least [`FIRST_LOOK`](crate::estimate::FIRST_LOOK); it is doubled each
        /// time.
        first: usize,
        /// The maximum number of samples.
        most: usize,
        /// The stopping rule.
        stop: Stop,
    },
    /// No samples: projections only.
    None,
}

/// The options of a screening.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScreenOptions {
    /// The answers of a conversation that are screened.
    pub turns: Turns,
    /// The allowed roles of messages, if they differ from [`ConversationReader`]'s.
    pub roles: Option<Vec<String>>,
    /// The format of the rows; `None` detects it from each row's keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// How conversations are rendered: template options, and how to handle parts that the template omits. Base answers
    /// are generated for the same prompts.
    #[serde(default, skip_serializing_if = "ReadingOptions::is_default")]
    pub reading: ReadingOptions,
    /// The maximum number of tokens of prompt and answer together; `None` for the model's number of positions.
    pub max_tokens: Option<usize>,
    /// The number of tokens that are read in one pass, including padding. A resumed screening may have another value;
    /// projections then differ by rounding.
    pub batch_tokens: usize,
    /// The number of distinct answers that are sorted by length together and held in memory. A resumed screening may
    /// have another value, as for `batch_tokens`.
    pub chunk: usize,
    /// The samples that get a base answer.
    pub base: Base,
    /// Options for generating base answers.
    pub answers: BaseOptions,
    /// The folder of the cache of base answers, which several screenings may share; by default it is beside the table.
    #[serde(skip)]
    pub cache: Option<PathBuf>,
    /// Options for estimating the data set's ΔP.
    pub estimate: EstimateOptions,
    /// The seed for selecting the random subset.
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

/// The current phase of a screening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Counting the data set's answers.
    Counting,
    /// Projecting the data set's answers.
    Projecting,
    /// Generating base answers.
    Answering,
    /// Writing the table.
    Writing,
}

/// The progress of a screening.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ScreenProgress {
    /// The current phase.
    pub step: Step,
    /// The amount of work that is done in this phase, including earlier runs.
    pub done: usize,
    /// The total amount of work in this phase; 0 while it is being counted.
    pub total: usize,
    /// The amount of work per second in this run.
    pub per_second: f64,
    /// The estimated remaining time of the phase, if it is known.
    pub left: Option<Duration>,
}

/// Screens data sets on directions.
#[derive(Clone, Debug)]
pub struct Screen<'a> {
    model: &'a CausalLm,
    directions: Vec<TraitDirection>,
    options: ScreenOptions,
}

impl<'a> Screen<'a> {
    /// Creates a screening on directions of any traits and layers. Labels must be distinct.
    ///
    /// # Errors
    /// [`Error::Setting`]; directions that do not fit the model.
    pub fn new(model: &'a CausalLm, directions: &[TraitDirection], options: &ScreenOptions) -> Result<Self> {
        if directions.is_empty() {
            return Err(SettingError::NoDirections.into());
        }
        if options.chunk == 0 {
            return Err(SettingError::Zero { name: "chunk" }.into());
        }
        if let Base::Until { first, most, stop } = options.base {
            if first == 0 {
                return Err(SettingError::Zero { name: "the first number of base answers" }.into());
            }
            if most < first {
                return Err(SettingError::FirstBeyondMost { first, most }.into());
            }
            if stop == Stop::default() {
                return Err(SettingError::NoStop.into());
            }
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
                return Err(SettingError::DirectionTwice { label: named.label() }.into());
            }
        }
        Ok(Self { model, directions: directions.to_vec(), options: options.clone() })
    }

    /// Screens one data set (files, folders and glob patterns, see [`ConversationReader`]) into a folder: the table
    /// [`SCORES`], [`SKIPPED`] and [`SUMMARY`].
    ///
    /// A run that was interrupted or killed at any time resumes in its folder, and ends with the same files as an
    /// uninterrupted one; at most one batch is computed twice. Identical prompts with identical answers are computed
    /// once. The data is read several times, a few rows at a time. The run holds a few hundred bytes in memory per
    /// distinct answer (ids, places, projections), but neither its text nor its activations.
    ///
    /// # Errors
    /// Inputs that do not exist, a folder of another screening (of other files, another model, or other options than
    /// the sizes of batches),
    /// errors of passes and of generation, [`Error::Cancelled`]. Invalid rows and files are no errors: they are counted
    /// and listed.
    pub fn run<P: AsRef<Path>>(
        &self,
        inputs: &[P],
        folder: &Path,
        on_progress: impl FnMut(ScreenProgress) -> ControlFlow<()>,
    ) -> Result<Summary> {
        self.run_with(inputs, folder, &mut [], on_progress)
    }

    /// Like [`run`](Self::run), and also reads every answer under each persona, which adds likelihoods to the table.
    ///
    /// # Errors
    /// Those of [`run`](Self::run); personas with duplicate labels; personas that do not fit the model.
    pub fn run_with<P: AsRef<Path>>(
        &self,
        inputs: &[P],
        folder: &Path,
        personas: &mut [Persona<'_>],
        mut on_progress: impl FnMut(ScreenProgress) -> ControlFlow<()>,
    ) -> Result<Summary> {
        for (at, persona) in personas.iter().enumerate() {
            pv_hooks::hook::check(persona.hook, &self.model.shape(), None)?;
            if personas[..at].iter().any(|other| other.label == persona.label) {
                return Err(SettingError::PersonaTwice { label: persona.label.clone() }.into());
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
        let mut header = through_text(&header);
        keep_batches(&mut header, &place)?;
        place.claim(HEADER, &header)?;
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

    /// The options that determine the result.
    fn saved_options(&self) -> ScreenOptions {
        let answers = BaseOptions { batch_size: 0, ..self.options.answers.clone() };
        ScreenOptions { cache: None, answers, ..self.options.clone() }
    }
}

/// Takes over from the folder's description how answers are divided into batches, which may change when a screening
/// resumes.
fn keep_batches(header: &mut Value, folder: &RunFolder) -> Result<()> {
    let Some(bytes) = folder.read(HEADER)? else { return Ok(()) };
    // A damaged description is refused when it is compared.
    let saved: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    for setting in ["/options/batch_tokens", "/options/chunk"] {
        if let (Some(saved), Some(given)) = (saved.pointer(setting), header.pointer_mut(setting)) {
            *given = saved.clone();
        }
    }
    Ok(())
}

/// A screening in progress.
struct Run<'s, 'a, 'p> {
    screen: &'s Screen<'a>,
    personas: &'s mut [Persona<'p>],
    inputs: Vec<PathBuf>,
    folder: RunFolder,
    journal: Journal,
    /// The state of each distinct answer, by the key of its id.
    entries: HashMap<u128, project::Entry>,
    /// The distinct answers with projections, in a random order that depends only on the seed and their ids.
    order: Vec<(u64, u128)>,
    /// The number of answers in the data set.
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

/// Measures the speed of a phase.
struct Meter {
    step: Step,
    began: Instant,
    /// The amount of work that earlier runs did in this phase.
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
