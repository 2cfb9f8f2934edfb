//! Runs that become longer, and runs that are executed in another way when they resume.

use std::io::Write;

use pv_data::RunError;
use pv_tests::{Random, run_and_kill};
use pv_train::trainer::{Checkpoints, Decay};
use pv_train::{Error, finetune};

use super::*;

const CHILD: &str = "PV_EXTENDED_CHILD";

/// A run whose learning rate does not depend on its length.
fn constant(epochs: usize) -> Case {
    let mut case = Case::named("closed_loop");
    case.options.train.decay = Decay::Constant;
    case.options.train.duration = Duration::Epochs(epochs);
    case.options.keep = Some(pv_train::run::Keep::Last);
    case
}

fn until(last: usize) -> impl FnMut(&StepMetrics) -> ControlFlow<()> {
    move |step| if step.step == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn adapter(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("adapter/adapter_model.safetensors")).expect("an adapter")
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

/// Refuses folders whose last checkpoints or results differ, or whose steps had other losses.
fn assert_same_training(found: &Path, expected: &Path) {
    assert!(adapter(found) == adapter(expected), "the adapters differ");
    let moments = |folder: &Path| {
        let (mut files, _) = outcome(folder);
        files.retain(|name, _| name.ends_with("step-00000021/optimizer.safetensors"));
        assert_eq!(files.len(), 1);
        files
    };
    assert!(moments(found) == moments(expected), "the moments differ");
    let steps = |folder: &Path| -> Vec<_> {
        let lines = outcome(folder).1.into_iter();
        lines.map(|line| (line.step, line.loss, line.learning_rate, line.regimes)).collect()
    };
    assert_eq!(steps(found), steps(expected));
}

#[test]
fn a_longer_run_of_constant_learning_rate_continues_a_finished_or_stopped_one_to_the_bit() {
    let whole = folder();
    let straight = constant(3).run().run(whole.path(), go_on).expect("a run");
    assert_eq!(straight.losses.len(), 21);

    // Finished after one epoch.
    let place = folder();
    let short = constant(1).run().run(place.path(), go_on).expect("a run");
    assert_eq!(short.losses, straight.losses[..7]);
    let before = adapter(place.path());
    let longer = constant(3).run().run(place.path(), go_on).expect("a run");
    assert_eq!((longer.resumed_from, &longer.losses), (Some(7), &straight.losses));
    assert_same_training(place.path(), whole.path());
    assert_ne!(adapter(place.path()), before);
    assert_eq!(json_file(&place.path().join("result.json"))["step"], 21);
    assert_eq!(json_file(&place.path().join("config.json"))["grown"][0]["steps"], 7);
    // It is finished, and no shorter run continues it.
    constant(3).run().run(place.path(), |step| panic!("step {}", step.step)).expect("the same run");
    let mut steps = constant(3);
    steps.options.train.duration = Duration::Steps(21);
    steps.run().run(place.path(), |step| panic!("step {}", step.step)).expect("as many steps, counted otherwise");
    let error = constant(1).run().run(place.path(), go_on).expect_err("a shorter run");
    assert!(matches!(&error, Error::Run(RunError::OtherRun { what, .. }) if what == "steps"), "{error}");

    // Stopped in its first epoch, extended twice, and stopped between.
    let place = folder();
    constant(1).run().run(place.path(), until(5)).expect("a run");
    constant(2).run().run(place.path(), until(9)).expect("a run");
    let longer = constant(3).run().run(place.path(), go_on).expect("a run");
    assert_eq!((longer.resumed_from, &longer.losses), (Some(9), &straight.losses));
    assert_same_training(place.path(), whole.path());
}

#[test]
fn a_run_that_is_killed_while_it_is_extended_loses_nothing() {
    if let Some(place) = std::env::var_os(CHILD) {
        let told = constant(3).run().run(Path::new(&place), |step| {
            let mut out = std::io::stdout().lock();
            writeln!(out, "\n+{}", step.step).and_then(|()| out.flush()).expect("a parent that listens");
            ControlFlow::Continue(())
        });
        told.expect("a run");
        println!("\n+finished");
        return;
    }
    let (whole, place) = (folder(), folder());
    constant(3).run().run(whole.path(), go_on).expect("a run");
    constant(1).run().run(place.path(), go_on).expect("a run");
    let (mut random, mut at) = (Random(8), Vec::new());
    let name = "runs::extended::a_run_that_is_killed_while_it_is_extended_loses_nothing";
    while let Some(event) = run_and_kill(name, &[(CHILD, place.path())], 7, &mut random) {
        at.push(event);
        assert!(at.len() < 100, "the run never ends: {at:?}");
        assert!(adapter(place.path()).len() > 1000, "there is always a result");
    }
    println!("killed after steps {}", at.join(", "));
    assert!(at.len() >= 3, "{at:?} are too few kills to mean anything");
    assert_same_training(place.path(), whole.path());
}

#[test]
fn checkpoints_of_a_list_of_samples_are_extended_where_the_learning_rate_allows_it() {
    let case = Case::plain();
    let samples = case.train.samples();
    let train = |folder: Option<&Path>, decay, epochs| {
        let options = TrainOptions { decay, duration: Duration::Epochs(epochs), ..options().train };
        let checkpoints = folder.map(|folder| Checkpoints { folder: folder.to_owned(), every: 3 });
        let all = |_: &pv_train::trainer::StepReport| ControlFlow::Continue(());
        finetune(model().decoder(), samples, &options, &mut pv_hooks::NoHook, checkpoints.as_ref(), all)
    };
    let (_, straight) = train(None, Decay::Constant, 2).expect("a run");
    let place = folder();
    train(Some(place.path()), Decay::Constant, 1).expect("a run");
    let (_, longer) = train(Some(place.path()), Decay::Constant, 2).expect("a longer run");
    assert_eq!(longer, straight);
    let place = folder();
    train(Some(place.path()), Decay::Cosine, 1).expect("a run");
    let error = train(Some(place.path()), Decay::Cosine, 2).expect_err("another schedule");
    let expected = |error: &Error| {
        matches!(error, Error::ScheduleDependsOnSteps { decay: Decay::Cosine, saved: 7, requested: 14, .. })
    };
    assert!(expected(&error), "{error}");
}

#[test]
fn how_a_run_is_executed_may_change_when_it_resumes() {
    let mut case = Case::plain();
    let (whole, place) = (folder(), folder());
    let straight = case.run().run(whole.path(), go_on).expect("a run");
    case.run().run(place.path(), until(5)).expect("a run");
    // The same samples per step, in other passes, and everything else that determines no result.
    (case.options.train.batch_size, case.options.train.accumulate) = (4, 1);
    case.options.train.activation_checkpointing = true;
    (case.options.checkpoint_every, case.options.measure_every) = (2, 3);
    case.run().run(place.path(), until(9)).expect("a run");
    (case.options.train.batch_size, case.options.train.accumulate) = (1, 4);
    case.options.train.activation_checkpointing = false;
    let resumed = case.run().with_devices([burn::tensor::Device::flex()]).run(place.path(), go_on).expect("a run");
    assert_eq!(resumed.resumed_from, Some(9));
    assert_eq!(resumed.losses[..5], straight.losses[..5]);
    let gaps = resumed.losses.iter().zip(&straight.losses).map(|(a, b)| (a - b).abs() / b.abs());
    let gap = gaps.fold(0.0, f64::max);
    println!("the losses differ by {gap:.1e}");
    assert!(gap < 1e-2, "{gap}: the result is another one");

    // With dropout, other passes drop other inputs.
    let mut case = Case::named("dropout");
    let place = folder();
    case.run().run(place.path(), until(5)).expect("a run");
    (case.options.train.batch_size, case.options.train.accumulate) = (4, 1);
    let error = case.run().run(place.path(), go_on).expect_err("another result");
    assert!(matches!(&error, Error::Run(RunError::OtherRun { what, .. }) if what == "train.batch_size"), "{error}");
    (case.options.train.batch_size, case.options.train.accumulate) = (2, 2);
    case.options.train.activation_checkpointing = false;
    case.run().run(place.path(), until(7)).expect("the same inputs are dropped");

    // Packs determine the steps.
    let mut case = Case::named("packed");
    let place = folder();
    case.run().run(place.path(), until(2)).expect("a run");
    case.options.train.batch_size = 1;
    case.run().run(place.path(), until(3)).expect("the batch size is that of the held-out loss");
    case.options.train.pack_tokens = Some(110);
    let error = case.run().run(place.path(), go_on).expect_err("other steps");
    assert!(matches!(&error, Error::Run(RunError::OtherRun { what, .. }) if what == "train.pack_tokens"), "{error}");
}
