//! Sweeps, dose–response and the proxy on the organism, whose judge is exact.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;

use pv_examples::organism::{ExactJudge, spec};
use pv_examples::vectors::answer_pairs;
use pv_hooks::{Layer, LayerSet};
use pv_judge::judge::Answered;
use pv_judge::{Judge, Rubric, TraitSpec, Verdict};
use pv_model::{GenerateOptions, Sampling};
use pv_organism::Trait;
use pv_steer::Positions;
use pv_steer::sweep::{AnswerPair, Search, StrengthUnit, Sweep, SweepOptions, SweepResults};
use pv_tests::{RuleJudge, organism as model, seed};
use pv_vectors::contrast::Progress;
use pv_vectors::{Contrast, PersonaVector};
use tempfile::TempDir;

mod growing;
mod interrupted;
mod numbers;
mod proxy;
mod refused;
mod report;
mod rules;

const SAMPLING: Sampling = Sampling::temperature(0.7);

fn the_spec(which: Trait) -> TraitSpec {
    spec(which).expect("the organism's trait")
}

/// A trait's vector, and a pair of answers to each of its extraction questions.
fn extracted(which: Trait) -> &'static (PersonaVector, Vec<AnswerPair>) {
    static ALL: [OnceLock<(PersonaVector, Vec<AnswerPair>)>; 5] = [const { OnceLock::new() }; 5];
    ALL[which as usize].get_or_init(|| {
        let mut contrast = Contrast::of(&the_spec(which)).expect("prompts");
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

/// All questions take part in the choice; held-out questions are tested in `report`.
fn options() -> SweepOptions {
    SweepOptions { max_new_tokens: 80, sampling: SAMPLING, seed: seed(5), report_share: 0.0, ..SweepOptions::default() }
}

/// Few answers, for tests of their processing.
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

/// A judge by a rule from the rubric's name and the answer to a verdict.
fn by_rule<F: Fn(&str, &Answered<'_>) -> Verdict>(rule: F) -> RuleJudge<impl Fn(&Rubric, &Answered<'_>) -> Verdict> {
    RuleJudge::new("a rule", move |rubric: &Rubric, answered: &Answered<'_>| rule(&rubric.name, answered))
}

/// The content of a folder at the end.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            (path.file_name().expect("a name").to_string_lossy().into_owned(), std::fs::read(path).expect("a file"))
        })
        // A copy of what was damaged.
        .filter(|(name, _)| !name.contains(".damaged"))
        .collect();
    files.sort();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["journal.jsonl", "results.csv", "results.json", "run.json", "run.lock"]);
    files
}
