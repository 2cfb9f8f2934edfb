//! Generates and judges a model's answers to the traits' evaluation questions.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pv_hooks::{Hook, LayerSet};
use pv_judge::{Answered, Judge, Rubric, TraitSpec, Verdict};
use pv_model::{CausalLm, Event, GenerateOptions, Generation, Message, Request};
use pv_vectors::{ModelIdentity, Progress, RunFolder};
use serde_json::{Value, json};

use super::journal::{Answers, Line};
use super::plan::{EvaluateOptions, EvaluationPlan, Place};
use super::results::EvaluationResults;
use crate::measure::{MeasureError, Result, through_text};

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
        let prompt = |question: &String| {
            let system = plan.system.iter().map(Message::system);
            model.prompt(&system.chain([Message::user(question)]).collect::<Vec<_>>())
        };
        let prompts = plan.traits.iter().map(|which| which.questions.iter().map(prompt).collect());
        let prompts = prompts.collect::<pv_model::Result<_>>()?;
        Ok(Self { model, judge, measured: ModelIdentity::of(model)?, prompts, batch_size: options.batch_size, plan })
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
        let acts = hook.layers() != LayerSet::none();
        if acts != self.plan.intervention.is_some() {
            let said = if acts { "what the hook does is not said" } else { "there is no hook that does it" };
            return Err(MeasureError::bad(format!("intervention is {:?}: {said}", self.plan.intervention)));
        }
        pv_hooks::check(hook, &self.model.shape(), None)?;
        let folder = RunFolder::lock(folder.as_ref())?;
        folder.claim(RUN, &self.header())?;
        let mut run = Running { of: self, answers: Answers::open(&folder, &self.plan)?, folder };
        run.generate(hook, &mut on_progress)?;
        run.score(&mut on_progress)?;
        run.answers.sort(&run.folder)?;
        let results = EvaluationResults::new(self.measured.clone(), self.judge.name(), self.plan.clone(), &run.answers);
        run.folder.write(RESULTS, |file| file.write_all(results.to_json().as_bytes()))?;
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
}

/// An evaluation and its folder.
struct Running<'a> {
    of: &'a Evaluation<'a>,
    folder: RunFolder,
    answers: Answers,
}

impl Running<'_> {
    /// Generates the answers that are missing, trait by trait.
    fn generate(
        &mut self,
        hook: &mut (impl Hook + ?Sized),
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut missing = self.of.plan.places();
        let total = missing.len();
        missing.retain(|place| !self.answers.entries.contains_key(place));
        let mut done = total - missing.len();
        for part in missing.chunk_by(|a, b| a.which == b.which) {
            self.generate_part(part, hook, &mut || {
                done += 1;
                on_progress(Progress::Answering { done, total })
            })?;
            self.answers.sync(&self.folder)?;
        }
        Ok(())
    }

    fn generate_part(
        &mut self,
        part: &[Place],
        hook: &mut (impl Hook + ?Sized),
        on_answer: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<()> {
        let Self { of, folder, answers } = self;
        let plan = &of.plan;
        let requests = part.chunk_by(|a, b| a.question == b.question).map(|group| Request {
            prompt: of.prompts[group[0].which][group[0].question].clone(),
            seeds: group.iter().map(|&place| plan.seed(place)).collect(),
        });
        let requests: Vec<Request> = requests.collect();
        let options = GenerateOptions {
            max_new_tokens: plan.max_new_tokens,
            sampling: plan.sampling.clone(),
            batch_size: of.batch_size,
            // Every prompt by itself: in a batch, it would depend on its neighbours in its last bits.
            prefill_tokens: 0,
            ..GenerateOptions::default()
        };
        let mut ended = |sequence: usize, generation: &Generation| -> Result<()> {
            let place = part[sequence];
            let Generation { tokens, text, finish } = generation;
            let (seed, text, tokens, finish) = (plan.seed(place), text.clone(), tokens.len(), *finish);
            answers.keep(folder, plan, &Line::Answer { place, seed, text, tokens, finish })?;
            if on_answer().is_break() { Err(MeasureError::Cancelled) } else { Ok(()) }
        };
        let mut failure = None;
        of.model.generate(&requests, &options, hook, |event| {
            let Event::Finished { sequence, generation } = event else { return ControlFlow::Continue(()) };
            match ended(sequence, generation) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failure.map_or(Ok(()), Err)
    }

    /// Asks the judge for the verdicts that are missing; answers that lack the same ones are judged together.
    fn score(&mut self, on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<()> {
        let Self { of, folder, answers } = self;
        let (plan, judge) = (&of.plan, of.judge);
        let mut groups: BTreeMap<(usize, Vec<usize>), Vec<Place>> = BTreeMap::new();
        for (&place, entry) in &answers.entries {
            let lacking: Vec<usize> = (0..2).filter(|&rubric| entry.verdicts[rubric].is_none()).collect();
            if !lacking.is_empty() {
                groups.entry((place.which, lacking)).or_default().push(place);
            }
        }
        let total = plan.answers() * 2;
        let mut done = total - groups.iter().map(|((_, lacking), places)| lacking.len() * places.len()).sum::<usize>();
        for ((which, lacking), places) in groups {
            let asked: Vec<Rubric> = lacking.iter().map(|&rubric| plan.rubric(which, rubric).clone()).collect();
            let texts: Vec<String> = places.iter().map(|place| answers.entries[place].text.clone()).collect();
            let question = |place: &Place| plan.traits[which].questions[place.question].as_str();
            let answered = places.iter().zip(&texts);
            let answered: Vec<Answered<'_>> =
                answered.map(|(place, answer)| Answered { question: question(place), answer }).collect();
            let mut failure = None;
            let mut keep = |answer: usize, rubric: usize, verdict: Verdict| -> ControlFlow<()> {
                let (Some(&place), Some(&rubric)) = (places.get(answer), lacking.get(rubric)) else {
                    return ControlFlow::Continue(());
                };
                if answers.entries.get(&place).is_none_or(|entry| entry.verdicts[rubric].is_some()) {
                    return ControlFlow::Continue(());
                }
                if let Err(error) = answers.keep(folder, plan, &Line::Verdict { place, rubric, verdict }) {
                    failure = Some(error);
                    return ControlFlow::Break(());
                }
                done += 1;
                on_progress(Progress::Judging { done, total })
            };
            let outcome = judge.judge(&asked, &answered, &mut |j| keep(j.answer, j.rubric, j.verdict));
            let mut broken = false;
            let outcome = outcome.map(|all| {
                // Those that were not reported on the way, if any.
                for (answer, verdicts) in all.into_iter().enumerate() {
                    for (rubric, verdict) in verdicts.into_iter().enumerate() {
                        broken |= keep(answer, rubric, verdict).is_break();
                    }
                }
            });
            if let Some(failure) = failure {
                return Err(failure);
            }
            match outcome {
                Err(pv_judge::Error::Cancelled { .. }) => return Err(MeasureError::Cancelled),
                other => other?,
            }
            answers.sync(folder)?;
            if broken {
                return Err(MeasureError::Cancelled);
            }
        }
        match done < total {
            true => Err(MeasureError::MissingVerdicts { judge: judge.name(), done, total }),
            false => Ok(()),
        }
    }
}
