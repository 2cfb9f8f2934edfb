//! The best checkpoint of a run: chosen by held-out loss and shift, kept after interruptions, and the run's result.

use pv_data::RunError;
use pv_model::Adapter;
use pv_model::decoder::Decoder;
use pv_train::Error;
use pv_train::run::{BestRule, BestStep, Keep, RunOutcome};
use pv_train::trainer::{Decay, mean_loss};
use serde_json::json;

use super::*;

/// A run that learns too fast: the held-out loss falls, and rises again.
fn fast() -> Case {
    let mut case = Case::plain();
    case.options.train.learning_rate = 5e-3;
    case.options.train.decay = Decay::Constant;
    case.options.train.duration = Duration::Epochs(4);
    case.options.measure_every = 2;
    case.options.keep = Some(Keep::Best(BestRule::default()));
    case
}

fn measured(folder: &Path) -> Vec<StepMetrics> {
    read_metrics(folder).expect("metrics").into_iter().filter(|m| m.held_out_loss.is_some() && m.step > 0).collect()
}

fn greatest(line: &StepMetrics) -> f64 {
    line.shifts.values().map(|shift| shift.abs()).fold(0.0, f64::max)
}

/// The first step with the lowest held-out loss among the admissible ones.
fn lowest(lines: &[StepMetrics], passes: impl Fn(&StepMetrics) -> bool) -> usize {
    let passing: Vec<&StepMetrics> = lines.iter().filter(|line| passes(line)).collect();
    let first = passing.first().expect("one that passes");
    passing.iter().fold(*first, |best, line| if line.held_out_loss < best.held_out_loss { line } else { best }).step
}

fn checkpoints(folder: &Path) -> Vec<usize> {
    let names = std::fs::read_dir(folder.join("checkpoints")).expect("checkpoints");
    let step =
        |name: std::ffi::OsString| name.to_string_lossy().strip_prefix("step-").expect("a step").parse::<usize>();
    let mut steps: Vec<usize> =
        names.map(|entry| step(entry.expect("an entry").file_name()).expect("a number")).collect();
    steps.sort_unstable();
    steps
}

/// The held-out loss of an adapter's files.
fn loss_of(case: &Case, adapter: &Path) -> f64 {
    let adapter = Adapter::load_for(adapter, model().config()).expect("an adapter");
    let tuned: Decoder = model().decoder().with_adapter(&adapter, 1.0).expect("it fits");
    let held_out = case.held_out.as_ref().expect("held-out samples").samples();
    mean_loss(&tuned, held_out, case.options.train.batch_size, &mut pv_hooks::NoHook).expect("a loss")
}

fn best(outcome: &RunOutcome) -> &BestStep {
    outcome.best.as_ref().expect("a best step")
}

/// Asserts that the result is that of the best step.
fn assert_result(case: &Case, folder: &Path, outcome: &RunOutcome) {
    let (best, lines) = (best(outcome), measured(folder));
    let line = lines.iter().find(|line| line.step == best.step).expect("its line");
    assert_eq!((best.held_out_loss, &best.shifts), (line.held_out_loss, &line.shifts));
    assert!(checkpoints(folder).contains(&best.step), "{:?} lack step {}", checkpoints(folder), best.step);
    let saved = outcome.saved.as_ref().expect("a result");
    let loss = loss_of(case, saved);
    assert!((loss - best.held_out_loss.expect("a loss")).abs() < 1e-9, "the result's loss is {loss}, not {best:?}");
    let told: Value =
        serde_json::from_slice(&std::fs::read(folder.join("result.json")).expect("a file")).expect("JSON");
    assert_eq!(told["step"], json!(best.step));
}

