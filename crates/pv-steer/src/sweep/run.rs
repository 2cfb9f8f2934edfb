//! Generation and judging of a sweep's answers, in a folder.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::RunFolder;
use pv_hooks::{Hook, Layer, LayerSet};
use pv_judge::{Judge, TraitSpec};
use pv_model::{CausalLm, GenerateOptions, ModelIdentity};
use pv_vectors::contrast::Progress;
use pv_vectors::judged_answers::JudgedAnswers;
use pv_vectors::vector::Provenance;
use pv_vectors::{Direction, PersonaVector};

use super::folder::Identity;
use super::halving::survivors;
use super::plan::{Place, SweepOptions, SweepPlan};
use super::results::{CellResult, Round, SweepResults};
use super::subject::{directions, prompt};
use crate::error::{SettingError, SweepError};
use crate::{Error, Result, Steerer};

const RESULTS: &str = "results.json";
const TABLE: &str = "results.csv";

/// Steers with one vector at every layer and strength of a grid, on a trait's evaluation questions, and has the answers
/// judged for the trait and for coherence (method: paper, section 3.2 and its appendix on layer choice).
///
/// Layers are compared at the same relative strength, in units of each layer's residual norm, on a part of the
/// questions. The chosen cell then answers the held-out questions, on which it is reported
/// ([`SweepOptions::report_share`]). [`SweepResults::with_best_layer`] sets the layer on the vector.
///
/// A sweep has a folder: `run.json` (what determines its answers), `journal.jsonl` (answers and verdicts, as they are
/// reached) and at the end `results.json` and `results.csv`. An interrupted sweep resumes, and its final files are the
/// same, byte for byte, whatever the batch size, provided that decoding treats each row independently to the last bit
/// and the judge repeats its verdicts; see [`RolloutRun`](pv_vectors::rollout::RolloutRun), to which the same applies.
///
/// A sweep can be extended in its folder: with other or more layers and strengths, with more questions after the
/// existing ones, or with more answers to each. What was generated and judged is used again, and the results are those
/// of a sweep that was as large from the beginning. The search, the held-out questions and the minimum coherence are
/// chosen anew in every run. Several judges, or several versions of a rubric, may score the same answers, one run after
/// another; `results.json` has the results of the last run, and the verdicts of all are kept in the journal.
///
/// ```no_run
/// # use std::ops::ControlFlow;
/// # use pv_steer::sweep::{Search, Sweep, SweepOptions};
/// # fn example(
/// #     model: &pv_model::CausalLm,
/// #     vector: &pv_vectors::PersonaVector,
/// #     judge: &dyn pv_judge::Judge,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let spec = pv_judge::TraitSpec::builtin("evil")?;
/// let options = SweepOptions { search: Search::Halving { first: 4 }, ..SweepOptions::default() };
/// let sweep = Sweep::new(model, vector, &spec, judge, &options)?;
/// let results = sweep.run("runs/evil-sweep", |_| ControlFlow::Continue(()))?;
/// if let Some(report) = &results.report {
///     println!("{} at {}: {:?}", report.strength, report.layer, report.expression.mean);
/// }
/// results.with_best_layer(vector)?.save("evil.safetensors")?;
/// # Ok(())
/// # }
/// ```
pub struct Sweep<'a> {
    model: &'a CausalLm,
    identity: ModelIdentity,
    judge: &'a dyn Judge,
    plan: SweepPlan,
    /// One for each layer at which the vector has one.
    directions: Vec<Direction>,
    /// The token ids of each question's prompt.
    prompts: Vec<Vec<u32>>,
    vector: Provenance,
    batch_size: usize,
}

impl std::fmt::Debug for Sweep<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweep").field("plan", &self.plan).field("judge", &self.judge.name()).finish_non_exhaustive()
    }
}

