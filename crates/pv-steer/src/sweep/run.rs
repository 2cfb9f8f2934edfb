//! Generates and judges the answers of a sweep.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::RunFolder;
use pv_data::runs::through_text;
use pv_hooks::Hook;
use pv_judge::{Judge, TraitSpec};
use pv_model::{CausalLm, GenerateOptions, ModelIdentity};
use pv_vectors::{Direction, JudgedAnswers, PersonaVector, Progress, Provenance};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::halving::survivors;
use super::plan::{Place, SweepOptions, SweepPlan};
use super::results::{CellResult, Round, SweepResults};
use super::subject::{directions, prompt};
use crate::{Error, Result, Steerer};

const FORMAT: &str = "pv-sweep/1";
const RUN: &str = "run.json";
const RESULTS: &str = "results.json";
const TABLE: &str = "results.csv";

/// Steers with one vector at every layer and strength of a grid, on a trait's evaluation questions, and has the answers
/// judged for the trait and for coherence (method: paper, section 3.2 and its appendix on layer choice).
///
/// A sweep lives in a folder: `run.json` (what it is), `journal.jsonl` (answers and verdicts, as they are reached) and at the
/// end `results.json` and `results.csv`. A sweep that was broken off or killed goes on where it was and ends with the same
/// files, byte for byte, whatever the batch size, where decoding treats each row alone to the last bit and the judge says
/// the same again; see [`RolloutRun`](pv_vectors::RolloutRun), to which the same applies.
///
/// ```no_run
/// # use std::ops::ControlFlow;
/// # use pv_steer::{Search, Sweep, SweepOptions};
/// # fn example(
/// #     model: &pv_model::CausalLm,
/// #     vector: &pv_vectors::PersonaVector,
/// #     judge: &dyn pv_judge::Judge,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let spec = pv_judge::TraitSpec::builtin("evil")?;
/// let options = SweepOptions { search: Search::Halving { first: 4 }, ..SweepOptions::default() };
/// let sweep = Sweep::new(model, vector, &spec, judge, &options)?;
/// let results = sweep.run("runs/evil-sweep", |_| ControlFlow::Continue(()))?;
/// if let Some(best) = results.best() {
///     println!("{} at {}: {:?}", best.strength, best.layer, best.expression.mean);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Sweep<'a> {
    model: &'a CausalLm,
    identity: ModelIdentity,
    judge: &'a dyn Judge,
    plan: SweepPlan,
    /// One per layer of the plan.
    directions: Vec<Direction>,
    /// One per question.
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
    /// Puts a sweep together, and refuses what could not be run to its end.
    ///
    /// # Errors
    /// Nothing to do ([`Error::NoStrengths`], [`Error::NoLayers`], [`Error::NoQuestions`]); impossible
    /// options; a vector of another model, or without a direction at a layer that was asked for; a unit that the vector
    /// does not know; a model without tokenizer or chat template.
    pub fn new(
        model: &'a CausalLm,
        vector: &PersonaVector,
        spec: &TraitSpec,
        judge: &'a dyn Judge,
        options: &SweepOptions,
    ) -> Result<Self> {
        vector.check_model(model.config())?;
        if options.batch_size == 0 {
            return Err(Error::BadSetting { reason: "batch_size is 0".to_owned() });
        }
        let directions = directions(vector, &options.layers)?;
        let layers = directions.iter().map(|direction| direction.layer).collect();
        let plan = SweepPlan::new(spec, layers, options)?;
        let prompts =
            plan.questions.iter().map(|question| prompt(model, plan.system.as_deref(), question, &plan.render));
        let prompts = prompts.collect::<Result<_>>()?;
        let (vector, batch_size) = (vector.provenance().clone(), options.batch_size);
        let identity = model.identity()?;
        let sweep = Self { model, identity, judge, plan, directions, prompts, vector, batch_size };
        for cell in 0..sweep.plan.cells() {
            sweep.steerer(cell)?.validate(&model.shape())?;
        }
        Ok(sweep)
    }

    /// What will be done.
    pub fn plan(&self) -> &SweepPlan {
        &self.plan
    }

    /// Runs the sweep in a folder, or goes on with the one that is there. When all is done already, only the results are
    /// computed again.
    ///
    /// # Errors
    /// A folder that is in use, or that holds another sweep (of another plan, model, vector or judge) or damaged files;
    /// [`Error::NothingScored`]; [`Error::Cancelled`]; what the model and the judge say. Whatever the error, what
    /// had been done is kept.
    pub fn run(
        &self,
        folder: impl AsRef<Path>,
        mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<SweepResults> {
        let folder = RunFolder::lock(folder.as_ref())?;
        folder.claim_with(RUN, &self.header(), &["/model/weights"])?;
        let seed = |place| self.plan.contains(place).then(|| self.plan.seed(place));
        let mut run = Running { sweep: self, answers: JudgedAnswers::open(folder, seed)? };
        let mut cells: Vec<usize> = (0..self.plan.cells()).collect();
        let mut rounds = Vec::new();
        // How many questions each cell has got.
        let mut asked = vec![0; self.plan.cells()];
        for questions in self.plan.rounds() {
            let wanted = self.plan.places(&cells, questions);
            run.generate(&wanted, &mut on_progress)?;
            run.score(&wanted, &mut on_progress)?;
            run.check_scored(&wanted)?;
            cells.iter().for_each(|&cell| asked[cell] = questions);
            rounds.push(Round { questions, cells: cells.len() });
            if questions < self.plan.questions.len() {
                let so_far = run.results(&rounds, &asked);
                let standings: Vec<_> = cells.iter().map(|&cell| so_far.standing(cell)).collect();
                cells = survivors(&standings, self.plan.coherence_min);
            }
            if cells.is_empty() {
                break;
            }
        }
        run.answers.sort()?;
        let results = run.results(&rounds, &asked);
        let (text, table) = (results.to_json(), results.to_csv()?);
        let folder = run.answers.folder();
        folder.write(RESULTS, |file| file.write_all(text.as_bytes()))?;
        folder.write(TABLE, |file| file.write_all(table.as_bytes()))?;
        Ok(results)
    }

    /// What a folder belongs to. Another batch size is welcome.
    fn header(&self) -> Value {
        let mut hash = Sha256::new();
        for direction in &self.directions {
            hash.update(direction.layer.index().to_le_bytes());
            let norm = direction.mean_residual_norm.unwrap_or(-1.0);
            direction.values.iter().chain([&norm]).for_each(|value| hash.update(value.to_le_bytes()));
        }
        json!({
            "format": FORMAT,
            "model": through_text(&self.identity),
            "judge": self.judge.name(),
            "plan": through_text(&self.plan),
            "vector": { "provenance": through_text(&self.vector), "sha256": hex::encode(hash.finalize()) },
        })
    }

    fn direction(&self, cell: usize) -> &Direction {
        &self.directions[self.plan.layer_index(cell)]
    }

    fn steerer(&self, cell: usize) -> Result<Steerer> {
        let coefficient = self.plan.unit.coefficient(self.plan.strength(cell));
        Steerer::new().add(self.direction(cell), coefficient, self.plan.positions)
    }
}

