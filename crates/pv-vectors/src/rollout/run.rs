//! A run: rollouts in a folder, generated, judged and filtered, each step of which can be broken off and goes on.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::{FileError, RunError, RunFolder};
use pv_hooks::Layer;
use pv_judge::{COHERENCE, Judge, Rubric, Verdict, VerdictCounts};
use pv_model::{CausalLm, GenerateOptions, Message, Request};
use sha2::{Digest, Sha256};

use super::header::Header;
use super::journal::{ACTIVATIONS, Journal, ROLLOUTS, whole_lines};
use super::means::{MeansTable, Shared, difference};
use super::means_file::{MEANS, MeansFile};
use super::scores::Scores;
use super::{KeptActivations, Plan, Record, RolloutMeans};
use crate::vector::{PersonaVector, Pooling, Provenance};
use crate::{Error, Filter, Kept, Progress, Result, Scored};

/// How much memory the activations of rollouts that are being generated may take, on the model's device.
const RECORDING_BYTES: usize = 512 << 20;

/// How far the rollouts are.
#[derive(Debug)]
enum State {
    Running(Journal),
    Complete(MeansFile),
}

/// A run of rollouts in a folder of its own, which no other process may use meanwhile.
///
/// The folder holds `run.json` (what the run is: plan, options, model), `rollouts.jsonl` (a [`Record`] per line),
/// `means.safetensors` (activations; `activations.bin` while the run is not complete) and `scores.jsonl` (verdicts).
///
/// Everything is kept as it is reached. A run whose process was killed goes on where it was, and ends with the same
/// files as one that was not, byte for byte, whatever the batch size: every rollout has a seed of its own, every prompt is
/// read by itself, and decoding treats each row alone. That holds where decoding does so to the last bit, which is on the
/// CPU in batches of up to 16; elsewhere activations may differ by rounding.
#[derive(Debug)]
pub struct RolloutRun {
    folder: RunFolder,
    header: Header,
    state: State,
    /// In the order of the plan when the run is complete; in that in which they ended before.
    records: Vec<Record>,
    scores: Scores,
}

impl RolloutRun {
    /// Begins a run in a folder, which is made where it does not exist, or goes on with the one that is there.
    ///
    /// # Errors
    /// [`RunError::Locked`](pv_data::RunError::Locked) when the folder is in use; [`RunError::OtherRun`](pv_data::RunError::OtherRun) when it holds a run of another plan, of other options
    /// (but for the batch size) or of another model; [`RunError::Damaged`](pv_data::RunError::Damaged); what goes wrong with its files.
    pub fn open(folder: impl AsRef<Path>, model: &CausalLm, plan: Plan) -> Result<Self> {
        plan.check()?;
        let folder = RunFolder::lock(folder.as_ref())?;
        let header = Header::new(model, plan)?;
        header.claim(&folder)?;
        Self::go_on(folder, header)
    }

