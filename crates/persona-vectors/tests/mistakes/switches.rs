//! Unknown switches and invalid values.

use std::io::{BufRead, BufReader};

use crate::world::World;
use crate::{Mistake, command, finish, make};

#[test]
fn invalid_switches_and_values() {
    let world = World::new();
    let vector = world.vector("vector.safetensors");
    let with = |name, program, args: &[&str], says: &[&str]| {
        Mistake::new(name, program, &[&["--vector", &vector][..], args].concat(), says)
    };
    let usage = Mistake::usage;
    make(
        "switches and values",
        &world,
        vec![
            usage("a switch that does not exist", "sweep", &["--layr", "7"], &["--layr", "--layer"]),
            usage("a coefficient that is a word", "chat", &["--coef", "strong"], &["strong", "--coef"]),
            usage("a layer below zero", "steer", &["--layer=-1"], &["-1", "--layer"]),
            usage("a switch without its value", "sweep", &["--questions"], &["--questions"]),
            usage("an unsupported number of bits", "train", &["--base-bits", "3"], &["8 nor 4"]),
            usage("quiet and verbose", "sweep", &["-q", "-v"], &["--quiet", "--verbose"]),
            usage("preserved traits without an amount", "chat", &["--preserve", "x"], &["--amount"]),
            with(
                "a coefficient that is not a number",
                "steer",
                &["--coefs", "nan", "--max-new-tokens", "2"],
                &["NaN", "finite"],
            ),
            with("no tokens", "steer", &["--max-new-tokens", "0"], &["max_new_tokens"]),
            with("no tokens to a sweep", "sweep", &["--max-new-tokens", "0"], &["max_new_tokens"]),
            with("a temperature below zero", "sweep", &["--temperature=-1"], &["temperature"]),
            with("no questions", "sweep", &["--questions", "0"], &["question"]),
            with("a quantile above one", "chat", &["--cap", "1.5", "--max-new-tokens", "2"], &["1.5", "0 to 1"]),
            usage("an alarm rate above one", "monitor chat", &["--alarm-rate", "1.5"], &["1.5", "between 0 and 1"]),
            with(
                "an alarm rate too low for the number of answers",
                "monitor chat",
                &["--alarm-rate", "0.001", "--max-new-tokens", "2"],
                &["answers", "--alarm-rate", "--ordinary"],
            ),
            with("ordinary questions that do not exist", "monitor chat", &["--ordinary", "none.txt"], &["none.txt"]),
            with("an infinite coefficient", "sweep", &["--coefs", "inf"], &["inf"]),
            Mistake::new("rank 0", "train", &["--rank", "0"], &["rank"]),
            Mistake::new("a projection that does not exist", "train", &["--targets", "z_proj"], &["z_proj", "q_proj"]),
            Mistake::new("a learning rate below zero", "train", &["--learning-rate=-1"], &["learning"]),
            Mistake::new(
                "more kept rollouts than there are",
                "extract",
                &["evil", "--rollouts", "1", "--max-new-tokens", "4", "--min-kept", "5000"],
                &["5000"],
            ),
            Mistake::new("an invalid log filter", "sweep", &[], &["RUST_LOG", "pv_judge==loud"])
                .with("RUST_LOG", "pv_judge==loud"),
        ],
    );
}

#[test]
#[cfg(unix)]
fn a_closed_output_pipe_ends_the_program_without_a_panic() {
    let world = World::new();
    let vector = world.vector("vector.safetensors");
    let args: Vec<String> =
        ["--vector", &vector, "--max-new-tokens", "4"].iter().map(|arg| (*arg).to_owned()).collect();
    let mut child = command(&world, "steer", &args, &[]).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("optimism"), "{first}");
    // `finish` needs a pipe: this one is at its end.
    child.stdout = std::process::Command::new("true").stdout(std::process::Stdio::piped()).spawn().unwrap().stdout;
    let said = finish(child, "persona steer … | head -1".to_owned());
    assert!(!said.err.contains("panicked"), "{}", said.err);
    assert_eq!(said.code, Some(141), "{}", said.err);
}
