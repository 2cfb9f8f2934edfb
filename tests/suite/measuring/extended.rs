//! Evaluations that become larger, and answers that several judges judge.

use std::cell::Cell;

use pv_data::RunError;
use pv_judge::rubric::COHERENCE;
use pv_judge::{Judge, Rubric};
use pv_tests::{Random, run_and_kill, tell};
use pv_train::measure::MeasureError;
use pv_train::measure::evaluate::{EvaluateOptions, Evaluation, EvaluationResults};

use super::evaluate::{Reserved, options};
use super::*;

const CHILD: &str = "PV_EXTENDED_EVALUATION_CHILD";

fn specs(traits: &[Trait], questions: usize) -> Vec<TraitSpec> {
    let short =
        |which: &Trait| TraitSpec { evaluation: the_spec(*which).evaluation[..questions].to_vec(), ..the_spec(*which) };
    traits.iter().map(short).collect()
}

fn small() -> Vec<TraitSpec> {
    specs(&[Trait::Optimism], 4)
}

/// More questions, more traits.
fn large() -> Vec<TraitSpec> {
    specs(&[Trait::Optimism, Trait::Evil], 6)
}

fn run(
    place: &Path,
    specs: &[TraitSpec],
    per_question: usize,
    judge: &dyn Judge,
) -> Result<EvaluationResults, MeasureError> {
    let options = EvaluateOptions { per_question, batch_size: 5, seed: 4, ..options() };
    Evaluation::new(model(), specs, judge, &options).expect("an evaluation").run(place, &mut NoHook, go_on)
}

fn counting() -> Reserved {
    Reserved { asked: Cell::new(0), reports: true }
}

#[test]
fn an_extended_evaluation_is_the_larger_one() {
    let whole = folder();
    let expected = run(whole.path(), &large(), 3, &counting()).expect("results");
    let place = folder();
    run(place.path(), &small(), 2, &counting()).expect("results");
    let journal = std::fs::read_to_string(place.path().join("journal.jsonl")).expect("a file");
    let judge = counting();
    let found = run(place.path(), &large(), 3, &judge).expect("results");
    assert_eq!(found, expected);
    assert_eq!(files(place.path()), files(whole.path()));
    assert_eq!(judge.asked.get(), (2 * 6 * 3 - 4 * 2) * 2, "no verdict is requested twice");
    let after = std::fs::read_to_string(place.path().join("journal.jsonl")).expect("a file");
    assert!(journal.lines().all(|line| after.lines().any(|kept| kept == line)), "answers and verdicts are kept");

    // It does not become smaller, and nothing else may change.
    let before = files(place.path());
    let refused = |specs: &[TraitSpec], per_question| match run(place.path(), specs, per_question, &judge) {
        Err(MeasureError::Run(RunError::OtherRun { what, .. })) => what,
        other => panic!("{other:?}"),
    };
    assert!(refused(&small(), 3).contains("traits"));
    assert_eq!(refused(&large(), 2), "plan.per_question");
    let mut others = large();
    others[0].evaluation.swap(0, 1);
    assert!(refused(&others, 4).contains("questions"));
    let longer = EvaluateOptions { max_new_tokens: 81, per_question: 4, batch_size: 5, seed: 4, ..options() };
    let evaluation = Evaluation::new(model(), &large(), &judge, &longer).expect("an evaluation");
    let error = evaluation.run(place.path(), &mut NoHook, go_on).expect_err("other answers").to_string();
    assert!(error.contains("max_new_tokens"), "{error}");
    assert_eq!(files(place.path()), before, "a refusal changed the folder");
}

