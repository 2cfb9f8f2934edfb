//! Memory use, measured in a process of its own.

use std::ffi::OsStr;
use std::io::Write;
use std::process::Command;

/// The peak memory of this process so far, in bytes.
///
/// # Panics
/// If the system does not report it.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).expect("kB").parse::<u64>().expect("a number") * 1024
}

/// In the process that [`measured_apart`] started: reports the measured value, in bytes.
///
/// # Panics
/// If the output is closed.
pub fn tell_bytes(bytes: u64) {
    writeln!(std::io::stdout().lock(), "\n+{bytes}").expect("a parent that listens");
}

/// Runs the test of this name in a process of its own, with these variables, and returns the bytes that it
/// [reports](tell_bytes).
///
/// # Panics
/// If the process fails or reports nothing.
#[allow(clippy::print_stdout, reason = "a test shows what it measured")]
pub fn measured_apart(test: &str, variables: &[(&str, &OsStr)]) -> u64 {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .envs(variables.iter().copied())
        .output()
        .expect("a process");
    let told = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{told} {}", String::from_utf8_lossy(&output.stderr));
    println!("{told}");
    let line = told.lines().find_map(|line| line.strip_prefix("+")).unwrap_or_else(|| panic!("{told}"));
    line.parse().expect("a number")
}
