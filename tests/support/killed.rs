//! A test's own process, killed at random points of its work.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pv_parity::Random;
use pv_vectors::contrast::Progress;

/// In the process to be killed: reports an event on standard output and continues. At its end, such a
/// process prints `+finished`.
///
/// # Panics
/// If the output is closed.
pub fn tell(progress: Progress) -> ControlFlow<()> {
    if let Progress::Judging { .. } = progress {
        // Without a pause, the tests' judges would be faster than the process is killed.
        std::thread::sleep(Duration::from_micros(300));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n+{progress:?}").and_then(|()| out.flush()).expect("a parent that listens");
    ControlFlow::Continue(())
}

/// Runs the test of this name in a process of its own, with these variables, and kills it after fewer than `events`
/// more events and a moment. Returns the last event that it reported, or nothing if it finished.
///
/// # Panics
/// If the process cannot be started or reports nothing.
pub fn run_and_kill(test: &str, variables: &[(&str, &Path)], events: u64, random: &mut Random) -> Option<String> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .envs(variables.iter().map(|(name, path)| (OsStr::new(name), path)))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process");
    // After some more events, and then a moment, so that any operation from a write to a forward pass may be interrupted.
    let mut left = random.below(events);
    let mut last = None;
    for line in BufReader::new(child.stdout.take().expect("its output")).lines() {
        let Some(event) = line.expect("text").strip_prefix('+').map(str::to_owned) else { continue };
        last = Some(event);
        if left == 0 {
            break;
        }
        left -= 1;
    }
    let last = last.expect("the process told nothing: it failed");
    std::thread::sleep(Duration::from_micros(random.below(500)));
    child.kill().expect("a process");
    child.wait().expect("a process");
    (last != "finished").then_some(last)
}
