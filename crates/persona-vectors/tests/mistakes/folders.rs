//! Folders that cannot be written, are in use, or belong to another run.

use pv_data::RunFolder;

use crate::world::World;
use crate::{Mistake, make, run};

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

#[test]
fn unusable_folders() {
    let world = World::new();
    let vector = world.vector("vector.safetensors");
    world.file("a-file", "a file");
    let short = ["--questions", "1", "--max-new-tokens", "2"];
    let judge = run(&world, "judge check", &owned(&[&["--out", "judge"][..], &short].concat()), &[]);
    assert_eq!(judge.code, Some(0), "{}", judge.err);
    let sweep = ["--layers", "7", "--coefs", "0.4", "--questions", "1", "--max-new-tokens", "2", "--vector", &vector];
    let swept = run(&world, "sweep", &owned(&[&["--out", "swept"][..], &sweep].concat()), &[]);
    assert_eq!(swept.code, Some(0), "{}", swept.err);
    let _lock = RunFolder::lock(world.path().join("busy")).unwrap();
    let on = |name, program, folder: &str, args: &[&str], says: &[&str]| {
        Mistake::new(name, program, &[&["--out", folder][..], args].concat(), says)
    };
    make(
        "folders",
        &world,
        vec![
            on("a file instead of a folder", "sweep", "a-file", &sweep, &["a-file", "--out"]),
            on("a folder below a file", "screen", "a-file/below", &["--vector", &vector], &["a-file/below", "--out"]),
            on(
                "a folder below a file, for training",
                "train",
                "a-file/below",
                &["--steps", "1"],
                &["a-file/below", "--out"],
            ),
            on("a vector below a file", "extract --contrast", "a-file/below", &[], &["a-file/below", "--out"]),
            on(
                "a folder of a run with another seed",
                "judge check",
                "judge",
                &[&short[..], &["--seed", "1"]].concat(),
                &["seed is 0, but 1", "--out judge-2"],
            ),
            on(
                "a folder of a sweep with another seed",
                "sweep",
                "swept",
                &[&sweep[..], &["--seed", "1"]].concat(),
                &["plan.seed is 0, but 1", "--out swept-2"],
            ),
            on(
                "a folder of another command",
                "sweep --dose",
                "swept",
                &["--vector", &vector, "--layer", "7"],
                &["swept", "--out swept-2"],
            ),
            on("a folder in use", "judge check", "busy", &short, &["busy", "in use", "--out busy-2"]),
            on("a folder in use, of training", "train", "busy", &["--steps", "1"], &["busy", "in use"]),
        ],
    );
}

#[test]
fn the_default_folder_is_printed_and_resumed() {
    let world = World::new();
    let args = owned(&["--questions", "1", "--max-new-tokens", "2"]);
    let first = run(&world, "judge check", &args, &[]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert!(first.err.contains("runs/judge-check-organism-optimism"), "{}", first.err);
    let journal = world.path().join("runs/judge-check-organism-optimism/journal.jsonl");
    let written = std::fs::read(&journal).unwrap();
    let second = run(&world, "judge check", &args, &[]);
    assert_eq!((second.code, &second.out), (Some(0), &first.out));
    assert_eq!(std::fs::read(&journal).unwrap(), written, "nothing is computed again");
    let quiet = run(&world, "judge check", &[args, owned(&["-q"])].concat(), &[]);
    assert_eq!((quiet.err.as_str(), quiet.out), ("", first.out), "-q shows results only");
}
