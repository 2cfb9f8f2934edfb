//! Sweeps that are killed, truncated or interrupted end with the same results.

use pv_tests::{Random, run_and_kill, tell};

use super::*;

/// Name the folder and the vector in the process that is to be killed.
const CHILD: &str = "PV_SWEEP_CHILD";
const VECTOR: &str = "PV_SWEEP_VECTOR";
const SELF: &str = "sweeps::interrupted::a_killed_sweep_ends_with_the_same_results";

fn halving() -> SweepOptions {
    SweepOptions { search: Search::Halving { first: 2 }, strengths: vec![0.2, 0.3, 0.5], ..small() }
}

fn undisturbed() -> &'static [(String, Vec<u8>)] {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let place = folder();
        let results = small_sweep(&ExactJudge, &halving()).run(place.path(), go_on).expect("results");
        assert!(results.rounds.len() == 2 && results.cost() < 1.0, "{:?}", results.rounds);
        files(place.path())
    })
}

/// Whether a folder equals an undisturbed one, in a short form.
fn assert_undisturbed(folder: &Path, what: &str) {
    for ((name, bytes), (_, expected)) in files(folder).iter().zip(undisturbed()) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (bytes, expected) = (text(bytes), text(expected));
        let differs = bytes.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
        assert!(bytes == expected, "{what}: {name} differs, first in line {differs:?}");
    }
}

#[test]
fn an_interrupted_sweep_resumes() {
    let mut random = Random(4);
    for _ in 0..3 {
        let place = folder();
        let sweep = small_sweep(&ExactJudge, &halving());
        let (mut breaks, mut events, mut answers) = (0, 0, 0);
        loop {
            let mut left = random.below(25);
            let outcome = sweep.run(place.path(), |progress| {
                events += 1;
                answers += usize::from(matches!(progress, Progress::Answering { .. }));
                left = left.saturating_sub(1);
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            match outcome {
                Ok(results) => {
                    assert_eq!(answers, results.answers(), "an answer was generated twice");
                    assert_eq!(events, 3 * answers, "a verdict was asked for twice");
                    break;
                }
                Err(pv_steer::Error::Cancelled) => breaks += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(breaks >= 5, "{breaks}");
        assert_undisturbed(place.path(), "at the end");
    }
}

#[test]
fn damaged_journals_are_repaired_by_repeating_work() {
    let done = folder();
    for (name, bytes) in undisturbed() {
        std::fs::write(done.path().join(name), bytes).expect("a file");
    }
    let journal = done.path().join("journal.jsonl");
    let whole = std::fs::read(&journal).expect("a journal");
    let mut random = Random(5);
    let sweep = small_sweep(&ExactJudge, &halving());
    let ends = |bytes: &[u8], what: &str| {
        std::fs::write(&journal, bytes).expect("a file");
        sweep.run(done.path(), go_on).expect("results");
        assert_undisturbed(done.path(), what);
    };
    for back in [1, 2, 40, random.below(400) as usize, random.below(whole.len() as u64) as usize, whole.len()] {
        ends(&whole[..whole.len() - back], "cut");
    }
    // A line of zeros, as after a power failure; a line of another sweep; a line twice.
    ends(&[&whole[..], &[0; 500]].concat(), "zeros");
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    ends(&[&lines[..7].concat(), lines[2], &lines[7..].concat()].concat(), "a line twice");
    let other = String::from_utf8_lossy(lines[6]).replace("\"layer\":6", "\"layer\":77");
    assert_ne!(other.as_bytes(), lines[6]);
    ends(&[&lines[..6].concat(), other.as_bytes(), &lines[7..].concat()].concat(), "another sweep's line");
    let seed = String::from_utf8_lossy(lines[6]).replace("\"seed\":", "\"seed\":1");
    assert!(seed.as_bytes() != lines[6], "the line is an answer");
    ends(&[&lines[..6].concat(), seed.as_bytes()].concat(), "another seed");
    let shuffled: Vec<u8> = [&lines[9..].concat()[..], &lines[..9].concat()].concat();
    ends(&shuffled, "whole answers in another order");
}

#[test]
fn a_folder_has_one_process_at_a_time() {
    let place = folder();
    let sweep = small_sweep(&ExactJudge, &halving());
    let mut locked = 0;
    sweep
        .run(place.path(), |_| {
            let error = sweep.run(place.path(), go_on).expect_err("in use");
            locked += usize::from(error.to_string().contains("is in use"));
            ControlFlow::Continue(())
        })
        .expect("results");
    assert!(locked > 10, "{locked}");
    assert_undisturbed(place.path(), "at the end");
}

#[test]
fn a_killed_sweep_ends_with_the_same_results() {
    if let (Some(place), Some(vector)) = (std::env::var_os(CHILD), std::env::var_os(VECTOR)) {
        let vector = PersonaVector::load(vector).expect("a vector");
        let sweep = Sweep::new(model(), &vector, &small_spec(), &ExactJudge, &halving()).expect("a sweep");
        sweep.run(Path::new(&place), tell).expect("results");
        println!("\n+finished");
        return;
    }
    let shared = folder();
    let path = shared.path().join("vector.safetensors");
    vector(Trait::Optimism).save(&path).expect("a file");
    let mut random = Random(6);
    let mut kills = [0; 2];
    let place = folder();
    while let Some(event) = run_and_kill(SELF, &[(CHILD, place.path()), (VECTOR, &path)], 6, &mut random) {
        kills[usize::from(event.starts_with("Judging"))] += 1;
        assert!(kills[0] + kills[1] < 200, "the sweep never ends");
    }
    assert_undisturbed(place.path(), "at the end");
    println!("killed {} times while answering, {} times while judging", kills[0], kills[1]);
    assert!(kills[0] >= 3 && kills[1] >= 3, "{kills:?} kills are too few to mean anything");
}
