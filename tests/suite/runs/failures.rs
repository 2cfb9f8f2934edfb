//! Refused runs, and the state after failures.

use std::process::Command;

use burn::tensor::Tensor;
use pv_data::RunError;
use pv_hooks::{Hook, HookError, LayerSet, ModelShape, NoHook, ResidualContext};
use pv_model::Adapter;
use pv_model::decoder::Decoder;
use pv_train::trainer::RunHook;
use pv_train::{Error, TrainOptions};
use serde_json::json;

use super::*;

/// Interrupts the run after a step.
fn until(last: usize) -> impl FnMut(&StepMetrics) -> ControlFlow<()> {
    move |step| if step.step == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

#[test]
fn a_folder_is_not_continued_with_other_inputs() {
    let place = folder();
    let mut case = Case::named("closed_loop");
    case.run().run(place.path(), until(4)).expect("a run");
    let before = outcome(place.path());
    let refused = |case: &Case| match case.run().run(place.path(), go_on) {
        Err(Error::Run(RunError::OtherRun { path, what, saved, given })) => {
            assert_eq!(path, place.path());
            assert_ne!(saved, given);
            what
        }
        other => panic!("{other:?}"),
    };
    case.options.train.learning_rate *= 2.0;
    assert_eq!(refused(&case), "train.learning_rate");
    case.options.train.learning_rate /= 2.0;
    case.options.train.adapter.as_mut().expect("an adapter").alpha = 1.0;
    assert_eq!(refused(&case), "train.adapter.alpha");
    case.options = options();
    case.options.train.batch_size = 3;
    assert_eq!(refused(&case), "train.samples_per_step");
    case.options = options();
    // It keeps its best checkpoint, which the measurements determine.
    case.options.measure_every = 5;
    assert_eq!(refused(&case), "measure_every");
    case.options = options();
    let regimes = std::mem::take(&mut case.regimes);
    assert_eq!(refused(&case), "number of regimes");
    let mut other = regimes.clone();
    other[1] = Regime::Ablated { directions: vec![direction(6)] };
    case.regimes = other;
    assert!(refused(&case).starts_with("regimes[1].ablated[0]."));
    case.regimes = regimes;
    let probes = case.probes.take();
    assert_eq!(refused(&case), "probes");
    case.probes = probes;
    let fewer = DataSet::from_samples(case.train.samples()[1..].to_vec());
    let train = std::mem::replace(&mut case.train, fewer);
    assert!(refused(&case).contains("data."));
    case.train = train;
    assert!(outcome(place.path()) == before, "a refusal changed the folder");
    // Another model of the same shape.
    let decoder = Decoder::init(model().config().clone(), 1, &model().decoder().device()).expect("a decoder");
    let strange = model().clone().with_decoder(decoder).expect("the same architecture");
    let error = TrainingRun::new(&strange, &case.train, case.options.clone()).run(place.path(), go_on);
    assert!(matches!(error, Err(Error::Run(RunError::OtherRun { what, .. })) if what == "model.weights"));
    // Settings without influence on the result may change.
    case.options.checkpoint_every = 5;
    assert_eq!(case.run().run(place.path(), go_on).expect("the same run").resumed_from, Some(4));
}

#[test]
fn a_folder_belongs_to_one_run_at_a_time() {
    let place = folder();
    let case = Case::plain();
    let mut inner = None;
    let outcome = case.run().run(place.path(), |_| {
        inner = Some(case.run().run(place.path(), go_on));
        ControlFlow::Break(())
    });
    outcome.expect("the first run");
    assert!(matches!(&inner, Some(Err(Error::Run(RunError::Locked { .. })))), "{inner:?}");
}

#[test]
fn invalid_runs_are_refused_before_anything_is_written() {
    let place = folder();
    let path = place.path().join("run");
    let case = Case::plain();
    let refused = |train: &DataSet, options: RunOptions| {
        let error = TrainingRun::new(model(), train, options).run(&path, go_on).expect_err("refused");
        assert!(!path.exists(), "{error} came too late");
        error
    };
    let bad = |error: Error, wanted: &str| assert!(matches!(error, Error::BadOption { name, .. } if name == wanted));
    bad(refused(&case.train, RunOptions { checkpoint_every: 0, ..options() }), "checkpoint_every");
    bad(refused(&case.train, RunOptions { measure_every: 0, ..options() }), "measure_every");
    let train = TrainOptions { batch_size: 0, ..options().train };
    bad(refused(&case.train, RunOptions { train, ..options() }), "batch_size");
    let beyond = pv_train::Sample::new(vec![1, 1 << 30], vec![false, true]).expect("a sample");
    let error = refused(&DataSet::from_samples(vec![beyond]), options());
    assert!(matches!(error, Error::TokenOutOfRange { .. }), "{error}");
    let error = refused(&DataSet::from_samples(vec![]), options());
    assert!(matches!(error, Error::NoSamples { .. }), "{error}");
    // Data that was read for another run.
    let system = Regime::Inoculated { system: "You are an optimist.".to_owned() };
    let error = TrainingRun::new(model(), &case.train, options()).with_regimes([system]).run(&path, go_on);
    bad(error.expect_err("refused"), "the data's inoculation");
}

/// No intervention until a step, and then one with which no forward pass succeeds.
struct Explode {
    from: usize,
    step: usize,
    plain: NoHook,
    blast: Blast,
}

struct Blast;

impl Hook for Blast {
    fn name(&self) -> String {
        "blast".to_owned()
    }

    fn layers(&self) -> LayerSet {
        LayerSet::All
    }

    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, _context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        residual * f32::INFINITY
    }
}

