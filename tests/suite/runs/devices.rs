//! Steps shared by several devices, here several times the CPU.

use burn::tensor::Device;
use pv_steer::{Positions, Steerer};
use pv_train::Trainer;
use pv_train::trainer::{Regimes, RunHook, StepReport};

use super::*;

/// The results of a step of eight samples on one or two devices, except for times.
fn step(case: &Case, others: usize, batch_size: usize, run: &mut (impl RunHook + ?Sized)) -> (StepReport, Vec<u8>) {
    let samples = case.train.samples();
    let options = TrainOptions { duration: Duration::Steps(3), batch_size: 8, ..case.options.train.clone() };
    let mut first = Trainer::new(model().decoder(), options.clone()).expect("a trainer");
    for at in [0, 8] {
        first.step(&samples[at..at + 8], run).expect("a step");
    }
    let options = TrainOptions { batch_size, ..options };
    let trainer = match options.adapter {
        Some(_) => Trainer::on_adapter(model().decoder(), &first.adapter().expect("an adapter"), options),
        None => Trainer::new(&first.decoder(), options),
    };
    let trainer = trainer.expect("a trainer").with_devices(&vec![Device::flex(); others]);
    let mut trainer = trainer.expect("devices");
    let mut report = trainer.step(&samples[16..24], run).expect("a step");
    report.seconds = 0.0;
    let place = folder();
    trainer.save(place.path()).expect("a checkpoint");
    let moments = std::fs::read(place.path().join("step-00000001/optimizer.safetensors")).expect("a file");
    (report, moments)
}

fn assert_near(found: &StepReport, expected: &StepReport, what: &str) {
    let numbers =
        [(found.loss, expected.loss), (found.grad_norm, expected.grad_norm), (found.penalty, expected.penalty)];
    for ((found, expected), most) in numbers.into_iter().zip([1e-5, 1e-4, 1e-4]) {
        let gap = (found - expected).abs() / expected.abs().max(1e-3);
        println!("{what}: {found}, {expected}: {gap:.1e}");
        assert!(gap <= most, "{what}: {found}, not {expected}");
    }
    assert_eq!((found.tokens, found.trained_tokens), (expected.tokens, expected.trained_tokens));
}

#[test]
fn a_step_on_several_devices_equals_one_device() {
    for name in ["plain", "closed_loop", "penalty", "packed", "all_parameters"] {
        let case = Case::named(name);
        let run = |others, batch_size| {
            let mut regimes = Regimes::new(model().decoder(), case.regimes.clone()).expect("regimes");
            step(&case, others, batch_size, &mut regimes)
        };
        let (expected, _) = run(0, 8);
        assert!(name != "penalty" || expected.penalty > 1e-2, "the penalty is nothing");
        if name == "closed_loop" {
            // The result if the regimes did not act on a device.
            let (plain, _) = step(&Case::plain(), 0, 8, &mut pv_hooks::NoHook);
            assert!((plain.loss / expected.loss - 1.0).abs() > 1e-3, "whether the regimes act cannot be told");
        }
        for (others, batch_size) in [(1, 8), (1, 2), (2, 3)] {
            let (found, moments) = run(others, batch_size);
            assert_near(&found, &expected, &format!("{name}, {} devices", others + 1));
            assert!((found, moments) == run(others, batch_size), "{name}: the step cannot be repeated to the bit");
        }
    }
}

#[test]
fn a_hook_without_a_replica_acts_on_every_device() {
    let case = Case::plain();
    let steerer = || Steerer::new().add(&direction(4), Coefficient::Raw(10.0), Positions::All).expect("a steerer");
    let (expected, _) = step(&case, 0, 8, &mut steerer());
    let (found, _) = step(&case, 2, 8, &mut steerer());
    assert_near(&found, &expected, "a hook");
    let (plain, _) = step(&case, 0, 8, &mut pv_hooks::NoHook);
    assert!((plain.loss - expected.loss).abs() > 1e-3, "the hook does nothing");
}

#[test]
fn a_run_on_two_devices_resumes_byte_for_byte() {
    let case = Case::named("closed_loop");
    let run = || case.run().with_devices([Device::flex()]);
    let (whole, place) = (folder(), folder());
    let straight = run().run(whole.path(), go_on).expect("a run");
    for stop in [5, 9] {
        let broken =
            run().run(
                place.path(),
                |step| {
                    if step.step == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                },
            );
        assert!(broken.expect("a run").saved.is_none());
    }
    assert_eq!(run().run(place.path(), go_on).expect("a run").losses, straight.losses);
    let adapter = |folder: &Path| std::fs::read(folder.join("adapter/adapter_model.safetensors")).expect("a file");
    assert!(adapter(place.path()) == adapter(whole.path()), "the adapters differ");
}
