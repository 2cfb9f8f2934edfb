//! Folders that cannot be written, are in use, or belong to another run.

use pv_data::RunFolder;

use crate::world::World;
use crate::{Mistake, make, run};

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

#[test]
fn folders_that_cannot_be_had() {
    let world = World::new();
    let vector = world.vector("vector.safetensors");
    world.file("a-file", "in the way");
    let short = ["--questions", "1", "--max-new-tokens", "2"];
    let judge = run(&world, "check_judge", &owned(&[&["--out", "judge"][..], &short].concat()), &[]);
    assert_eq!(judge.code, Some(0), "{}", judge.err);
    let sweep =
        ["--layers", "7", "--strengths", "0.4", "--questions", "1", "--max-new-tokens", "2", "--vector", &vector];
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
            on("a file in the folder's place", "sweep", "a-file", &sweep, &["a-file", "--out"]),
            on("a folder below a file", "screen", "a-file/below", &["--vector", &vector], &["a-file/below", "--out"]),
            on(
                "a folder below a file, for training",
                "finetune",
                "a-file/below",
                &["--steps", "1"],
                &["a-file/below", "--out"],
            ),
            on("a vector below a file", "extract_contrast", "a-file/v.safetensors", &[], &["a-file"]),
            on(
                "a folder of another seed",
                "check_judge",
                "judge",
                &[&short[..], &["--seed", "1"]].concat(),
                &["seed is 0, but 1", "--out judge-2"],
            ),
            on(
                "a folder of other strengths",
                "sweep",
                "swept",
                &[&sweep[..2], &["--strengths", "0.5"], &sweep[4..]].concat(),
                &["strengths", "--out swept-2"],
            ),
            on(
                "a folder of another program",
                "dose_response",
                "swept",
                &["--vector", &vector, "--layer", "7"],
                &["swept", "--out swept-2"],
            ),
            on("a folder in use", "check_judge", "busy", &short, &["busy", "in use", "--out busy-2"]),
            on("a folder in use, of training", "finetune", "busy", &["--steps", "1"], &["busy", "in use"]),
        ],
    );
}

#[test]
fn the_default_folder_is_told_and_gone_on_with() {
    let world = World::new();
    let args = owned(&["--questions", "1", "--max-new-tokens", "2"]);
    let first = run(&world, "check_judge", &args, &[]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert!(first.err.contains("runs/check_judge-organism-optimism"), "{}", first.err);
    let journal = world.path().join("runs/check_judge-organism-optimism/journal.jsonl");
    let written = std::fs::read(&journal).unwrap();
    let second = run(&world, "check_judge", &args, &[]);
    assert_eq!((second.code, &second.out), (Some(0), &first.out));
    assert_eq!(std::fs::read(&journal).unwrap(), written, "nothing is done again");
    let quiet = run(&world, "check_judge", &[args, owned(&["-q"])].concat(), &[]);
    assert_eq!((quiet.err.as_str(), quiet.out), ("", first.out), "-q shows results only");
}
