//! A peer's measure of the same task, by its own program.

use std::path::Path;
use std::process::{Command, Stdio};

use pv_examples::Result;
use serde_json::Value;

/// What a peer measured.
pub(crate) struct Measure {
    pub(crate) line: Value,
    pub(crate) tokens_per_s: f64,
}

impl Measure {
    /// Objects when the peer read or wrote another number of tokens, or arrived at another result: then it did other work.
    /// Results may differ by a thousandth of the greater, or of `most` where that is less.
    pub(crate) fn same_work(&self, tokens: usize, check: Option<f64>, most: f64) -> Result {
        if self.line["tokens"].as_u64() != Some(tokens as u64) {
            return Err(format!("the peer had {} tokens, we {tokens}", self.line["tokens"]).into());
        }
        let Some(ours) = check else { return Ok(()) };
        match self.line["check"].as_f64() {
            Some(theirs) if (ours - theirs).abs() <= 1e-3 * ours.abs().max(theirs.abs()).min(most) => Ok(()),
            _ => Err(format!("the peer's result is {}, ours {ours}", self.line["check"]).into()),
        }
    }
}

/// Runs the peer's command for one task; the last JSON line of its output counts.
pub(crate) fn measure(command: &str, model: &Path, task: &str, runs: usize) -> Result<Measure> {
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