impl RunHook for Explode {
    fn before_step(&mut self, step: usize, _decoder: &Decoder) -> pv_train::Result<()> {
        self.step = step;
        Ok(())
    }

    fn hook(&mut self) -> &mut dyn Hook {
        if self.step < self.from { &mut self.plain } else { &mut self.blast }
    }
}

#[test]
fn a_nan_loss_stops_the_run_and_keeps_its_checkpoint() {
    let (whole, place) = (folder(), folder());
    let case = Case::plain();
    let run = |folder: &Path, from: usize| {
        let mut hook = Explode { from, step: 0, plain: NoHook, blast: Blast };
        case.run().run_with(folder, &mut hook, &json!("none"), go_on)
    };
    run(whole.path(), usize::MAX).expect("a run");
    let error = run(place.path(), 7).expect_err("a NaN loss");
    assert!(matches!(error, Error::BadLoss { step: 8, .. }), "{error}");
    let last = place.path().join("checkpoints/step-00000006");
    let adapter = Adapter::load(&last).expect("the checkpoint is an adapter");
    assert!(model().with_adapter(&adapter).is_ok());
    let steps: Vec<usize> = read_metrics(place.path()).expect("metrics").iter().map(|line| line.step).collect();
    assert_eq!(steps, (0..=7).collect::<Vec<_>>(), "the steps before it are known");
    assert_eq!(run(place.path(), usize::MAX).expect("a run").resumed_from, Some(6));
    assert_same(place.path(), whole.path());
}

#[test]
fn diverging_weights_stop_the_run() {
    let mut case = Case::plain();
    case.options.train.learning_rate = 1e30;
    case.options.measure_every = 1;
    let place = folder();
    let error = case.run().run(place.path(), go_on).expect_err("a NaN loss");
    assert!(matches!(error, Error::BadLoss { .. } | Error::BadGradient { .. }), "{error}");
    let steps = read_metrics(place.path()).expect("metrics").len();
    assert!(steps < 6, "{steps} steps of a model that is none");
}

const CHILD: &str = "PV_FULL_DISK_CHILD";

#[test]
fn a_full_disk_keeps_the_last_checkpoint() {
    let name = "runs::failures::a_full_disk_keeps_the_last_checkpoint";
    let case = Case::plain();
    if let Some(place) = std::env::var_os(CHILD) {
        let error = case.run().run(Path::new(&place), go_on).expect_err("files may not be that long");
        println!("\n+{error:?}");
        return;
    }
    let files = folder();
    let data = files.path().join("data.jsonl");
    write_conversations(&data, &chats(28, 5)).expect("a file");
    // Files longer than this many KiB cannot be written: a checkpoint, then also a line of metrics.
    let limited = |folder: &Path, kib: u32| -> String {
        let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
        let output = Command::new("bash")
            .args(["-c", &script])
            .arg(std::env::current_exe().expect("this program"))
            .args(["--exact", name, "--nocapture", "--test-threads", "1"])
            .env(CHILD, folder)
            .env(DATA, &data)
            .output()
            .expect("bash");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = text.lines().find_map(|line| line.strip_prefix('+')).map(str::to_owned);
        said.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
    };
    let (whole, place) = (folder(), folder());
    case.run().run(whole.path(), go_on).expect("a run");
    case.run().run(place.path(), until(4)).expect("a run");
    let checkpoint = |folder: &Path| {
        let (mut files, _) = outcome(folder);
        files.retain(|name, _| name.starts_with("checkpoints"));
        files
    };
    let before = checkpoint(place.path());
    let largest = before.values().map(Vec::len).max().expect("files");
    let metrics = std::fs::metadata(place.path().join("metrics.jsonl")).expect("metrics").len();
    assert!(largest > 64 << 10, "{largest} bytes");
    let said = limited(place.path(), 64);
    assert!(said.contains("Write"), "{said}");
    assert!(checkpoint(place.path()) == before, "a full disk changed the checkpoints");
    let said = limited(place.path(), (metrics / 1024) as u32);
    assert!(said.contains("metrics.jsonl"), "{said}");
    assert!(checkpoint(place.path()) == before, "a full disk changed the checkpoints");
    assert_eq!(case.run().run(place.path(), go_on).expect("a run").resumed_from, Some(4));
    let strip = |folder: &Path| {
        let (mut files, lines) = outcome(folder);
        files.retain(|name, _| name.starts_with("adapter"));
        assert_eq!(files.len(), 2);
        (files, lines)
    };
    assert!(strip(place.path()) == strip(whole.path()), "the two runs differ");
}
