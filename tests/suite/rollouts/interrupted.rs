//! Runs that are killed, truncated or interrupted end with the same results.

use std::sync::OnceLock;

use pv_tests::{Random, run_and_kill, tell};

use super::*;

/// Names the folder in the process that is to be killed.
const CHILD: &str = "PV_ROLLOUTS_CHILD";
const SELF: &str = "rollouts::interrupted::a_killed_run_ends_with_the_same_results";

/// The results of an undisturbed run.
fn undisturbed() -> &'static Results {
    static RESULTS: OnceLock<Results> = OnceLock::new();
    RESULTS.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        extracted(&model("qwen3"), folder.path());
        results(folder.path())
    })
}

#[test]
fn a_killed_run_ends_with_the_same_results() {
    if let Some(folder) = std::env::var_os(CHILD) {
        let options = extract_options();
        extract(&model("qwen3"), &spec(), &dice(), Path::new(&folder), &options, tell).expect("an extraction");
        println!("\n+finished");
        return;
    }
    let mut random = Random(1);
    let mut kills = [0; 2];
    for _ in 0..3 {
        let folder = tempfile::tempdir().expect("a folder");
        while let Some(event) = run_and_kill(SELF, &[(CHILD, folder.path())], 5, &mut random) {
            kills[usize::from(event.starts_with("Judging"))] += 1;
            assert!(kills[0] + kills[1] < 1000, "the run never ends");
        }
        assert_eq!(&results(folder.path()), undisturbed());
    }
    println!("killed {} times while answering, {} times while judging", kills[0], kills[1]);
    assert!(kills[0] >= 20 && kills[1] >= 20, "{kills:?} kills are too few to mean anything");
}

/// A run with this many rollouts; the others are missing.
fn broken_off(model: &CausalLm, rollouts: usize) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut run = open(model, folder.path()).expect("a run");
    let outcome = run.generate(model, |progress| match progress {
        Progress::Answering { done, .. } if done == rollouts => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(outcome, Err(pv_vectors::Error::Cancelled)));
    assert_eq!(run.records().len(), rollouts);
    assert!(!run.is_complete());
    folder
}

fn length(folder: &Path, name: &str) -> u64 {
    fs::metadata(folder.join(name)).expect("a file").len()
}

fn cut(folder: &Path, name: &str, length: u64) {
    let file = fs::OpenOptions::new().write(true).open(folder.join(name)).expect("a file");
    file.set_len(length).expect("a file that can be cut");
}

#[test]
fn an_interrupted_run_resumes() {
    let model = model("qwen3");
    for rollouts in [1, 17, 59, 60] {
        let folder = broken_off(&model, rollouts);
        let mut first: Option<String> = None;
        extract(&model, &spec(), &dice(), folder.path(), &extract_options(), |progress| {
            first.get_or_insert_with(|| format!("{progress:?}"));
            ControlFlow::Continue(())
        })
        .expect("an extraction");
        let expected = format!("Answering {{ done: {}, total: 60 }}", rollouts + 1);
        assert!(rollouts == 60 || first.as_deref() == Some(expected.as_str()), "{first:?}");
        assert_eq!(&results(folder.path()), undisturbed(), "interrupted after {rollouts}");
    }
}

#[test]
fn an_interrupted_object_can_resume() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let mut run = open(&model, folder.path()).expect("a run");
    let mut events = 0;
    while let Err(error) = run.generate(&model, |_| {
        events += 1;
        if events % 13 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }) {
        assert!(matches!(error, pv_vectors::Error::Cancelled), "{error}");
    }
    assert_eq!(events, 60, "a rollout was generated twice");
    drop(run);
    extracted(&model, folder.path());
    assert_eq!(&results(folder.path()), undisturbed());
}

