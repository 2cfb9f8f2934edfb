//! A run in a folder: rollouts are generated, judged and filtered. Each step can be interrupted and resumed.

mod generate;
mod records;
mod results;

use std::ops::ControlFlow;
use std::path::Path;

use pv_data::{Damage, FileError, RunError, RunFolder};
use pv_judge::rubric::COHERENCE;
use pv_judge::score::VerdictCounts;
use pv_judge::{Judge, Rubric, Verdict};
use pv_model::CausalLm;
use sha2::{Digest, Sha256};

use super::header::Header;
use super::journal::{ACTIVATIONS, Journal, ROLLOUTS};
use super::means_file::{MEANS, MeansFile};
use super::scores::Scores;
use super::{Plan, Record};
use crate::error::RunPart;
use crate::filter::{Kept, Scored};
use crate::progress::Progress;
use crate::vector::Pooling;
use crate::{Error, Filter, Result};
use generate::generate_part;
use records::{canonical, sorted};

/// The maximum memory, in bytes on the model's device, for the activations of rollouts during generation.
const RECORDING_BYTES: usize = 512 << 20;

/// Whether all rollouts exist.
#[derive(Debug)]
enum State {
    Running(Journal),
    Complete(MeansFile),
}

/// A run of rollouts in its own folder, which is locked against other processes.
///
/// The folder contains `run.json` (the description of the run: plan, options, model), `rollouts.jsonl` (a [`Record`]
/// per line), `means.safetensors` (activations; `activations.bin` while the run is incomplete) and `scores.jsonl`
/// (verdicts).
///
/// Every result is saved as it is computed. A run resumes after a crash, and its final files equal those of an
/// uninterrupted run byte for byte, whatever the batch size: every rollout has its own seed, and
/// prompts are read and tokens decoded without an influence of other rows. This requires decoding that is independent to the
/// last bit, as on the CPU in batches of up to 32; elsewhere activations may differ by rounding.
#[derive(Debug)]
pub struct RolloutRun {
    folder: RunFolder,
    header: Header,
    state: State,
    /// In the order of the plan if the run is complete, else in the order in which they finished.
    records: Vec<Record>,
    scores: Scores,
}

impl RolloutRun {
    /// Starts a run in a folder, which is created if needed, or resumes the run in it.
    ///
    /// A run can be extended with more answers to each prompt, or with more questions or instruction pairs after the
    /// existing ones. Existing rollouts and verdicts are kept, and the missing ones are added.
    ///
    /// # Errors
    /// [`RunError::Locked`](pv_data::RunError::Locked) if the folder is in use;
    /// [`RunError::OtherRun`](pv_data::RunError::OtherRun) if it contains a run with another plan, other options
    /// (except the batch size) or another model; [`RunError::Damaged`](pv_data::RunError::Damaged); files that cannot
    /// be read or written.
    pub fn open(folder: impl AsRef<Path>, model: &CausalLm, plan: Plan) -> Result<Self> {
        plan.check()?;
        let folder = RunFolder::lock(folder.as_ref())?;
        let header = Header::new(model, plan)?;
        if let Some(smaller) = header.claim(&folder)? {
            let run = Self::resume(folder, smaller)?;
            return run.grow(header);
        }
        Self::resume(folder, header)
    }

    /// Extends the run to a larger plan. After a crash at any point, the folder contains either the smaller run or the
    /// larger one.
    fn grow(self, header: Header) -> Result<Self> {
        let Self { folder, header: smaller, state, records, .. } = self;
        if let State::Complete(means) = state {
            Journal::write(&folder, smaller.layout(), &records, &means)?;
        }
        header.replace(&folder)?;
        Self::resume(folder, header)
    }

