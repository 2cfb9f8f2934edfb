use std::path::Path;

use super::*;
use crate::commands::{command_line, parse};

fn invocation(line: &[&str]) -> Result<Invocation, String> {
    let line = std::iter::once("persona").chain(line.iter().copied()).map(OsString::from).collect();
    let parsed = parse(&mut command_line(), line).map_err(|error| error.to_string())?;
    Ok(parsed.2)
}

fn file(folder: &Path, text: &str) -> String {
    let path = folder.join("a run.toml");
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("a name").to_owned()
}

fn get<'a>(found: &'a Invocation, key: &str) -> Option<&'a Value> {
    found.settings.iter().find(|(name, _)| name == key).map(|(_, value)| value)
}

/// Commands with switches of every kind: numbers, lists, flags, texts that look like numbers, positional arguments.
const LINES: [&[&str]; 9] = [
    &["train"],
    &["train", "--learning-rate", "3e-4", "--targets", "q_proj,v_proj", "--full", "--data", "a b.jsonl", "c.jsonl"],
    &["train", "--held-out-data", "x.jsonl", "--prevent=v.safetensors@7:-2", "--inoculate", "007", "--keep", "best"],
    &["extract", "evil", "my trait.json", "--rollouts", "2", "--unpaired"],
    &["extract", "--contrast", "--template-var", "enable_thinking=false", "--now", "2025-07-29"],
    &[
        "eval",
        "organism",
        "models/x",
        "--layers",
        "3,7",
        "--adapter",
        "a=0.5",
        "--adapter",
        "b",
        "--system",
        "\"quoted\"\nline",
    ],
    &["screen", "a.jsonl", "b", "--vector", "v.safetensors", "--steer-coef=-1.5", "--judge", "local"],
    &["sweep", "--dose", "--layer", "7", "--coefs=-0.5,0,0.5", "--judge", "local", "--judge-model", "m"],
    &["monitor", "study", "--rollouts", "3", "--temperature", "0.25"],
];

#[test]
fn a_written_file_is_read_as_the_same_run() {
    let place = tempfile::tempdir().expect("a folder");
    for line in LINES {
        let first = invocation(line).expect("a command");
        let path = file(place.path(), &first.text(Path::new("runs/x")));
        let words = first.command.split(' ').chain([path.as_str()]).collect::<Vec<_>>();
        let again =
            invocation(&words).unwrap_or_else(|error| panic!("{line:?}: {error}\n{}", first.text(Path::new("x"))));
        assert_eq!(first.settings, again.settings, "{line:?}");
        assert!(!first.settings.is_empty());
    }
}

#[test]
fn switches_override_the_file() {
    let place = tempfile::tempdir().expect("a folder");
    let path = file(
        place.path(),
        "command = \"train\"\nlearning-rate = 1e-3\nsteps = 5\ntargets = [\"q_proj\", \"v_proj\"]\ndata = [\"a.jsonl\"]\n\
         full = false\nheld-out = 0.05\n",
    );
    let plain = invocation(&["train", &path]).expect("a run");
    assert_eq!(get(&plain, "learning-rate"), Some(&Value::Float(1e-3)));
    assert_eq!(get(&plain, "targets"), Some(&Value::Array(["q_proj", "v_proj"].map(Value::from).to_vec())));
    assert_eq!(get(&plain, "rank"), Some(&Value::Integer(32)), "settings that are not in the file have their defaults");
    // A list is replaced as a whole, a flag is set, and a setting equal to the default causes no conflict.
    let line = ["-v", "train", &path, "--targets", "o_proj", "--full", "--steps=7", "--held-out-data", "h.jsonl"];
    let found = invocation(&line).expect("a run");
    assert_eq!(get(&found, "targets"), Some(&Value::Array(vec![Value::from("o_proj")])));
    assert_eq!(get(&found, "full"), Some(&Value::Boolean(true)));
    assert_eq!(get(&found, "steps"), Some(&Value::Integer(7)));
    assert_eq!(get(&found, "data"), get(&plain, "data"));
    // Positional arguments are replaced too.
    let path = file(place.path(), "command = \"eval\"\nmodels = [\"a\", \"b\"]\n");
    let models = |line: &[&str]| get(&invocation(line).expect("a run"), "models").cloned();
    assert_eq!(models(&["eval", &path]), Some(Value::Array(["a", "b"].map(Value::from).to_vec())));
    assert_eq!(models(&["eval", &path, "c"]), Some(Value::Array(vec![Value::from("c")])));
}

/// Switches that were renamed: the command, the old name, the name and a value.
const RENAMED: [(&str, &str, &str, &str); 16] = [
    ("train", "leave-out-long", "skip-long", "true"),
    ("train", "leave-out-bad", "skip-bad-rows", "true"),
    ("train", "keep-unwritten", "allow-omissions", "true"),
    ("train", "refuse-altered", "reject-shortened", "true"),
    ("train", "stop-after", "patience", "3"),
    ("train", "grow", "extend", "true"),
    ("sweep", "strengths", "coefs", "[0.5, 0.25]"),
    ("sweep", "proxy-strength", "proxy-coef", "0.5"),
    ("sweep", "per-question", "rollouts", "2"),
    ("eval", "per-question", "rollouts", "2"),
    ("extract", "per-prompt", "rollouts", "2"),
    ("screen", "tokens", "max-new-tokens", "20"),
    ("screen", "steer", "steer-coef", "1.5"),
    ("screen", "allowed", "score-threshold", "40"),
    ("screen", "keep-unwritten", "allow-omissions", "true"),
    ("screen", "refuse-altered", "reject-shortened", "true"),
];

