//! Switches that do not exist, and values that cannot be.

use std::io::{BufRead, BufReader};

use crate::world::World;
use crate::{Mistake, command, finish, make};

#[test]
fn switches_and_values_that_cannot_be() {
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
            usage("a switch that does not exist", "sweep", &["--layr", "7"], &["--layr", "--layers"]),
            usage("a coefficient that is a word", "chat", &["--coef", "strong"], &["strong", "--coef"]),
            usage("a layer below zero", "steer_contrast", &["--layer=-1"], &["-1", "--layer"]),
            usage("a number without a value", "sweep", &["--questions"], &["--questions"]),
            usage("bits that nobody has", "finetune", &["--base-bits", "3"], &["8 nor 4"]),
            usage("quiet and verbose", "sweep", &["-q", "-v"], &["--quiet", "--verbose"]),
            usage("moving others without an amount", "guard_chat", &["--spare", "x"], &["--amount"]),
            with(
                "a coefficient that is no number",
                "steer_contrast",
                &["--coef", "nan", "--max-new-tokens", "2"],
                &["NaN", "finite"],
            ),
            with("no tokens", "steer_contrast", &["--max-new-tokens", "0"], &["max_new_tokens"]),
            with("no tokens to a sweep", "sweep", &["--max-new-tokens", "0"], &["max_new_tokens"]),
            with("a temperature below zero", "sweep", &["--temperature=-1"], &["temperature"]),
            with("no questions", "sweep", &["--questions", "0"], &["question"]),
            with("a quantile above one", "guard_chat", &["--cap", "1.5", "--max-new-tokens", "2"], &["1.5", "0 to 1"]),
            usage("an alarm above one", "monitor_chat", &["--alarm", "1.5"], &["1.5", "between 0 and 1"]),
            with(
                "a rate of alarms that few answers cannot tell",
                "monitor_chat",
                &["--alarm", "0.001", "--max-new-tokens", "2"],
                &["answers", "--alarm", "--ordinary"],
            ),
            with("ordinary questions that do not exist", "monitor_chat", &["--ordinary", "none.txt"], &["none.txt"]),
            with("a strength that is infinite", "sweep", &["--strengths", "inf"], &["inf"]),
            Mistake::new("a rank of nothing", "finetune", &["--rank", "0"], &["rank"]),
            Mistake::new(
                "a projection that does not exist",
                "finetune",
                &["--targets", "z_proj"],
                &["z_proj", "q_proj"],
            ),
            Mistake::new("a learning rate below zero", "finetune", &["--learning-rate=-1"], &["learning"]),
            Mistake::new(
                "more kept rollouts than there are",
                "persona_vectors",
                &["--trait", "evil", "--max-new-tokens", "4", "--min-kept", "5000"],
                &["5000"],
            ),
            Mistake::new("a log filter that is none", "sweep", &[], &["RUST_LOG", "pv_judge==loud"])
                .with("RUST_LOG", "pv_judge==loud"),
        ],
    );
}

#[test]
#[cfg(unix)]
fn an_output_that_nobody_reads_is_no_panic() {
    let world = World::new();
    let vector = world.vector("vector.safetensors");
    let args: Vec<String> =
        ["--vector", &vector, "--max-new-tokens", "4"].iter().map(|arg| (*arg).to_owned()).collect();
    let mut child = command(&world, "steer_contrast", &args, &[]).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("optimism"), "{first}");
    // As `finish` wants a pipe: one that is at its end.
    child.stdout = std::process::Command::new("true").stdout(std::process::Stdio::piped()).spawn().unwrap().stdout;
    let said = finish(child, "steer_contrast … | head -1".to_owned());
    assert!(!said.err.contains("panicked"), "{}", said.err);
    assert_eq!(said.code, Some(141), "{}", said.err);
}
