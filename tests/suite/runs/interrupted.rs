//! Runs that are stopped or killed anywhere end with the same results, byte for byte.

use std::io::Write;

use pv_tests::{Random, run_and_kill};

use super::*;

const CHILD: &str = "PV_RUN_CHILD";
const CASE: &str = "PV_RUN_CASE";

/// Kills a run repeatedly until it is finished, and compares its files with those of an undisturbed one.
fn killed(test: &str, name: &str, seed: u64) {
    if let Some(place) = std::env::var_os(CHILD) {
        let case = Case::named(name);
        let told = case.run().run(Path::new(&place), |step| {
            let mut out = std::io::stdout().lock();
            writeln!(out, "\n+{}", step.step).and_then(|()| out.flush()).expect("a parent that listens");
            ControlFlow::Continue(())
        });
        told.expect("a run");
        println!("\n+finished");
        return;
    }
    let case = Case::named(name);
    let whole = folder();
    case.run().run(whole.path(), go_on).expect("a run");
    assert_eq!(pv_train::Regime::of_run(whole.path()).expect("a run's folder"), Some(case.regimes.clone()));
    let place = folder();
    let (mut random, mut at) = (Random(seed), Vec::new());
    let variables = [(CHILD, place.path()), (CASE, Path::new(name))];
    while let Some(event) = run_and_kill(&format!("runs::interrupted::{test}"), &variables, 7, &mut random) {
        at.push(event);
        assert!(at.len() < 100, "the run never ends: {at:?}");
    }
    println!("{name}: killed after steps {}", at.join(", "));
    assert!(at.len() >= 3, "{at:?} are too few kills to mean anything");
    assert_same(place.path(), whole.path());
    let steps: Vec<usize> = read_metrics(place.path()).expect("metrics").iter().map(|line| line.step).collect();
    let first = usize::from(case.probes.is_none());
    assert_eq!(steps, (first..=14).collect::<Vec<_>>(), "every step exactly once");
}

#[test]
fn a_killed_run_with_dropout_ends_with_the_same_results() {
    killed("a_killed_run_with_dropout_ends_with_the_same_results", "dropout", 1);
}

#[test]
fn a_killed_run_with_a_closed_loop_ends_with_the_same_results() {
    killed("a_killed_run_with_a_closed_loop_ends_with_the_same_results", "closed_loop", 2);
}

#[test]
fn a_killed_run_with_a_penalty_ends_with_the_same_results() {
    killed("a_killed_run_with_a_penalty_ends_with_the_same_results", "penalty", 3);
}

#[test]
fn a_killed_run_of_packed_samples_ends_with_the_same_results() {
    killed("a_killed_run_of_packed_samples_ends_with_the_same_results", "packed", 5);
}

#[test]
fn a_killed_run_of_all_parameters_ends_with_the_same_results() {
    killed("a_killed_run_of_all_parameters_ends_with_the_same_results", "all_parameters", 4);
}

#[test]
fn a_run_that_is_interrupted_at_every_step_ends_with_the_same_results() {
    let case = Case::named("closed_loop");
    let (whole, place) = (folder(), folder());
    let straight = case.run().run(whole.path(), go_on).expect("a run");
    assert_eq!((straight.losses.len(), straight.resumed_from), (14, None));
    assert_eq!(straight.saved.as_deref(), Some(whole.path().join("adapter").as_path()));
    let (mut seen, mut resumed) = (Vec::new(), Vec::new());
    let last = loop {
        let outcome = case.run().run(place.path(), |step| {
            seen.push(step.step);
            ControlFlow::Break(())
        });
        let outcome = outcome.expect("a run");
        resumed.push(outcome.resumed_from);
        if outcome.saved.is_some() {
            break outcome;
        }
        assert!(!place.path().join("adapter").exists(), "there is a result before the end");
    };
    assert_eq!(seen, (0..=14).collect::<Vec<_>>(), "no step is trained twice");
    assert_eq!(resumed[..3], [None, None, Some(1)]);
    assert_eq!(last.losses, straight.losses);
    // Checkpoints were written at other steps; the rest is the same.
    let strip = |folder: &Path| {
        let (mut files, lines) = outcome(folder);
        files.retain(|name, _| !name.starts_with("checkpoints") || name.starts_with("checkpoints/step-00000014"));
        (files, lines)
    };
    assert!(strip(place.path()) == strip(whole.path()), "the two runs differ");
    // A finished run is unchanged.
    let before = outcome(place.path());
    let again = case.run().run(place.path(), |step| panic!("step {} was trained again", step.step)).expect("a run");
    assert_eq!((again.losses, again.resumed_from), (straight.losses, Some(14)));
    assert!(outcome(place.path()) == before, "a finished run was changed");
}
