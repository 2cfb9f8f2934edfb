//! The built program `persona`, as a shell or another program runs it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod cached;
mod json;
mod progress;
mod repeated;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder in which commands are run.
struct Place(TempDir);

/// The outcome of a command.
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Runs `persona` with the arguments of `line`, split at blanks, and further ones.
    fn run(&self, line: &str, more: &[&str]) -> Done {
        let mut command = Command::new(env!("CARGO_BIN_EXE_persona"));
        command.args(line.split_whitespace()).args(more).current_dir(self.0.path()).stdin(Stdio::null());
        for name in ["RUST_LOG", "OPENAI_BASE_URL", "OPENAI_API_KEY"] {
            command.env_remove(name);
        }
        // The organism is unpacked once for all tests.
        command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Done { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// The JSON document that a command prints. The command must succeed and print nothing else.
    fn json(&self, line: &str, more: &[&str]) -> Value {
        let done = self.run(&format!("--json --quiet {line}"), more);
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{line}");
        serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{line}: {error}: {}", done.out))
    }
}

#[test]
fn without_a_command_first_steps_are_shown() {
    let place = Place::new();
    let done = place.run("", &[]);
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    let steps = place.json("", &[]);
    for step in steps["try"].as_array().unwrap() {
        let command = step["command"].as_str().unwrap();
        assert!(done.out.contains(command), "{command}");
        // The command exists and has a help text.
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        let help = place.run("", &[&words[..], &["--help"]].concat());
        assert!(help.code == Some(0) && help.out.contains("Usage: persona"), "{command}: {}", help.err);
    }
}

#[test]
fn completions_and_man_pages_are_written() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.run("completions", &[shell]);
        assert!(script.code == Some(0) && script.out.contains("screen") && script.out.contains("persona"), "{shell}");
    }
    let done = place.run("man pages", &[]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(String::from_utf8(place.read("pages/persona-monitor-chat.1")).unwrap().contains("calibration"));
}
