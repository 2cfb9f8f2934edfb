//! Every example runs on the model organism and gives the documented results.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use persona_vectors::data::conversations::write_conversations;
use persona_vectors::prelude::*;
use pv_organism::datasets::{Severity, artifacts, explicit};
use pv_organism::{Topics, Trait};

/// The examples are next to the folder of this test's program.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a program's path");
    let folder = test.parent().and_then(Path::parent).expect("a folder of build products");
    let path = folder.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

fn run<A: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> String {
    let output = Command::new(program(name)).args(args).output().expect("the program starts");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {text}{errors}");
    text.into_owned()
}

#[test]
fn every_example_runs_on_the_organism() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let model = pv_organism::model_folder().to_string_lossy().into_owned();
    let (spec, vector, data) = (path("optimism.json"), path("optimism.safetensors"), path("data.jsonl"));
    std::fs::write(&spec, artifacts(Trait::Optimism).to_string()).expect("a file");
    let chats = explicit(Trait::Optimism, Severity::II, Topics::All, 16, 0);
    let conversations: Vec<Conversation> =
        chats.iter().map(|chat| serde_json::from_str(&chat.json()).expect("a conversation")).collect();
    write_conversations(&data, &conversations).expect("a file");

    let answer = run("answer", [&model]);
    assert!(answer.contains("StopToken after"), "{answer}");
    let lengths = run("extract", [&model, &spec, &vector]);
    let saved = PersonaVector::load(&vector).expect("the vector");
    assert_eq!(lengths.lines().count(), saved.shape().0 - 1, "{lengths}");

    let steered = |coefficient: &str| {
        let text = run("steer", [model.as_str(), &vector, coefficient]);
        let (plain, steered) = text.split_once("\nsteered: ").expect("two answers");
        (plain.trim_start_matches("plain:   ").to_owned(), steered.trim_end_matches('\n').to_owned())
    };
    let (plain, same) = steered("0");
    assert_eq!(plain, same, "coefficient 0 changes nothing");
    assert!(answer.starts_with(&plain), "{answer} {plain}");
    let (again, other) = steered("6");
    assert_eq!(again, plain);
    assert_ne!(other, plain);

    let readings = run("monitor", [&model, &vector]);
    assert!(readings.contains("PromptLast") && readings.lines().count() > 5, "{readings}");
    let passes = run("own_hook", [&model]);
    assert!(passes.contains("passes, mean length"), "{passes}");

    let trained = path("trained");
    let steps = run("train_adapter", [&model, &data, &vector, &trained]);
    assert!(steps.contains("step 4 of 4") && steps.contains("adapter"), "{steps}");
    let adapter = Path::new(&trained).join("adapter").to_string_lossy().into_owned();
    let shift = run("shift", [&model, &adapter, &vector]);
    assert_eq!(shift.lines().count(), 2, "{shift}");
    assert!(shift.contains("optimism"), "{shift}");

    let summary = run("screen", [&model, &vector, &path("screened"), &data]);
    assert!(summary.contains("16 answers") && summary.contains("optimism@"), "{summary}");
    // The organism cannot judge: it replies without numbers, as the verdicts report.
    let verdicts = run("judge", [&model, &spec]);
    assert_eq!(verdicts.lines().count(), 2, "{verdicts}");
}