impl<'a> Sweep<'a> {
    /// Sets up a sweep, and refuses one that could not finish.
    ///
    /// # Errors
    /// Nothing to do ([`SweepError::NoStrengths`], [`SweepError::NoLayers`], [`SweepError::NoQuestions`]); invalid options; a vector
    /// of another model, or without a direction at a requested layer; a unit that the vector does not know; a model
    /// without tokenizer or chat template.
    pub fn new(
        model: &'a CausalLm,
        vector: &PersonaVector,
        spec: &TraitSpec,
        judge: &'a dyn Judge,
        options: &SweepOptions,
    ) -> Result<Self> {
        vector.check_model(model.config())?;
        if options.batch_size == 0 {
            return Err(SettingError::Zero { name: "batch_size" }.into());
        }
        let steered = directions(vector, &options.layers)?;
        let layers = steered.iter().map(|direction| direction.layer).collect();
        let directions = directions(vector, &LayerSet::All)?;
        let plan = SweepPlan::new(spec, layers, options)?;
        let prompts =
            plan.questions.iter().map(|question| prompt(model, plan.system.as_deref(), question, &plan.render));
        let prompts = prompts.collect::<Result<_>>()?;
        // The best layer is a result of the sweep, not a part of its description.
        let vector = Provenance { best_layer: None, ..vector.provenance().clone() };
        let batch_size = options.batch_size;
        let identity = model.identity()?;
        let sweep = Self { model, identity, judge, plan, directions, prompts, vector, batch_size };
        for cell in 0..sweep.plan.cells() {
            let Place { layer, strength, .. } = sweep.plan.place(cell, 0, 0);
            sweep.steerer(layer, strength)?.validate(&model.shape())?;
        }
        Ok(sweep)
    }

    /// The plan of the sweep.
    pub fn plan(&self) -> &SweepPlan {
        &self.plan
    }

    /// Runs the sweep in a folder, or resumes or extends the one in it. If nothing is missing, only the results are
    /// computed again.
    ///
    /// # Errors
    /// A folder that is in use, or that contains a sweep with other answers (of another model or vector, to other
    /// questions, with another seed, sampling, system prompt, unit or positions) or damaged files;
    /// [`SweepError::NothingScored`]; [`Error::Cancelled`]; errors of the model and the judge. After any error, the
    /// results so far are kept.
    pub fn run(
        &self,
        folder: impl AsRef<Path>,
        mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<SweepResults> {
        let folder = RunFolder::lock(folder.as_ref())?;
        let Self { identity: model, vector, directions, plan, judge, .. } = self;
        Identity { model, vector, directions, plan }.claim(&folder)?;
        // Places outside this plan belong to the folder's other plans.
        let seed = |place| Some(plan.seed(place));
        let mut run = Running {
            sweep: self,
            answers: JudgedAnswers::open_for(folder, seed, *judge, &plan.rubrics, |_, _| None)?,
        };
        let mut cells: Vec<usize> = (0..self.plan.cells()).collect();
        let mut rounds = Vec::new();
        // The number of questions of each cell so far.
        let mut asked = vec![0; self.plan.cells()];
        for questions in self.plan.rounds() {
            let wanted = self.plan.places(&cells, questions);
            run.generate(&wanted, &mut on_progress)?;
            run.score(&wanted, &mut on_progress)?;
            run.check_scored(&wanted)?;
            cells.iter().for_each(|&cell| asked[cell] = questions);
            rounds.push(Round { questions, cells: cells.len() });
            if questions < self.plan.choosing().len() {
                let so_far = run.results(&rounds, &asked);
                let standings: Vec<_> = cells.iter().map(|&cell| so_far.standing(cell)).collect();
                cells = survivors(&standings, self.plan.coherence_min);
            }
            if cells.is_empty() {
                break;
            }
        }
        let mut results = run.results(&rounds, &asked);
        if let Some(cell) = results.best_index().filter(|_| !self.plan.reported.is_empty()) {
            let wanted = self.plan.reported_places(cell);
            run.generate(&wanted, &mut on_progress)?;
            run.score(&wanted, &mut on_progress)?;
            results.report = Some(run.cell(cell, &wanted));
        }
        run.answers.sort()?;
        let (text, table) = (results.to_json(), results.to_csv()?);
        let folder = run.answers.folder();
        folder.write(RESULTS, |file| file.write_all(text.as_bytes()))?;
        folder.write(TABLE, |file| file.write_all(table.as_bytes()))?;
        Ok(results)
    }

    fn direction(&self, layer: Layer) -> Result<&Direction> {
        self.directions
            .iter()
            .find(|direction| direction.layer == layer)
            .ok_or_else(|| SweepError::NotInSweep { layer }.into())
    }

    fn steerer(&self, layer: Layer, strength: f32) -> Result<Steerer> {
        Steerer::new().add(self.direction(layer)?, self.plan.unit.coefficient(strength), self.plan.positions)
    }
}

/// A sweep with its results so far.
struct Running<'a> {
    sweep: &'a Sweep<'a>,
    answers: JudgedAnswers<Place>,
}