    /// Loads the run in a folder for reading or judging. Needs no model.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); [`FileError::Read`](pv_data::FileError::Read) if the folder contains no run.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        let path = folder.as_ref();
        if !path.is_dir() {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "the folder does not exist");
            return Err(FileError::Read { path: path.to_owned(), source }.into());
        }
        let folder = RunFolder::lock(path)?;
        let header = Header::read(&folder)?;
        Self::resume(folder, header)
    }

    fn resume(folder: RunFolder, header: Header) -> Result<Self> {
        let (plan, layout) = (&header.plan, header.layout());
        let scores = Scores::open(&folder, plan)?;
        // A run that was killed while it was extended has the activations of the smaller run twice.
        if folder.file(ACTIVATIONS).exists()
            && MeansFile::rollouts(&folder)?.is_some_and(|rollouts| rollouts < plan.len())
        {
            folder.remove(MEANS)?;
        }
        let (state, records) = match MeansFile::open(&folder, layout, plan.len())? {
            Some((means, hash)) => {
                let records = canonical(&folder, plan, &hash)?;
                folder.remove(ACTIVATIONS)?;
                (State::Complete(means), records)
            }
            None => {
                let (journal, records) = Journal::open(&folder, plan, layout)?;
                (State::Running(journal), records)
            }
        };
        Ok(Self { folder, header, state, records, scores })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.header.plan
    }

    /// Whether all rollouts have been generated.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete(_))
    }

    /// The rollouts: in the order of the plan if the run is complete, else in the order in which they finished.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Generates the missing rollouts. Activations are accumulated during generation, so no answer is read again.
    ///
    /// # Errors
    /// A model that is not the run's or has no tokenizer or chat template, a template that refuses system prompts,
    /// files that cannot be written. [`Error::Cancelled`] if the callback cancels. After any error, the finished
    /// rollouts are kept.
    pub fn generate(
        &mut self,
        model: &CausalLm,
        mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        self.check_model(model)?;
        let State::Running(journal) = &mut self.state else { return Ok(()) };
        let mut missing = vec![true; self.header.plan.len()];
        journal.order().iter().for_each(|&index| missing[index] = false);
        let missing: Vec<usize> = (0..missing.len()).filter(|&index| missing[index]).collect();
        let bytes = self.header.layout().layers * self.header.layout().d_model * 4 * Pooling::ALL.len();
        let together = (RECORDING_BYTES / bytes).max(self.header.plan.options.batch_size);
        let total = self.header.plan.len();
        for part in missing.chunks(together) {
            let plan = &self.header.plan;
            let (folder, records) = (&self.folder, &mut self.records);
            generate_part(model, plan, part, |index, record, means| {
                journal.append(folder, index, &record, &means)?;
                records.push(record);
                match on_progress(Progress::Answering { done: records.len(), total }) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(Error::Cancelled),
                }
            })?;
            journal.sync(folder)?;
        }
        self.complete()
    }

    /// Refuses a model that is not the run's.
    pub(crate) fn check_model(&self, model: &CausalLm) -> Result<()> {
        match self.header.model.difference(&model.identity()?) {
            None => Ok(()),
            Some((what, saved, given)) => {
                let path = self.folder.path().to_owned();
                Err(RunError::OtherRun { path, what: what.to_owned(), saved, given }.into())
            }
        }
    }

    /// Turns the journal into the files of a complete run. After a crash at any point, [`resume`](Self::resume) repeats
    /// or finishes this.
    fn complete(&mut self) -> Result<()> {
        let State::Running(journal) = &self.state else { return Ok(()) };
        journal.sync(&self.folder)?;
        let (plan, layout) = (&self.header.plan, self.header.layout());
        let mut lines_of = vec![0; plan.len()];
        journal.order().iter().enumerate().for_each(|(line, &index)| lines_of[index] = line);
        let text = self.folder.read(ROLLOUTS)?.unwrap_or_default();
        let hash = hex::encode(Sha256::digest(sorted(&text, &lines_of)));
        MeansFile::write(&self.folder, layout, plan.len(), &hash, |rollout, offset, into| {
            journal.read(lines_of[rollout], offset, into)
        })?;
        let path = self.folder.file(MEANS);
        let source = Damage::Missing { what: "the file, which was written before,".into() };
        let (means, hash) =
            MeansFile::open(&self.folder, layout, plan.len())?.ok_or(RunError::Damaged { path, source })?;
        self.records = canonical(&self.folder, plan, &hash)?;
        self.state = State::Complete(means);
        Ok(self.folder.remove(ACTIVATIONS)?)
    }

    fn means(&self) -> Result<&MeansFile> {
        match &self.state {
            State::Complete(means) => Ok(means),
            State::Running(_) => Err(self.incomplete(RunPart::Rollouts, self.records.len(), self.plan().len())),
        }
    }

    fn incomplete(&self, part: RunPart, done: usize, total: usize) -> Error {
        Error::IncompleteRun { path: self.folder.path().to_owned(), part, done, total }
    }

    /// Has a judge score the rollouts of a complete run by each rubric. Existing verdicts of this judge are reused, and
    /// new ones are saved as they are reached. Empty answers are not judged, since they are never kept.
    ///
    /// Several judges may score the same rollouts, one call after another. The verdicts of the last judge are used;
    /// those of the others are kept, and can be selected with [`judged_by`](Self::judged_by).
    ///
    /// # Errors
    /// [`Error::IncompleteRun`] if rollouts are missing; [`Error::Cancelled`]; any error of the judge.
    pub fn score(
        &mut self,
        judge: &dyn Judge,
        rubrics: &[Rubric],
        on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        self.means()?;
        self.scores.fill(&self.folder, &self.records, judge, rubrics, on_progress)
    }

    /// The judges that have scored rollouts by a rubric.
    pub fn judges(&self, rubric: &str) -> Vec<&str> {
        let mut judges: Vec<&str> = self.scores.judges(rubric).collect();
        judges.dedup();
        judges
    }

    /// Selects the judge whose verdicts are used, if several have scored the rollouts.
    ///
    /// # Errors
    /// [`Error::NoSuchJudge`].
    pub fn judged_by(&mut self, judge: &str) -> Result<()> {
        match self.scores.choose(judge) {
            true => Ok(()),
            false => Err(Error::NoSuchJudge { judge: judge.to_owned(), path: self.folder.path().to_owned() }),
        }
    }

    /// The verdict of the selected judge on a rollout of a complete run by a rubric, if it exists.
    pub fn verdict(&self, rubric: &str, rollout: usize) -> Option<&Verdict> {
        self.scores.get(rubric, self.records.get(rollout)?.place)
    }

    /// The properties of the rollouts that a filter uses, in the order of the plan.
    ///
    /// # Errors
    /// [`Error::IncompleteRun`] if rollouts or verdicts are missing; [`Error::SeveralJudges`].
    pub fn scored(&self) -> Result<Vec<Scored>> {
        self.means()?;
        let trait_name = self.plan().trait_name();
        for rubric in [trait_name, COHERENCE] {
            self.scores.check(rubric)?;
            let judged =
                |(index, record): &(usize, &Record)| record.is_empty() || self.verdict(rubric, *index).is_some();
            let done = self.records.iter().enumerate().filter(judged).count();
            if done < self.records.len() {
                let part = RunPart::Verdicts { rubric: rubric.to_owned() };
                return Err(self.incomplete(part, done, self.records.len()));
            }
        }
        let value = |rubric: &str, index: usize| self.verdict(rubric, index).and_then(Verdict::value);
        let scored = self.records.iter().enumerate().map(|(index, record)| Scored {
            place: record.place,
            empty: record.is_empty(),
            trait_score: value(trait_name, index),
            coherence: value(COHERENCE, index),
        });
        Ok(scored.collect())
    }

    /// The numbers of scores by mode and of abstentions by kind, over all rubrics.
    pub fn verdict_counts(&self) -> VerdictCounts {
        self.scores.counts()
    }

    /// Selects the rollouts that a filter keeps.
    ///
    /// # Errors
    /// Those of [`scored`](Self::scored) and of [`Filter::keep`].
    pub fn filter(&self, filter: &Filter) -> Result<Kept> {
        Ok(filter.keep(&self.scored()?)?)
    }
}