#[test]
fn damaged_files_are_repaired_by_repeating_work() {
    let model = model("qwen3");
    let start = broken_off(&model, 12);
    let item = length(start.path(), "activations.bin") / 12;
    let text = fs::read(start.path().join("rollouts.jsonl")).expect("a file");
    let mut random = Random(2);
    let ends = |name: &str, folder: &Path, to: u64| {
        cut(folder, name, to);
        extracted(&model, folder);
        assert_eq!(&results(folder), undisturbed(), "{name} cut to {to} bytes");
    };
    // An incomplete last line and an incomplete last item, at every kind of place; a line without its item, items without lines.
    for name in ["rollouts.jsonl", "activations.bin"] {
        let whole = length(start.path(), name);
        let last = if name == "rollouts.jsonl" {
            text.split(|b| *b == b'\n').rev().nth(1).unwrap().len() as u64
        } else {
            item
        };
        let near = [1, 2, last / 2, last - 1, last, last + 1].map(|back| whole - back);
        for to in near.into_iter().chain([0, 1, random.below(whole), random.below(whole)]) {
            ends(name, copy(start.path()).path(), to);
        }
    }
    // Changed bytes, in the middle and at the ends.
    for name in ["rollouts.jsonl", "activations.bin"] {
        for _ in 0..8 {
            let folder = copy(start.path());
            let path = folder.path().join(name);
            let mut bytes = fs::read(&path).expect("a file");
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
            fs::write(&path, bytes).expect("a file");
            extracted(&model, folder.path());
            assert_eq!(&results(folder.path()), undisturbed(), "{name} changed at {at}");
        }
    }
    // What a power failure may leave at the end of a file.
    let folder = copy(start.path());
    for name in ["rollouts.jsonl", "activations.bin"] {
        let mut bytes = fs::read(folder.path().join(name)).expect("a file");
        bytes.extend([0; 5000]);
        fs::write(folder.path().join(name), bytes).expect("a file");
    }
    fs::write(folder.path().join(".partial-left"), "half of something").expect("a file");
    extracted(&model, folder.path());
    assert_eq!(&results(folder.path()), undisturbed());
}

#[test]
fn incomplete_verdicts_are_requested_again() {
    let model = model("qwen3");
    let whole = tempfile::tempdir().expect("a folder");
    extracted(&model, whole.path());
    let size = length(whole.path(), "scores.jsonl");
    let mut random = Random(3);
    for back in [1, 2, 30, 500, random.below(size), size] {
        let folder = copy(whole.path());
        cut(folder.path(), "scores.jsonl", size - back);
        let judge = dice();
        extract(&model, &spec(), &judge, folder.path(), &extract_options(), go_on).expect("an extraction");
        assert!(judge.asked.get() > 0);
        assert_eq!(&results(folder.path()), undisturbed(), "cut by {back} bytes");
    }
}

#[test]
fn the_last_steps_may_be_interrupted_too() {
    let model = model("qwen3");
    // All rollouts exist, but nothing has been sorted.
    let unsorted = broken_off(&model, 60);
    let done = copy(unsorted.path());
    open(&model, done.path()).expect("a run").generate(&model, |p| panic!("{p:?}")).expect("a complete run");
    let lines = |folder: &Path| fs::read_to_string(folder.join("rollouts.jsonl")).expect("a file");
    assert_ne!(
        lines(unsorted.path()),
        lines(done.path()),
        "rollouts ended in the order of the plan: nothing is tested"
    );

    // The activations have been written; the lines are still unsorted.
    let first = copy(unsorted.path());
    fs::copy(done.path().join("means.safetensors"), first.path().join("means.safetensors")).expect("a file");
    // The lines are sorted; the journal has not been removed.
    let second = copy(done.path());
    fs::copy(unsorted.path().join("activations.bin"), second.path().join("activations.bin")).expect("a file");
    // All verdicts exist, in the order in which they were computed.
    let third = copy(done.path());
    let mut run = RolloutRun::load(third.path()).expect("a run");
    let outcome = run.score(&dice(), &[spec().rubric().unwrap(), Rubric::coherence()], |progress| match progress {
        Progress::Judging { done, total } if done == total => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(outcome, Err(pv_vectors::Error::Cancelled)));
    drop(run);
    assert_ne!(fs::read(third.path().join("scores.jsonl")).expect("a file"), undisturbed().scores);
    for folder in [&unsorted, &first, &second, &third] {
        extracted(&model, folder.path());
        assert_eq!(&results(folder.path()), undisturbed());
    }
}