    /// Opens the run in a folder, to look at it or to judge it. Needs no model.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`FileError::Read`](pv_data::FileError::Read) when the folder holds no run.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        let path = folder.as_ref();
        if !path.is_dir() {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such folder");
            return Err(FileError::Read { path: path.to_owned(), source }.into());
        }
        let folder = RunFolder::lock(path)?;
        let header = Header::read(&folder)?;
        Self::go_on(folder, header)
    }

    fn go_on(folder: RunFolder, header: Header) -> Result<Self> {
        let (plan, layout) = (&header.plan, header.layout());
        let scores = Scores::open(&folder, plan)?;
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

    /// Whether all rollouts are there.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete(_))
    }

    /// The rollouts: in the order of the plan when the run is complete, in that in which they ended before.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Generates the rollouts that are missing. Activations are summed while an answer is generated, and nothing is read
    /// twice.
    ///
    /// # Errors
    /// A model that is not the run's or has no tokenizer or chat template, a template that refuses system prompts, files
    /// that cannot be written. [`Error::Cancelled`] when the callback breaks it off: then, as after any error, the rollouts
    /// that had ended are kept.
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

    /// Turns the journal into the files of a complete run. Killed at any point, it is done again or finished by
    /// [`go_on`](Self::go_on).
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
        let reason = "it was written, but is not there".to_owned();
        let (means, hash) =
            MeansFile::open(&self.folder, layout, plan.len())?.ok_or(RunError::Damaged { path, reason })?;
        self.records = canonical(&self.folder, plan, &hash)?;
        self.state = State::Complete(means);
        Ok(self.folder.remove(ACTIVATIONS)?)
    }

    fn means(&self) -> Result<&MeansFile> {
        match &self.state {
            State::Complete(means) => Ok(means),
            State::Running(_) => Err(self.incomplete("rollouts", self.records.len(), self.plan().len())),
        }
    }

    fn incomplete(&self, what: impl Into<String>, done: usize, total: usize) -> Error {
        Error::IncompleteRun { path: self.folder.path().to_owned(), what: what.into(), done, total }
    }

    /// Has the rollouts of a complete run judged by each rubric, where that has not been done. Verdicts are kept as they
    /// are reached. Answers without tokens are not judged: they are never kept.
    ///
    /// # Errors
    /// [`Error::IncompleteRun`] before all rollouts are there; [`RunError::OtherRun`](pv_data::RunError::OtherRun) when a rubric's verdicts are by another judge
    /// or another template; [`Error::Cancelled`]; what the judge says.
    pub fn score(
        &mut self,
        judge: &dyn Judge,
        rubrics: &[Rubric],
        on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        self.means()?;
        self.scores.fill(&self.folder, &self.records, judge, rubrics, on_progress)
    }

    /// The verdict on a rollout of a complete run by a rubric, where there is one.
    pub fn verdict(&self, rubric: &str, rollout: usize) -> Option<&Verdict> {
        self.scores.get(rubric, rollout)
    }

    /// What a filter sees of the rollouts, in the order of the plan.
    ///
    /// # Errors
    /// [`Error::IncompleteRun`] while rollouts or verdicts are missing.
    pub fn scored(&self) -> Result<Vec<Scored>> {
        self.means()?;
        let trait_name = self.plan().trait_name();
        for rubric in [trait_name, COHERENCE] {
            let judged =
                |(index, record): &(usize, &Record)| record.is_empty() || self.verdict(rubric, *index).is_some();
            let done = self.records.iter().enumerate().filter(judged).count();
            if done < self.records.len() {
                return Err(self.incomplete(format!("verdicts on {rubric}"), done, self.records.len()));
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

    /// How the verdicts were got: the scores by their mode, the abstentions by their kind, over all rubrics.
    pub fn verdict_counts(&self) -> VerdictCounts {
        self.scores.counts()
    }

    /// Says which rollouts a filter keeps.
    ///
    /// # Errors
    /// Those of [`scored`](Self::scored) and of [`Filter::keep`].
    pub fn filter(&self, filter: &Filter) -> Result<Kept> {
        filter.keep(&self.scored()?)
    }

    /// The persona vector of the kept rollouts, for all poolings and at all layers.
    ///
    /// # Errors
    /// [`Error::IncompleteRun`]; a file that cannot be read.
    pub fn vector(&self, kept: &Kept) -> Result<PersonaVector> {
        difference(self.means()?, &Pooling::ALL, [&kept.pos, &kept.neg], self.provenance(kept))
    }

    /// Writes a vector into the run's folder, by the folder's own means: of a process that is killed meanwhile, the next start
    /// removes what it left.
    pub(crate) fn write_vector(&self, name: &str, vector: &PersonaVector) -> Result<()> {
        Ok(self.folder.write(name, |file| file.write_all(&vector.to_bytes().map_err(std::io::Error::other)?))?)
    }

    /// Where a vector of the kept rollouts comes from.
    pub(crate) fn provenance(&self, kept: &Kept) -> Provenance {
        let (plan, model) = (self.plan(), &self.header.model);
        Provenance {
            trait_name: plan.trait_name.clone(),
            model: model.name.clone(),
            config_hash: Some(model.config_hash.clone()),
            template_hash: model.template_hash.clone(),
            weights: model.weights.clone(),
            render: plan.options.render.closed(),
            judge: self.scores.judge(&plan.trait_name).map(str::to_owned),
            verdicts: self.scores.counts(),
            filter: Some(kept.filter),
            kept_positive: Some(kept.pos.len()),
            kept_negative: Some(kept.neg.len()),
            total: Some(plan.len()),
            seed: Some(plan.options.seed),
            sampling: Some(plan.options.sampling.clone()),
            max_new_tokens: Some(plan.options.max_new_tokens),
            version: Provenance::current_version(),
            best_layer: None,
            imported: None,
        }
    }

    /// The activations of the kept rollouts at a layer, for statistics.
    ///
    /// # Errors
    /// [`Error::IncompleteRun`]; a layer that the model lacks; a file that cannot be read.
    pub fn activations(&self, pooling: Pooling, layer: Layer, kept: &Kept) -> Result<KeptActivations> {
        let place = |index: usize| self.records.get(index).map(|record| record.place);
        KeptActivations::read(self.means()?, pooling, layer, kept, place)
    }

    /// The activations of one rollout of a complete run at a layer, `[d_model]`. Those of the response are zeros for an
    /// answer without tokens.
    ///
    /// # Errors
    /// As [`activations`](Self::activations).
    pub fn activation(&self, pooling: Pooling, layer: Layer, rollout: usize) -> Result<Vec<f32>> {
        self.means()?.rows(pooling, layer, &[rollout])
    }
}

/// Generates some rollouts of a plan, and hands each over as it ends.
fn generate_part(
    model: &CausalLm,
    plan: &Plan,
    part: &[usize],
    mut keep: impl FnMut(usize, Record, RolloutMeans) -> Result<()>,
) -> Result<()> {
    let mut prompts: Vec<String> = Vec::new();
    let mut requests: Vec<Request> = Vec::new();
    let of_prompt = |index: usize| index / plan.options.per_prompt;
    for group in part.chunk_by(|&a, &b| of_prompt(a) == of_prompt(b)) {
        let place = plan.place(group[0]);
        let (system, question) = (plan.system(place).unwrap_or_default(), plan.question(place).unwrap_or_default());
        let messages = [Message::system(system), Message::user(question)];
        let rendered = model.chat_template()?.render(&messages, &plan.options.render.as_prompt())?.text;
        let seeds = group.iter().map(|&index| plan.seed(plan.place(index))).collect();
        requests.push(Request { prompt: model.tokenizer()?.encode_rendered(&rendered)?, seeds });
        prompts.push(rendered);
    }
    let prompt_of: Vec<usize> =
        requests.iter().enumerate().flat_map(|(i, request)| request.seeds.iter().map(move |_| i)).collect();
    let options = GenerateOptions {
        max_new_tokens: plan.options.max_new_tokens,
        sampling: plan.options.sampling.clone(),
        batch_size: plan.options.batch_size,
        // Every prompt by itself: in a batch, its activations would depend on its neighbours in their last bits.
        prefill_tokens: 0,
        feed_last_token: true,
        ..GenerateOptions::default()
    };
    let recorder = Shared::new();
    model.generate_each(&requests, &options, &mut recorder.clone(), |sequence, generation| {
        let means = RolloutMeans::of(&recorder.lock(), sequence, model.shape(), generation.tokens.is_empty())?;
        let index = part[sequence];
        let place = plan.place(index);
        let record = Record {
            question_id: plan.id(place),
            place,
            question: plan.question(place).unwrap_or_default().to_owned(),
            prompt: prompts[prompt_of[sequence]].clone(),
            answer: generation.text.clone(),
            tokens: generation.tokens.clone(),
            seed: Some(plan.seed(place)),
            finish: Some(generation.finish),
        };
        keep(index, record, means)
    })
}

/// The lines in the order of the plan; `lines_of[index]` is the line of a rollout.
fn sorted(text: &[u8], lines_of: &[usize]) -> Vec<u8> {
    let all: Vec<&[u8]> = whole_lines(text).collect();
    lines_of.iter().flat_map(|&line| [all.get(line).copied().unwrap_or_default(), b"\n"]).collect::<Vec<_>>().concat()
}

/// The records of a complete run in the order of the plan, which the file is brought into where it is not.
fn canonical(folder: &RunFolder, plan: &Plan, expected: &str) -> Result<Vec<Record>> {
    let damaged = |reason: String| RunError::Damaged { path: folder.file(ROLLOUTS), reason };
    let text = folder.read(ROLLOUTS)?.unwrap_or_default();
    let mut records = vec![None; plan.len()];
    let mut lines_of = vec![0; plan.len()];
    for (at, line) in whole_lines(&text).enumerate() {
        let record: Record =
            serde_json::from_slice(line).map_err(|error| damaged(format!("line {}: {error}", at + 1)))?;
        let index = plan.index(record.place).filter(|&index| records[index].is_none());
        let index = index.ok_or_else(|| damaged(format!("line {} is no rollout of the run, or one twice", at + 1)))?;
        lines_of[index] = at;
        records[index] = Some(record);
    }
    let missing = records.iter().filter(|record| record.is_none()).count();
    if missing > 0 {
        return Err(damaged(format!("{missing} of {} rollouts are missing", plan.len())).into());
    }
    let ordered = sorted(&text, &lines_of);
    if hex::encode(Sha256::digest(&ordered)) != expected {
        return Err(damaged(format!("it was changed after {MEANS} was written")).into());
    }
    if ordered != text {
        folder.write(ROLLOUTS, |file| file.write_all(&ordered))?;
    }
    Ok(records.into_iter().flatten().collect())
}
