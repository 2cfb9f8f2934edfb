//! A test's own process, killed at random points of its work.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pv_vectors::Progress;

/// Numbers that are the same in each run of the tests.
pub struct Random(pub u64);

impl Random {
    /// The next number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// In the process to be killed: says on the standard output that something was done, and goes on. At its end, such a
/// process tells `+finished`.
///
/// # Panics
/// When nobody listens.
pub fn tell(progress: Progress) -> ControlFlow<()> {
    if let Progress::Judging { .. } = progress {
        // The tests' judges are faster than a process is killed.
        std::thread::sleep(Duration::from_micros(300));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n+{progress:?}").and_then(|()| out.flush()).expect("a parent that listens");
    ControlFlow::Continue(())
}

/// Runs the test of this name alone in a process of its own, with these variables, and kills it after fewer than `events`
/// more events and a moment; the last event that it told, or nothing when it finished.
///
/// # Panics
/// When the process cannot be started or tells nothing.
pub fn run_and_kill(test: &str, variables: &[(&str, &Path)], events: u64, random: &mut Random) -> Option<String> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .envs(variables.iter().map(|(name, path)| (OsStr::new(name), path)))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process");
    // After some more events, and then a moment: that hits anything from a write to a pass of the model.
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
