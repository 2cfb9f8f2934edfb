//! A peer's measure of the same task, by its own program.

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a peer measured.
pub(crate) struct Measure {
    pub(crate) line: Value,
    pub(crate) tokens_per_s: f64,
}

/// Runs the peer's command for one task; the last JSON line of its output counts.
pub(crate) fn measure(command: &str, model: &Path, task: &str, runs: usize) -> Result<Measure, Box<dyn Error>> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or("--beside is empty")?;
    let output = Command::new(program)
        .args(words)
        .arg("--model")
        .arg(model)
        .args(["--task", task, "--runs", &runs.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = line.ok_or_else(|| format!("{program} measured nothing for {task} ({})", output.status))?;
    let tokens_per_s = line["tokens_per_s"].as_f64().ok_or("the peer's line has no tokens_per_s")?;
    Ok(Measure { line, tokens_per_s })
}