#[test]
fn an_evaluation_that_is_killed_while_it_is_extended_loses_nothing() {
    if let Some(place) = std::env::var_os(CHILD) {
        let options = EvaluateOptions { per_question: 3, batch_size: 5, seed: 4, ..options() };
        let evaluation = Evaluation::new(model(), &large(), &ExactJudge, &options).expect("an evaluation");
        evaluation.run(Path::new(&place), &mut NoHook, tell).expect("results");
        println!("\n+finished");
        return;
    }
    let (whole, place) = (folder(), folder());
    run(whole.path(), &large(), 3, &ExactJudge).expect("results");
    run(place.path(), &small(), 2, &ExactJudge).expect("results");
    let (mut random, mut kills) = (Random(9), 0);
    let name = "measuring::extended::an_evaluation_that_is_killed_while_it_is_extended_loses_nothing";
    while run_and_kill(name, &[(CHILD, place.path())], 6, &mut random).is_some() {
        kills += 1;
        assert!(kills < 200, "the evaluation never ends");
    }
    println!("killed {kills} times");
    assert!(kills >= 4, "{kills} kills are too few to mean anything");
    assert_eq!(files(place.path()), files(whole.path()));
}

#[test]
fn several_judges_judge_the_same_answers() {
    let place = folder();
    let first = run(place.path(), &small(), 2, &ExactJudge).expect("results");
    let answers = |place: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(place.join("journal.jsonl")).expect("a file");
        text.lines().filter(|line| line.contains("\"answer\"")).map(str::to_owned).collect()
    };
    let texts = answers(place.path());
    assert_eq!(texts.len(), 8);

    let other = counting();
    let second = run(place.path(), &small(), 2, &other).expect("results");
    assert_eq!(other.asked.get(), 16, "another judge's verdicts are requested");
    assert_eq!(answers(place.path()), texts, "the answers are the same");
    assert_eq!((first.judge.as_str(), second.judge.as_str()), (ExactJudge.name().as_str(), "a reserved judge"));
    assert_ne!(first.traits[0].expression, second.traits[0].expression, "this judge abstains");
    // As if it had been the only one.
    let alone = folder();
    assert_eq!(run(alone.path(), &small(), 2, &counting()).expect("results"), second);

    // Each judge's verdicts are kept.
    assert_eq!(run(place.path(), &small(), 2, &ExactJudge).expect("results"), first);
    let other = counting();
    assert_eq!(run(place.path(), &small(), 2, &other).expect("results"), second);
    assert_eq!(other.asked.get(), 0);
    let read = EvaluationResults::load(place.path().join("results.json")).expect("results");
    assert_eq!(read, second, "the file has the results of the last run");

    // Another template is another source. The rubric for coherence is the same.
    let mut reworded = small();
    reworded[0].eval_prompt.push_str(" Answer with a number.");
    let other = counting();
    let third = run(place.path(), &reworded, 2, &other).expect("results");
    assert_eq!(other.asked.get(), 8);
    assert_ne!(third.plan.traits[0].rubric, second.plan.traits[0].rubric);
    // An extension needs the missing answers and verdicts of its judge only.
    let other = counting();
    run(place.path(), &small(), 3, &other).expect("results");
    assert_eq!(other.asked.get(), 4 * 2);
}

/// Earlier versions stored verdicts without their source: they are those of the judge and the rubrics in `run.json`.
#[test]
fn folders_of_earlier_versions_are_read() {
    let place = folder();
    let expected = run(place.path(), &small(), 2, &counting()).expect("results");
    let journal = place.path().join("journal.jsonl");
    let earlier: String = std::fs::read_to_string(&journal)
        .expect("a file")
        .lines()
        .map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            if line["kind"] == "verdict" {
                // The index: 0 for the trait, 1 for coherence.
                let name = line["rubric"]["name"].as_str().expect("a source");
                line["rubric"] = usize::from(name == COHERENCE).into();
            }
            format!("{line}\n")
        })
        .collect();
    std::fs::write(&journal, earlier).expect("a file");
    let judge = counting();
    assert_eq!(run(place.path(), &small(), 2, &judge).expect("results"), expected);
    assert_eq!(judge.asked.get(), 0);
    run(place.path(), &small(), 2, &ExactJudge).expect("results");
    assert_eq!(run(place.path(), &small(), 2, &judge).expect("results"), expected);
    run(place.path(), &small(), 3, &judge).expect("results");
    assert_eq!(judge.asked.get(), 4 * 2);
    let rubric: Rubric = small()[0].rubric().expect("a rubric");
    assert_eq!(expected.plan.traits[0].rubric, rubric);
}