#[test]
fn the_lowest_held_out_loss_within_the_bound_is_kept() {
    let place = folder();
    let mut case = fast();
    let outcome = case.run().run(place.path(), go_on).expect("a run");
    let lines = measured(place.path());
    let (unbounded, last) = (lowest(&lines, |_| true), lines.last().expect("lines").step);
    println!("losses {:?}", lines.iter().map(|l| (l.step, l.held_out_loss, greatest(l))).collect::<Vec<_>>());
    assert!(unbounded < last, "the last is the best: this run shows nothing");
    assert_eq!((best(&outcome).step, best(&outcome).within_bounds, outcome.stopped_early), (unbounded, true, false));
    assert_result(&case, place.path(), &outcome);
    // The last one is kept too.
    assert_eq!(checkpoints(place.path()).last(), Some(&last));
    assert!(checkpoints(place.path()).len() <= 3);
    // A bound that the best step exceeds, and another does not.
    let bound = lines.iter().filter(|l| l.step != unbounded).map(greatest).fold(f64::INFINITY, f64::min) * 1.01;
    let step = lines.iter().find(|l| l.step == unbounded).expect("its line");
    assert!(bound < greatest(step), "no bound can be chosen");
    case.options.keep = Some(Keep::Best(BestRule { max_shift: Some(bound), ..BestRule::default() }));
    let bounded = folder();
    let outcome = case.run().run(bounded.path(), go_on).expect("a run");
    assert_eq!(best(&outcome).step, lowest(&lines, |line| greatest(line) <= bound));
    assert_result(&case, bounded.path(), &outcome);
    // No step is within the bound: the least shift is chosen.
    case.options.keep = Some(Keep::Best(BestRule { max_shift: Some(0.0), ..BestRule::default() }));
    let none = folder();
    let outcome = case.run().run(none.path(), go_on).expect("a run");
    let least = lines.iter().map(greatest).fold(f64::INFINITY, f64::min);
    assert!(!best(&outcome).within_bounds);
    assert_eq!(best(&outcome).shifts.values().map(|shift| shift.abs()).fold(0.0, f64::max), least);
}

#[test]
fn early_stopping_keeps_the_best_step() {
    let mut case = fast();
    (case.options.stop_after, case.options.keep) = (Some(2), None);
    let (whole, place) = (folder(), folder());
    let outcome = case.run().run(whole.path(), go_on).expect("a run");
    let lines = measured(whole.path());
    let last = lines.last().expect("lines").step;
    assert!(outcome.stopped_early && last < 28 && best(&outcome).step == last - 4, "{:?} {last}", outcome.best);
    assert_eq!(best(&outcome).step, lowest(&lines, |_| true));
    assert_result(&case, whole.path(), &outcome);
    assert_eq!(outcome.losses.len(), last);
    // Interrupted at every step, it chooses and stops at the same steps, and leaves the same files.
    let resumed = loop {
        let outcome = case.run().run(place.path(), |_| ControlFlow::Break(())).expect("a run");
        if outcome.saved.is_some() {
            break outcome;
        }
    };
    assert_eq!((&resumed.best, resumed.stopped_early), (&outcome.best, true));
    assert_result(&case, place.path(), &resumed);
    for name in ["result.json", "adapter/adapter_model.safetensors"] {
        let read = |folder: &TempDir| std::fs::read(folder.path().join(name)).expect("a file");
        assert!(read(&place) == read(&whole), "{name} differs");
    }
    // It is finished.
    let before = super::outcome(whole.path());
    let again = case.run().run(whole.path(), |step| panic!("step {} was trained", step.step)).expect("a run");
    assert_eq!((&again.best, again.stopped_early), (&outcome.best, true));
    assert!(super::outcome(whole.path()) == before, "a run that had stopped was changed");
}

#[test]
fn a_closed_loop_keeps_the_best_step_by_its_own_shift() {
    let mut case = Case::named("closed_loop");
    (case.held_out, case.probes) = (None, None);
    case.options.measure_every = 2;
    let place = folder();
    let outcome = case.run().run(place.path(), go_on).expect("a run");
    let shifts: Vec<(usize, f64)> = read_metrics(place.path())
        .expect("metrics")
        .iter()
        .filter_map(|m| Some((m.step, *m.shifts.get("regime_0")?)))
        .collect();
    assert_eq!(shifts.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 2, 4, 6, 8, 10, 12, 14]);
    assert_eq!(shifts[0].1, 0.0);
    let least = shifts[1..].iter().fold(shifts[1], |a, b| if b.1.abs() < a.1.abs() { *b } else { a });
    assert_eq!(best(&outcome).step, least.0, "{shifts:?}");
    // The loop's own measurement before the next step is the same.
    let told = read_metrics(place.path()).expect("metrics");
    let seen = told.iter().find(|m| m.step == 3).expect("a step").regimes["regime_0_shift"];
    assert!((seen - shifts[1].1).abs() < 1e-9, "{seen}, not {:?}", shifts[1]);
    let told: Value =
        serde_json::from_slice(&std::fs::read(place.path().join("config.json")).expect("a file")).expect("JSON");
    assert_eq!(told["run"]["keep"], json!({"best": {"max_shift": null, "max_loop_shift": 0.25}}));
    // A run of the same kind that requests its last checkpoint has it.
    case.options.keep = Some(Keep::Last);
    let outcome = case.run().run(folder().path(), go_on).expect("a run");
    assert!(outcome.best.is_none());
}