#[test]
fn renamed_switches_are_read_under_their_old_names() {
    let place = tempfile::tempdir().expect("a folder");
    for (command, old, new, value) in RENAMED {
        let path = file(place.path(), &format!("{old} = {value}\n"));
        let found = invocation(&[command, &path]).unwrap_or_else(|error| panic!("{command} {old}: {error}"));
        let expected: Table = format!("{new} = {value}").parse().expect("TOML");
        assert_eq!(get(&found, new).map(ToString::to_string), expected.get(new).map(ToString::to_string), "{old}");
        assert!(get(&found, old).is_none(), "it is saved under its new name only");
        // On the command line, too.
        let line = match value {
            "true" => format!("--{old}"),
            list if list.starts_with('[') => format!("--{old}={}", list.trim_matches(['[', ']']).replace(' ', "")),
            value => format!("--{old}={value}"),
        };
        let given = invocation(&[command, &line]).unwrap_or_else(|error| panic!("{command} {line}: {error}"));
        assert_eq!(get(&given, new), get(&found, new), "{line}");
        let both = file(place.path(), &format!("{old} = {value}\n{new} = {value}\n"));
        if value != "true" && !value.starts_with('[') {
            assert!(invocation(&[command, &both]).is_err(), "{command}: {old} and {new}");
        }
    }
    for line in [
        &["steer", "--coef=-1,0"][..],
        &["chat", "--amount", "1", "--spare", "v.safetensors"],
        &["monitor", "chat", "--alarm", "0.1"],
    ] {
        invocation(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    }
}

#[test]
fn invalid_files_are_refused() {
    let place = tempfile::tempdir().expect("a folder");
    for (command, text, says) in [
        (&["train"][..], "learning-rte = 1e-3", &["learning-rte", "learning-rate", "a run.toml"][..]),
        (&["train"], "yes-please = true", &["yes-please"]),
        (&["sweep"], "command = \"train\"", &["persona train", "persona sweep"]),
        (&["sweep"], "command = 1", &["command"]),
        (&["train"], "rank = [1, 2]", &["rank", "one value"]),
        (&["train"], "rank = true", &["rank", "takes a value"]),
        (&["train"], "full = \"yes\"", &["full", "true or false"]),
        (&["train"], "rank = \"many\"", &["many", "--rank"]),
        (&["train"], "rank = 1\nrank = 2", &["rank", "duplicate"]),
        (&["train"], "rank = ", &["a run.toml", "1"]),
        (&["train"], "[regimes]\nprevent = 1", &["regimes"]),
        // As on the command line.
        (&["train"], "full = true\nbase-bits = 8", &["--base-bits", "--full"]),
        (&["monitor", "study"], "judge-rpm = 5", &["judge-rpm"]),
    ] {
        let path = file(place.path(), text);
        let error = invocation(&[command, &[&path]].concat()).expect_err(text);
        says.iter().for_each(|says| assert!(error.contains(says), "{text}: {error}"));
    }
    let error = invocation(&["train", "none.toml"]).expect_err("no file");
    assert!(error.contains("none.toml") && error.contains("No such file"), "{error}");
    // For a command without run folders, a name is a name.
    assert!(invocation(&["model", "info", "x.toml"]).is_ok());
}

#[test]
#[cfg(feature = "http")]
fn neither_keys_nor_consent_are_saved() {
    let judge = ["judge", "check", "--judge", "http", "--judge-model", "m"];
    let more =
        ["--yes", "--judge-header", "X-Key=sk-secret", "--judge-header", "X-Other=a=$b", "--judge-header", "Y=$HOME"];
    let found = invocation(&[&judge[..], &more].concat()).expect("a run");
    let text = found.text(Path::new("runs/x"));
    assert!(!text.contains("secret") && !text.contains("a=$b") && !text.contains("yes"), "{text}");
    assert!(text.contains("Y=$HOME") && text.contains("is not saved"), "{text}");
}

#[test]
fn the_file_describes_the_run_with_results() {
    let place = tempfile::tempdir().expect("a folder");
    let out = OutArgs { out: Some(place.path().join("run")) };
    let read = || std::fs::read_to_string(place.path().join("run/config.toml")).expect("a file");
    let open = |line: &[&str]| {
        let found = invocation(line).expect("a run");
        found.open(&out, &[]).expect("a folder");
        found
    };
    open(&["train", "--steps", "1"]);
    assert!(read().contains("steps = 1\n") && read().contains("persona train"));
    // The run has no results, for example because a file was missing: another run may start.
    open(&["train", "--steps", "2"]);
    assert!(read().contains("steps = 2\n"));
    // A run with results keeps its file until another run is known to be the same.
    std::fs::write(place.path().join("run/metrics.jsonl"), "").expect("written");
    let longer = open(&["train", "--steps", "3"]);
    assert!(read().contains("steps = 2\n"));
    longer.finish().expect("written");
    assert!(read().contains("steps = 3\n"));
}