impl Running<'_> {
    /// Generates the missing answers, cell by cell.
    fn generate(&mut self, wanted: &[Place], on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<()> {
        let Self { sweep, answers } = self;
        let plan = &sweep.plan;
        let (mut done, total) = (answers.answered(wanted), wanted.len());
        for part in wanted.chunk_by(Place::same_cell) {
            let options = GenerateOptions {
                max_new_tokens: plan.max_new_tokens,
                sampling: plan.sampling.clone(),
                batch_size: sweep.batch_size,
                clean_cache: plan.clean_cache,
                cache: plan.cache,
                ..GenerateOptions::default()
            };
            let mut steerer = sweep.steerer(part[0].layer, part[0].strength)?;
            let asked = |place: Place| (sweep.prompts[place.question].as_slice(), plan.seed(place));
            answers.generate(sweep.model, part, asked, options, &mut steerer, || {
                done += 1;
                unless_broken(on_progress(Progress::Answering { done, total }))
            })?;
        }
        Ok(())
    }

    /// Requests the missing verdicts from the judge.
    fn score(&mut self, wanted: &[Place], on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<()> {
        let Self { sweep: Sweep { plan, judge, .. }, answers } = self;
        let (mut done, total) = (answers.judged(wanted), wanted.len() * plan.rubrics.len());
        let question = |place: Place| plan.questions[place.question].as_str();
        answers.judge(*judge, wanted, plan.rubrics.each_ref(), question, || {
            done += 1;
            unless_broken(on_progress(Progress::Judging { done, total }))
        })?;
        match done < total {
            true => Err(Error::MissingVerdicts { judge: judge.name(), done, total }),
            false => Ok(()),
        }
    }

    /// Refuses a judge that gives no score: there would be nothing to compare.
    fn check_scored(&self, wanted: &[Place]) -> Result<()> {
        for (rubric, asked) in self.sweep.plan.rubrics.iter().enumerate() {
            let score = |place: &Place| self.answers.get(*place).and_then(|answer| answer.score(rubric));
            if wanted.iter().all(|place| score(place).is_none()) {
                let (judge, rubric) = (self.sweep.judge.name(), asked.name.clone());
                return Err(SweepError::NothingScored { judge, rubric, answers: wanted.len() }.into());
            }
        }
        Ok(())
    }

    /// The results for the questions asked so far. The journal of a resumed sweep also contains answers of later
    /// rounds, which must not decide an earlier one.
    fn results(&self, rounds: &[Round], asked: &[usize]) -> SweepResults {
        let Sweep { identity, judge, plan, vector, .. } = self.sweep;
        let cells =
            asked.iter().enumerate().map(|(cell, &questions)| self.cell(cell, &plan.places(&[cell], questions)));
        SweepResults {
            model: identity.clone(),
            vector: vector.clone(),
            judge: judge.name(),
            plan: plan.clone(),
            rounds: rounds.to_vec(),
            cells: cells.collect(),
            report: None,
        }
    }

    /// The result of a cell, from its answers at these places.
    fn cell(&self, cell: usize, places: &[Place]) -> CellResult {
        let plan = &self.sweep.plan;
        let coefficient = plan.unit.coefficient(plan.strength(cell));
        let direction = self.sweep.direction(plan.layers[plan.layer_index(cell)]);
        let raw = direction.and_then(|direction| coefficient.raw(direction)).unwrap_or_default();
        CellResult::new(plan, cell, raw, places, &self.answers)
    }
}

fn unless_broken(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(Error::Cancelled) } else { Ok(()) }
}
