//! Generates and judges a model's answers to the traits' evaluation questions.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::runs::through_text;
use pv_data::{RunError, RunFolder};
use pv_hooks::Hook;
use pv_judge::{Judge, TraitSpec};
use pv_model::{CausalLm, GenerateOptions, Message, ModelIdentity};
use pv_vectors::contrast::Progress;
use pv_vectors::judged_answers::{JudgedAnswers, VerdictSource};
use serde::Deserialize;
use serde_json::{Value, json};

use super::plan::{EvaluateOptions, EvaluationPlan, Place, TraitQuestions};
use super::results::EvaluationResults;
use crate::measure::{MeasureError, Result, SettingError, check_described};

const FORMAT: &str = "pv-evaluation/1";
const RUN: &str = "run.json";
const RESULTS: &str = "results.json";

/// Asks a model the evaluation questions of traits, and has every answer judged for its question's trait and for
/// coherence (method: paper, section 2.1).
///
/// An evaluation writes to a folder: `run.json` (its description), `journal.jsonl` (answers and verdicts, as they are
/// completed) and, at the end, `results.json`. A run that was interrupted or killed resumes, does not repeat any
/// request, and ends with the same files; see [`RolloutRun`](pv_vectors::rollout::RolloutRun), which works in the same
/// way.
///
/// An evaluation can be extended in its folder: with more answers per question, with more questions after those of a
/// trait, or with more traits after the existing ones. Several judges may judge the same answers, and one judge by
/// several templates of a rubric: the verdicts of each are kept, and `results.json` contains those of the last run.
pub struct Evaluation<'a> {
    model: &'a CausalLm,
    judge: &'a dyn Judge,
    plan: EvaluationPlan,
    measured: ModelIdentity,
    /// The prompts' token ids, `[traits][questions][tokens]`.
    prompts: Vec<Vec<Vec<u32>>>,
    batch_size: usize,
}

/// The judge and the plan in a folder's description.
#[derive(Clone, Debug, Deserialize)]
struct Description {
    judge: String,
    plan: EvaluationPlan,
}

impl std::fmt::Debug for Evaluation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluation")
            .field("plan", &self.plan)
            .field("judge", &self.judge.name())
            .finish_non_exhaustive()
    }
}

impl<'a> Evaluation<'a> {
    /// Creates an evaluation, and refuses one that could not be completed.
    ///
    /// # Errors
    /// No traits, a trait without evaluation questions, duplicate traits, invalid options, a model without tokenizer or
    /// chat template, a template that refuses the system prompt.
    pub fn new(
        model: &'a CausalLm,
        specs: &[TraitSpec],
        judge: &'a dyn Judge,
        options: &EvaluateOptions,
    ) -> Result<Self> {
        if options.batch_size == 0 {
            return Err(SettingError::Zero { name: "batch_size" }.into());
        }
        let plan = EvaluationPlan::new(specs, options)?;
        let render = plan.render.as_prompt();
        let prompt = |question: &String| {
            let system = plan.system.iter().map(Message::system);
            model.prompt_with(&system.chain([Message::user(question)]).collect::<Vec<_>>(), &render)
        };
        let prompts = plan.traits.iter().map(|which| which.questions.iter().map(prompt).collect());
        let prompts = prompts.collect::<pv_model::Result<_>>()?;
        Ok(Self { model, judge, measured: model.identity()?, prompts, batch_size: options.batch_size, plan })
    }

    /// The plan.
    pub fn plan(&self) -> &EvaluationPlan {
        &self.plan
    }

    /// The rendered prompts of a trait's questions, as token ids. The [finetuning
    /// shift](crate::measure::shift::ProjectionTable) is measured on the same prompts.
    pub fn prompts(&self, trait_name: &str) -> Option<&[Vec<u32>]> {
        let which = self.plan.traits.iter().position(|which| which.trait_name == trait_name)?;
        Some(&self.prompts[which])
    }

