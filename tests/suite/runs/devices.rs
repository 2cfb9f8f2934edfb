//! Steps that are shared by several devices, here the CPU several times.

use burn::tensor::Device;
use pv_steer::{Positions, Steerer};
use pv_train::{Regimes, RunHook, StepReport, Trainer};

use super::*;

/// Six steps of eight samples, on so many devices beside the first.
fn steps(case: &Case, others: usize, run: &mut (impl RunHook + ?Sized)) -> (Vec<StepReport>, Vec<u8>) {
    let options = TrainOptions { duration: Duration::Steps(6), ..case.options.train.clone() };
    let trainer = Trainer::new(model().decoder(), options).expect("a trainer");
    let mut trainer = trainer.with_devices(&vec![Device::flex(); others]).expect("devices");
    let samples = case.train.samples();
    let mut reports = Vec::new();
    for step in 0..6 {
        let report = trainer.step(&samples[step * 3..step * 3 + 8], run).expect("a step");
        reports.push(StepReport { seconds: 0.0, ..report });
    }
    let place = folder();
    trainer.save(place.path()).expect("a checkpoint");
    (reports, std::fs::read(place.path().join("step-00000006/optimizer.safetensors")).expect("a file"))
}

fn assert_near(found: &[StepReport], expected: &[StepReport], what: &str) {
    for (found, expected) in found.iter().zip(expected) {
        // The first step's gradient differs by rounding alone; what AdamW makes of it grows.
        let most = if expected.step == 1 { 1e-5 } else { 2e-3 };
        let numbers =
            [(found.loss, expected.loss), (found.grad_norm, expected.grad_norm), (found.penalty, expected.penalty)];
        for (found, expected_number) in numbers {
            let gap = (found - expected_number).abs() / expected_number.abs().max(1e-3);
            assert!(gap <= most, "{what}, step {}: {found}, not {expected_number}", expected.step);
        }
        assert_eq!((found.tokens, found.trained_tokens), (expected.tokens, expected.trained_tokens));
    }
}

#[test]
fn a_step_on_several_devices_is_that_of_one() {
    for name in ["plain", "closed_loop", "penalty", "all_parameters"] {
        let run = |others: usize, batch_size: usize| {
            let mut case = Case::named(name);
            case.options.train.batch_size = batch_size;
            let mut regimes = Regimes::new(model().decoder(), case.regimes.clone()).expect("regimes");
            steps(&case, others, &mut regimes)
        };
        let (expected, _) = run(0, 8);
        if name == "closed_loop" {
            let (plain, _) = steps(&Case::named(name), 0, &mut pv_hooks::NoHook);
            let gap = (plain[0].loss - expected[0].loss).abs();
            assert!(gap > 1e-4, "whether the regime acts cannot be told by {gap}");
        }
        for (others, batch_size) in [(1, 8), (1, 2), (2, 3)] {
            let (found, state) = run(others, batch_size);
            assert_near(&found, &expected, &format!("{name}, {} devices", others + 1));
            let (again, state_again) = run(others, batch_size);
            assert_eq!(found, again, "{name}: steps on several devices cannot be repeated");
            assert!(state == state_again, "{name}: gradients on several devices cannot be repeated");
        }
        assert!(name != "penalty" || expected.iter().any(|step| step.penalty > 0.0), "the penalty is nothing");
    }
}

#[test]
fn a_hook_without_a_replica_acts_on_every_device() {
    let case = Case::plain();
    let steerer = || Steerer::new().add(&direction(4), Coefficient::Raw(10.0), Positions::All).expect("a steerer");
    let (expected, _) = steps(&case, 0, &mut steerer());
    let (found, _) = steps(&case, 2, &mut steerer());
    assert_near(&found, &expected, "a hook");
    let (plain, _) = steps(&case, 0, &mut pv_hooks::NoHook);
    assert!((plain[0].loss - expected[0].loss).abs() > 1e-3, "the hook does nothing");
}

#[test]
fn a_run_on_two_devices_goes_on_to_the_byte() {
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
