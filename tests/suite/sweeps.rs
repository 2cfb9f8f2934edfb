//! Sweeps, dose–response and the proxy on the organism, whose judge is exact.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;

use pv_examples::organism::{ExactJudge, spec};
use pv_examples::sweeping::answer_pairs;
use pv_examples::traits::contrast_of;
use pv_hooks::{Layer, LayerSet};
use pv_judge::{Answered, Judge, Judged, Rubric, TraitSpec, Verdict, Verdicts};
use pv_model::{GenerateOptions, Sampling};
use pv_organism::Trait;
use pv_steer::{AnswerPair, Positions, Search, StrengthUnit, Sweep, SweepOptions, SweepResults};
use pv_tests::{organism as model, seed};
use pv_vectors::{PersonaVector, Progress};
use tempfile::TempDir;

mod interrupted;
mod numbers;
mod proxy;
mod refused;
mod rules;

const SAMPLING: Sampling = Sampling::temperature(0.7);

fn the_spec(which: Trait) -> TraitSpec {
    spec(which).expect("the organism's trait")
}

/// A trait's vector, and a pair of answers to each of the questions that it was made of.
fn extracted(which: Trait) -> &'static (PersonaVector, Vec<AnswerPair>) {
    static ALL: [OnceLock<(PersonaVector, Vec<AnswerPair>)>; 5] = [const { OnceLock::new() }; 5];
    ALL[which as usize].get_or_init(|| {
        let mut contrast = contrast_of(&the_spec(which));
        contrast.instruction.truncate(2);
        let options = GenerateOptions { max_new_tokens: 80, sampling: SAMPLING, ..GenerateOptions::default() };
        let extraction =
            contrast.extract(model(), &options, seed(0), |_| ControlFlow::Continue(())).expect("an extraction");
        let pairs = answer_pairs(&contrast, &extraction);
        (extraction.vector, pairs)
    })
}

fn vector(which: Trait) -> &'static PersonaVector {
    &extracted(which).0
}

fn layers(indices: impl IntoIterator<Item = usize>) -> LayerSet {
    indices.into_iter().map(Layer::hidden_state).collect()
}

fn options() -> SweepOptions {
    SweepOptions { max_new_tokens: 80, sampling: SAMPLING, seed: seed(5), ..SweepOptions::default() }
}

/// Few answers, for tests of what happens to them.
fn small() -> SweepOptions {
    SweepOptions { layers: layers([6, 7]), strengths: vec![0.3, 0.5], per_question: 2, ..options() }
}

fn small_spec() -> TraitSpec {
    let mut spec = the_spec(Trait::Optimism);
    spec.evaluation.truncate(4);
    spec
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn small_sweep<'a>(judge: &'a dyn Judge, options: &SweepOptions) -> Sweep<'a> {
    Sweep::new(model(), vector(Trait::Optimism), &small_spec(), judge, options).expect("a sweep")
}

fn run(which: Trait, options: &SweepOptions) -> SweepResults {
    let sweep = Sweep::new(model(), vector(which), &the_spec(which), &ExactJudge, options).expect("a sweep");
    sweep.run(folder().path(), go_on).expect("results")
}

/// A judge by a rule: rubric, question and answer to a verdict. It only returns its verdicts, or reports them too.
struct ByRule<F> {
    reports: bool,
    rule: F,
}

impl<F: Fn(&str, &Answered<'_>) -> Verdict> Judge for ByRule<F> {
    fn name(&self) -> String {
        "a rule".to_owned()
    }

    fn judge(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
    ) -> pv_judge::Result<Vec<Verdicts>> {
        let total = rubrics.len() * answers.len();
        let mut done = 0;
        let mut all = vec![Vec::new(); answers.len()];
        // Not in the order of the answers.
        for (answer, answered) in answers.iter().enumerate().rev() {
            for (rubric, asked) in rubrics.iter().enumerate() {
                done += 1;
                let verdict = (self.rule)(&asked.name, answered);
                all[answer].push(verdict.clone());
                if self.reports && on_verdict(Judged { answer, rubric, verdict, done, total }).is_break() {
                    return Err(pv_judge::Error::Cancelled { done, total });
                }
            }
        }
        Ok(all)
    }
}

/// What a folder holds at the end.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            (path.file_name().expect("a name").to_string_lossy().into_owned(), std::fs::read(path).expect("a file"))
        })
        // What was damaged is kept beside it.
        .filter(|(name, _)| !name.contains(".damaged"))
        .collect();
    files.sort();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["journal.jsonl", "results.csv", "results.json", "run.json", "run.lock"]);
    files
}