    /// Runs the evaluation in a folder, or resumes the one in it. If the evaluation is complete, only the results are
    /// computed again.
    ///
    /// `hook` acts while answers are generated; for example, a [`Steerer`](pv_steer::Steerer) can counteract a
    /// finetuning shift. Use [`NoHook`](pv_hooks::NoHook) for none. The hook should treat all sequences alike, because
    /// an answer's index in the batch depends on which answers are missing.
    ///
    /// # Errors
    /// A hook without a description in [`EvaluateOptions::intervention`], or one that does not fit; a folder that is in
    /// use or contains another evaluation (of another model, with other settings, or a larger one);
    /// [`MeasureError::Cancelled`]; errors of the model and the judge. After any error, completed answers and verdicts
    /// are kept.
    pub fn run(
        &self,
        folder: impl AsRef<Path>,
        hook: &mut (impl Hook + ?Sized),
        mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<EvaluationResults> {
        check_described(hook, self.plan.intervention.as_deref())?;
        pv_hooks::hook::check(hook, &self.model.shape(), None)?;
        let folder = RunFolder::lock(folder.as_ref())?;
        let description = self.claim(&folder)?;
        let source = |judge: &str, plan: &EvaluationPlan, place: Place, rubric: usize| {
            Some(VerdictSource::new(judge, plan.rubric(place, rubric)?))
        };
        let judge = self.judge.name();
        let mut answers = JudgedAnswers::open_for(
            folder,
            |place| self.plan.contains(place).then(|| self.plan.seed(place)),
            self.judge,
            self.plan.traits.iter().map(|which| &which.rubric).chain([&self.plan.coherence]),
            |place, rubric| source(&description.judge, &description.plan, place, rubric),
        )?;
        self.generate(&mut answers, hook, &mut on_progress)?;
        self.score(&mut answers, &mut on_progress)?;
        answers.sort()?;
        let results = EvaluationResults::new(self.measured.clone(), judge, self.plan.clone(), &answers);
        answers.folder().write(RESULTS, |file| file.write_all(results.to_json().as_bytes()))?;
        Ok(results)
    }

    /// Writes the description of the evaluation into a new folder, extends that of a smaller evaluation, or refuses a
    /// folder of another one. The judge and the rubrics may differ: the description keeps those with which the folder
    /// was created, which are returned with the plan.
    fn claim(&self, folder: &RunFolder) -> Result<Description> {
        let Some(found) = folder.read_json(RUN)? else {
            let description = Description { judge: self.judge.name(), plan: self.plan.clone() };
            folder.claim_read(RUN, None, &self.header(&description), &[])?;
            return Ok(description);
        };
        let damaged = |source| RunError::Json { path: folder.file(RUN), source };
        let saved: Description = serde_json::from_value(found.clone()).map_err(damaged)?;
        let plan = self.plan.with_rubrics_of(&saved.plan);
        let extends = plan.extends(&saved.plan);
        let description = Description { judge: saved.judge, plan };
        if extends {
            let smaller = Description { plan: description.plan.shrunk_to(&saved.plan), ..description.clone() };
            folder.claim_read(RUN, Some(found), &self.header(&smaller), &[])?;
            folder.write(RUN, |file| Ok(serde_json::to_writer_pretty(file, &self.header(&description))?))?;
        } else {
            folder.claim_read(RUN, Some(found), &self.header(&description), &[])?;
        }
        Ok(description)
    }

    /// Identifies the run in its folder. The batch size may differ, and is not part of it.
    fn header(&self, description: &Description) -> Value {
        json!({
            "format": FORMAT,
            "model": through_text(&self.measured),
            "judge": description.judge,
            "plan": through_text(&description.plan),
        })
    }

    /// Generates the missing answers, trait by trait.
    fn generate(
        &self,
        answers: &mut JudgedAnswers<Place>,
        hook: &mut (impl Hook + ?Sized),
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        let (plan, places) = (&self.plan, self.plan.places());
        let (mut done, total) = (answers.answered(&places), places.len());
        for part in places.chunk_by(|a, b| a.which == b.which) {
            let options = GenerateOptions {
                max_new_tokens: plan.max_new_tokens,
                sampling: plan.sampling.clone(),
                batch_size: self.batch_size,
                ..GenerateOptions::default()
            };
            let asked = |place: Place| (self.prompts[place.which][place.question].as_slice(), plan.seed(place));
            answers.generate(self.model, part, asked, options, hook, || {
                done += 1;
                unless_broken(on_progress(Progress::Answering { done, total }))
            })?;
        }
        Ok(())
    }

    /// Requests the missing verdicts from the judge, trait by trait.
    fn score(
        &self,
        answers: &mut JudgedAnswers<Place>,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        let (plan, places) = (&self.plan, self.plan.places());
        let (mut done, total) = (answers.judged(&places), places.len() * 2);
        for part in places.chunk_by(|a, b| a.which == b.which) {
            let TraitQuestions { questions, rubric, .. } = &plan.traits[part[0].which];
            let question = |place: Place| questions[place.question].as_str();
            answers.judge(self.judge, part, [rubric, &plan.coherence], question, || {
                done += 1;
                unless_broken(on_progress(Progress::Judging { done, total }))
            })?;
        }
        match done < total {
            true => Err(MeasureError::MissingVerdicts { judge: self.judge.name(), done, total }),
            false => Ok(()),
        }
    }
}

fn unless_broken(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(MeasureError::Cancelled) } else { Ok(()) }
}
