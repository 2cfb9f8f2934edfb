//! Generates and judges a model's answers to the traits' evaluation questions.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pv_data::RunFolder;
use pv_data::runs::through_text;
use pv_hooks::Hook;
use pv_judge::{Judge, TraitSpec};
use pv_model::ModelIdentity;
use pv_model::{CausalLm, GenerateOptions, Message};
use pv_vectors::{JudgedAnswers, Progress};
use serde_json::{Value, json};

use super::plan::{EvaluateOptions, EvaluationPlan, Place, TraitQuestions};
use super::results::EvaluationResults;
use crate::measure::{MeasureError, Result, check_said};

const FORMAT: &str = "pv-evaluation/1";
const RUN: &str = "run.json";
const RESULTS: &str = "results.json";

/// Asks a model the evaluation questions of traits, and has every answer judged for the trait that its question belongs to,
/// and for coherence (method: paper, section 2.1).
///
/// An evaluation lives in a folder: `run.json` (what it is), `journal.jsonl` (answers and verdicts, as they are reached) and
/// at the end `results.json`. One that was broken off or killed goes on where it was, asks nothing twice, and ends with the
/// same files; see [`RolloutRun`](pv_vectors::RolloutRun), to which the same applies.
pub struct Evaluation<'a> {
    model: &'a CausalLm,
    judge: &'a dyn Judge,
    plan: EvaluationPlan,
    measured: ModelIdentity,
    /// Per trait, one per question.
    prompts: Vec<Vec<Vec<u32>>>,
    batch_size: usize,
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
    /// Puts an evaluation together, and refuses what could not be run to its end.
    ///
    /// # Errors
    /// No traits, a trait without evaluation questions or that is there twice, impossible options, a model without tokenizer
    /// or chat template, a template that refuses the system prompt.
    pub fn new(
        model: &'a CausalLm,
        specs: &[TraitSpec],
        judge: &'a dyn Judge,
        options: &EvaluateOptions,
    ) -> Result<Self> {
        if options.batch_size == 0 {
            return Err(MeasureError::bad("batch_size is 0"));
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

    /// What will be done.
    pub fn plan(&self) -> &EvaluationPlan {
        &self.plan
    }

    /// The rendered prompts of a trait's questions, which the [finetuning shift](crate::ProjectionTable) is measured on too.
    pub fn prompts(&self, trait_name: &str) -> Option<&[Vec<u32>]> {
        let which = self.plan.traits.iter().position(|which| which.trait_name == trait_name)?;
        Some(&self.prompts[which])
    }

    /// Runs the evaluation in a folder, or goes on with the one that is there. When all is done already, only the results
    /// are computed again.
    ///
    /// `hook` acts while answers are generated, as a [`Steerer`](pv_steer::Steerer) does that counteracts what a model has
    /// learnt; [`NoHook`](pv_hooks::NoHook) for none. It should treat all sequences alike: which number an answer has depends
    /// on what is missing.
    ///
    /// # Errors
    /// A hook of which [`EvaluateOptions::intervention`] does not say what it does, or one that does not fit; a folder that
    /// is in use, or that holds another evaluation (of another plan, model or judge); [`MeasureError::Cancelled`]; what the
    /// model and the judge say. Whatever the error, what had been done is kept.
    pub fn run(
        &self,
        folder: impl AsRef<Path>,
        hook: &mut (impl Hook + ?Sized),
        mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<EvaluationResults> {
        check_said(hook, self.plan.intervention.as_deref())?;
        pv_hooks::check(hook, &self.model.shape(), None)?;
        let folder = RunFolder::lock(folder.as_ref())?;
        folder.claim(RUN, &self.header())?;
        let seed = |place| self.plan.contains(place).then(|| self.plan.seed(place));
        let mut answers = JudgedAnswers::open(folder, seed)?;
        self.generate(&mut answers, hook, &mut on_progress)?;
        self.score(&mut answers, &mut on_progress)?;
        answers.sort()?;
        let results = EvaluationResults::new(self.measured.clone(), self.judge.name(), self.plan.clone(), &answers);
        answers.folder().write(RESULTS, |file| file.write_all(results.to_json().as_bytes()))?;
        Ok(results)
    }

    /// What a folder belongs to. Another batch size is welcome.
    fn header(&self) -> Value {
        json!({
            "format": FORMAT,
            "model": through_text(&self.measured),
            "judge": self.judge.name(),
            "plan": through_text(&self.plan),
        })
    }

    /// Generates the answers that are missing, trait by trait.
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

    /// Asks the judge for the verdicts that are missing, trait by trait.
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