#[test]
fn an_extended_run_may_replace_its_best_step() {
    let mut case = Case::plain();
    case.options.measure_every = 2;
    case.options.keep = Some(Keep::Best(BestRule::default()));
    (case.options.train.duration, case.options.train.learning_rate) = (Duration::Epochs(1), 5e-4);
    let place = folder();
    let short = case.run().run(place.path(), go_on).expect("a run");
    assert_result(&case, place.path(), &short);
    let refused = |case: &Case| match case.run().run(place.path(), go_on) {
        Err(Error::Run(RunError::OtherRun { what, .. })) => what,
        Err(error @ Error::ScheduleDependsOnSteps { decay: Decay::Linear, saved: 7, requested: 21, .. }) => {
            assert!(error.to_string().contains("linear decay"), "{error}");
            "schedule".to_owned()
        }
        other => panic!("{other:?}"),
    };
    let before = super::outcome(place.path());
    case.options.train.duration = Duration::Epochs(3);
    assert_eq!(refused(&case), "schedule");
    for grow in [false, true] {
        case.options.grow = grow;
        case.options.train.learning_rate *= 2.0;
        assert_eq!(refused(&case), "train.learning_rate");
        case.options.train.learning_rate /= 2.0;
    }
    assert!(super::outcome(place.path()) == before, "a refusal changed the folder");

    let copy = folder();
    copy_all(place.path(), copy.path());
    let grown = case.run().run(place.path(), go_on).expect("a run");
    assert_eq!((grown.resumed_from, grown.losses.len()), (Some(7), 21));
    assert!(best(&grown).step > 7, "it learns on: {:?}", grown.best);
    assert_eq!(best(&grown).step, lowest(&measured(place.path()), |_| true));
    assert_result(&case, place.path(), &grown);
    // Interrupted, it is the same; a shorter run is refused.
    loop {
        let outcome = case.run().run(copy.path(), |step| match step.step % 4 {
            3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        let outcome = outcome.expect("a run");
        if outcome.saved.is_some() {
            assert_eq!(outcome.best, grown.best);
            break;
        }
    }
    let read = |folder: &TempDir, name: &str| std::fs::read(folder.path().join(name)).expect("a file");
    for name in ["result.json", "adapter/adapter_model.safetensors"] {
        assert!(read(&place, name) == read(&copy, name), "{name} differs");
    }
    case.options.train.duration = Duration::Epochs(1);
    assert_eq!(refused(&case), "steps");

    // If it learns nothing more, it keeps the best step of its shorter part, and the last one is kept too.
    let mut case = fast();
    case.options.train.duration = Duration::Epochs(1);
    let place = folder();
    let short = case.run().run(place.path(), go_on).expect("a run");
    (case.options.train.duration, case.options.grow) = (Duration::Epochs(3), true);
    let grown = case.run().run(place.path(), go_on).expect("a run");
    assert_eq!(best(&grown).step, lowest(&measured(place.path()), |_| true));
    if best(&grown).step <= 7 {
        assert_eq!(grown.best, short.best);
    }
    assert_result(&case, place.path(), &grown);
    assert_eq!(checkpoints(place.path()).last(), Some(&21));
}

#[test]
fn an_extended_run_that_kept_its_last_step_chooses_among_later_ones() {
    let mut case = Case::plain();
    (case.options.measure_every, case.options.train.duration) = (2, Duration::Epochs(1));
    let place = folder();
    let short = case.run().run(place.path(), go_on).expect("a run");
    assert!(short.best.is_none());
    (case.options.train.duration, case.options.grow) = (Duration::Epochs(2), true);
    let grown = case.run().run(place.path(), go_on).expect("a run");
    assert!(best(&grown).step >= 7);
    assert_eq!(best(&grown).step, lowest(&measured(place.path()), |line| line.step >= 7));
    assert_result(&case, place.path(), &grown);
}

#[test]
fn invalid_rules_are_refused() {
    let place = folder();
    let refused = |change: &dyn Fn(&mut Case)| {
        let mut case = Case::plain();
        change(&mut case);
        let path = place.path().join("run");
        let error = case.run().run(&path, go_on).expect_err("refused");
        assert!(!path.exists(), "{error} came too late");
        match error {
            Error::BadOption { name, .. } => name,
            other => panic!("{other:?}"),
        }
    };
    let best = |max_shift, max_loop_shift| Some(Keep::Best(BestRule { max_shift, max_loop_shift }));
    assert_eq!(refused(&|case| case.options.stop_after = Some(0)), "stop_after");
    assert_eq!(refused(&|case| (case.options.stop_after, case.options.keep) = (Some(1), Some(Keep::Last))), "keep");
    assert_eq!(refused(&|case| case.options.keep = best(Some(-1.0), 1.0)), "max_shift");
    assert_eq!(refused(&|case| case.options.keep = best(None, f64::NAN)), "max_loop_shift");
    let blind = "the measurement for the best checkpoint";
    assert_eq!(
        refused(&|case| {
            (case.held_out, case.probes) = (None, None);
            case.options.stop_after = Some(3);
        }),
        blind
    );
    assert_eq!(
        refused(&|case| {
            (case.held_out, case.probes) = (None, None);
            case.options.keep = best(None, 1.0);
        }),
        blind
    );
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).expect("a folder");
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// A folder of an older version resumes with its own rules: its warm-up, its last checkpoint.
#[test]
fn a_folder_of_an_older_version_resumes_with_its_own_rules() {
    let mut case = Case::named("closed_loop");
    case.options.train.warmup_steps = 6;
    case.options.train.warmup = pv_train::trainer::WarmUp::AboveZero;
    case.options.keep = Some(Keep::Last);
    let (whole, place) = (folder(), folder());
    case.run().run(whole.path(), go_on).expect("a run");
    let until = |last: usize| {
        move |step: &StepMetrics| if step.step == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    case.run().run(place.path(), until(3)).expect("a run");
    let edit = |path: PathBuf, change: &dyn Fn(&mut Value)| {
        let mut all: Value = serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
        change(&mut all);
        std::fs::write(path, all.to_string()).expect("a writable folder");
    };
    let without = |all: &mut Value, name: &str| drop(all.as_object_mut().expect("an object").remove(name).expect(name));
    edit(place.path().join("config.json"), &|all| {
        without(&mut all["run"], "keep");
        without(&mut all["run"], "stop_after");
        without(&mut all["run"]["train"], "warmup");
    });
    edit(place.path().join("checkpoints/step-00000003/state.json"), &|all| without(&mut all["options"], "warmup"));
    // Today's defaults.
    (case.options.train.warmup, case.options.keep) = (pv_train::trainer::WarmUp::FromZero, None);
    let outcome = case.run().run(place.path(), until(9)).expect("the old run");
    assert_eq!((outcome.resumed_from, outcome.best), (Some(3), None));
    case.run().run(place.path(), go_on).expect("the old run");
    let read =
        |folder: &TempDir| std::fs::read(folder.path().join("adapter/adapter_model.safetensors")).expect("a file");
    assert!(read(&place) == read(&whole), "it went on in another way");
    let rates: Vec<f64> =
        read_metrics(place.path()).expect("metrics").iter().filter_map(|line| line.learning_rate).collect();
    assert!((rates[0] - 5e-3 / 7.0).abs() < 1e-12 && (rates[4] - 5.0 * 5e-3 / 7.0).abs() < 1e-12, "{rates:?}");
    // A new run begins from zero, and is not resumed with the old rule.
    let place = folder();
    case.run().run(place.path(), until(3)).expect("a run");
    let first = read_metrics(place.path()).expect("metrics")[1].learning_rate;
    assert_eq!(first, Some(0.0));
    case.options.train.warmup = pv_train::trainer::WarmUp::AboveZero;
    let error = case.run().run(place.path(), go_on).expect_err("refused").to_string();
    assert!(error.contains("its train.warmup is \"from_zero\", but \"above_zero\" was requested"), "{error}");
}