/// A sweep and what has been reached of it.
struct Running<'a> {
    sweep: &'a Sweep<'a>,
    answers: JudgedAnswers<Place>,
}

impl Running<'_> {
    /// Generates the answers that are missing, cell by cell.
    fn generate(&mut self, wanted: &[Place], on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<()> {
        let Self { sweep, answers } = self;
        let plan = &sweep.plan;
        let (mut done, total) = (answers.answered(wanted), wanted.len());
        for part in wanted.chunk_by(|a, b| a.cell == b.cell) {
            let options = GenerateOptions {
                max_new_tokens: plan.max_new_tokens,
                sampling: plan.sampling.clone(),
                batch_size: sweep.batch_size,
                clean_cache: plan.clean_cache,
                ..GenerateOptions::default()
            };
            let asked = |place: Place| (sweep.prompts[place.question].as_slice(), plan.seed(place));
            answers.generate(sweep.model, part, asked, options, &mut sweep.steerer(part[0].cell)?, || {
                done += 1;
                unless_broken(on_progress(Progress::Answering { done, total }))
            })?;
        }
        Ok(())
    }

    /// Asks the judge for the verdicts that are missing.
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

    /// Refuses a judge that scores nothing: there would be nothing to compare.
    fn check_scored(&self, wanted: &[Place]) -> Result<()> {
        for (rubric, asked) in self.sweep.plan.rubrics.iter().enumerate() {
            let score = |place: &Place| self.answers.get(*place).and_then(|answer| answer.score(rubric));
            if wanted.iter().all(|place| score(place).is_none()) {
                let (judge, rubric) = (self.sweep.judge.name(), asked.name.clone());
                return Err(Error::NothingScored { judge, rubric, answers: wanted.len() });
            }
        }
        Ok(())
    }

    /// The results of what has been asked. A journal that is gone on with holds answers of later rounds too, which must not
    /// decide an earlier one.
    fn results(&self, rounds: &[Round], asked: &[usize]) -> SweepResults {
        let Sweep { identity, judge, plan, vector, .. } = self.sweep;
        let raw = |cell: usize| {
            let coefficient = plan.unit.coefficient(plan.strength(cell));
            coefficient.raw(self.sweep.direction(cell)).unwrap_or_default()
        };
        let cells = asked.iter().enumerate().map(|(cell, &questions)| {
            let places = plan.places(&[cell], questions);
            CellResult::new(plan, cell, raw(cell), &places, &self.answers)
        });
        SweepResults {
            model: identity.clone(),
            vector: vector.clone(),
            judge: judge.name(),
            plan: plan.clone(),
            rounds: rounds.to_vec(),
            cells: cells.collect(),
        }
    }
}

fn unless_broken(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(Error::Cancelled) } else { Ok(()) }
}
