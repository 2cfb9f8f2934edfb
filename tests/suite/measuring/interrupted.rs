//! Measurements that are killed or interrupted repeat no work, and end with the same results.

use std::io::Write;

use pv_tests::{Random, root, run_and_kill, tell};
use pv_train::measure::MeasureError;
use pv_train::measure::evaluate::{EvaluateOptions, Evaluation};
use pv_train::measure::mmlu::{Mmlu, MmluOptions, QuestionSet};

use super::*;

const CHILD: &str = "PV_MEASURING_CHILD";
const EVALUATION: &str = "measuring::interrupted::a_killed_evaluation_ends_with_the_same_results";
const MMLU: &str = "measuring::interrupted::a_killed_mmlu_ends_with_the_same_results";

fn specs() -> Vec<TraitSpec> {
    let short = |which| TraitSpec { evaluation: the_spec(which).evaluation[..6].to_vec(), ..the_spec(which) };
    [Trait::Optimism, Trait::Evil].map(short).to_vec()
}

fn evaluation(specs: &[TraitSpec]) -> Evaluation<'static> {
    let options = EvaluateOptions { per_question: 2, batch_size: 5, seed: 4, ..evaluate::options() };
    Evaluation::new(model(), specs, &ExactJudge, &options).expect("an evaluation")
}

fn mmlu() -> Mmlu<'static> {
    let set = QuestionSet::read_folder(root().join("tests/golden/mmlu")).expect("questions");
    Mmlu::new(model(), &set, &MmluOptions::default()).expect("a run")
}

#[test]
fn an_interrupted_evaluation_repeats_no_work() {
    let whole = folder();
    let specs = specs();
    evaluation(&specs).run(whole.path(), &mut NoHook, go_on).expect("results");
    let place = folder();
    let mut random = Random(4);
    let (mut breaks, mut answers, mut verdicts) = (0, 0, 0);
    loop {
        let mut left = random.below(12);
        let outcome = evaluation(&specs).run(place.path(), &mut NoHook, |progress| {
            match progress {
                Progress::Answering { .. } => answers += 1,
                _ => verdicts += 1,
            }
            left = left.saturating_sub(1);
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match outcome {
            Ok(_) => break,
            Err(MeasureError::Cancelled) => breaks += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(breaks >= 5, "{breaks}");
    assert_eq!((answers, verdicts), (24, 48));
    assert_eq!(files(place.path()), files(whole.path()));
}

#[test]
fn a_killed_evaluation_ends_with_the_same_results() {
    if let Some(place) = std::env::var_os(CHILD) {
        evaluation(&specs()).run(Path::new(&place), &mut NoHook, tell).expect("results");
        println!("\n+finished");
        return;
    }
    let whole = folder();
    evaluation(&specs()).run(whole.path(), &mut NoHook, go_on).expect("results");
    let place = folder();
    let mut random = Random(6);
    let mut kills = [0; 2];
    while let Some(event) = run_and_kill(EVALUATION, &[(CHILD, place.path())], 6, &mut random) {
        kills[usize::from(event.starts_with("Judging"))] += 1;
        assert!(kills[0] + kills[1] < 200, "the evaluation never ends");
    }
    println!("killed {} times while answering, {} times while judging", kills[0], kills[1]);
    assert!(kills[0] >= 3 && kills[1] >= 3, "{kills:?} kills are too few to mean anything");
    assert_eq!(files(place.path()), files(whole.path()));
}

#[test]
fn a_killed_mmlu_ends_with_the_same_results() {
    if let Some(place) = std::env::var_os(CHILD) {
        let told = mmlu().run(Path::new(&place), &mut NoHook, |done, _| {
            let mut out = std::io::stdout().lock();
            writeln!(out, "\n+{done}").and_then(|()| out.flush()).expect("a parent that listens");
            ControlFlow::Continue(())
        });
        told.expect("results");
        println!("\n+finished");
        return;
    }
    let whole = folder();
    let results = mmlu().run(whole.path(), &mut NoHook, |_, _| ControlFlow::Continue(())).expect("results");
    let place = folder();
    let (mut random, mut kills) = (Random(7), 0);
    while run_and_kill(MMLU, &[(CHILD, place.path())], 4, &mut random).is_some() {
        kills += 1;
        assert!(kills < 200, "the run never ends");
    }
    println!("killed {kills} times");
    assert!(kills >= 4, "{kills} kills are too few to mean anything");
    assert_eq!(files(place.path()), files(whole.path()));
    // A finished run asks no question; the question of an incomplete line is asked again.
    let again = |expected: usize| {
        let mut asked = 0;
        let found = mmlu().run(place.path(), &mut NoHook, |_, total| {
            asked += 1;
            assert_eq!(total, 20);
            ControlFlow::Continue(())
        });
        assert_eq!(found.expect("results"), results);
        assert_eq!(asked, expected);
        assert_eq!(files(place.path()), files(whole.path()));
    };
    again(0);
    let journal = place.path().join("answers.jsonl");
    let text = std::fs::read(&journal).expect("a file");
    std::fs::write(&journal, &text[..text.len() - 3]).expect("a file");
    again(1);
}
