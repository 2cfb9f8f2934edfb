//! How every program starts and ends: its arguments, warnings, errors and exit codes.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a program's output, errors and notes")]

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::{ExitCode, Termination};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, FromArgMatches, Parser};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::{Result, advice, progress};

/// The exit code of a program whose output pipe is closed, which is that of a program ended by SIGPIPE.
const CLOSED_PIPE: i32 = 141;

/// The crates whose messages `-v` shows; all other crates log warnings only.
const CRATES: [&str; 9] =
    ["pv_data", "pv_hooks", "pv_model", "pv_judge", "pv_vectors", "pv_steer", "pv_train", "pv_screen", "pv_cli"];

/// Whether standard output contains one JSON document and nothing else.
static JSON: AtomicBool = AtomicBool::new(false);

// Arguments that every program accepts besides its own. (A doc comment would replace the program's own.)
#[derive(Args, Clone, Copy, Debug)]
#[group(skip)]
pub(crate) struct Messages {
    /// Show more than warnings: -v shows progress messages, -vv details. RUST_LOG (as in RUST_LOG=pv_judge=debug)
    /// overrides both.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Show only errors and results: no warnings, no progress.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// The interval of progress lines without a terminal, in seconds.
    #[arg(long, global = true, hide = true, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    progress_interval: f64,
}

/// Parses an interval.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=1e6).contains(&seconds) => Ok(seconds),
        _ => Err("the interval is a number of seconds from 0.001 to 1000000".to_owned()),
    }
}

/// Has mimalloc, the programs' allocator, keep freed memory for later use. Otherwise it returns it to the system while
/// training frees and needs gigabytes in every step, and the system clears each page again: a tenth of a step's time.
/// `MIMALLOC_PURGE_DELAY` overrides this.
fn keep_freed_memory() {
    // mimalloc's `mi_option_purge_delay`, for which the package has no name, and "never".
    const PURGE_DELAY: i32 = 15;
    const NEVER: std::ffi::c_long = -1;
    // SAFETY: the function only stores a number, before this program has started a thread. An option that does not exist
    // is ignored.
    #[allow(unsafe_code, reason = "a function of C")]
    unsafe {
        libmimalloc_sys::mi_option_set_default(PURGE_DELAY, NEVER);
    }
}

/// Parses a program's arguments, shows the libraries' warnings on standard error, and runs the program.
///
/// The exit code is 0 on success, 1 after an error, which is printed with its causes, and 2 for invalid arguments.
/// Ctrl-C ends a program at once (130 in a shell): the results of long work are already saved in its folder.
pub fn run<A: Parser, T: Termination>(main: impl FnOnce(A) -> Result<T>) -> ExitCode {
    let mut command = Messages::augment_args(A::command());
    let matches = command.get_matches_mut();
    let parsed =
        Messages::from_arg_matches(&matches).and_then(|messages| Ok((messages, A::from_arg_matches(&matches)?)));
    let (messages, args) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => error.format(&mut command).exit(),
    };
    messages.finish(|| main(args))
}

impl Messages {
    /// Runs a program's work and reports the outcome.
    pub(crate) fn finish<T: Termination>(self, work: impl FnOnce() -> Result<T>) -> ExitCode {
        keep_freed_memory();
        notice_a_closed_pipe();
        let done = self.listen().and_then(|()| {
            let _heartbeat = progress::heartbeat(Duration::from_secs_f64(self.progress_interval));
            work()
        });
        match done {
            Ok(done) => done.report(),
            Err(error) => {
                progress::suspend(|| eprintln!("error: {}", explained(error.as_ref())));
                ExitCode::FAILURE
            }
        }
    }

    /// Sends the libraries' log messages to standard error, between the progress bars.
    fn listen(self) -> Result {
        let level = match (self.quiet, self.verbose) {
            (true, _) => "error".to_owned(),
            (_, 0) => "warn".to_owned(),
            (_, more) => {
                let level = if more == 1 { "info" } else { "debug" };
                CRATES.iter().fold("warn".to_owned(), |filter, name| format!("{filter},{name}={level}"))
            }
        };
        let filter: Targets = match std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty()) {
            Some(text) => text.parse::<Targets>().map_err(|error| format!("RUST_LOG is {text:?}: {error}"))?,
            None => level.parse()?,
        };
        if self.quiet {
            progress::be_quiet();
        }
        let messages = fmt::layer().with_writer(BetweenBars).with_ansi(false).without_time().with_target(false);
        // This can fail only if the process has another subscriber, which would serve as well.
        let _ = tracing_subscriber::registry().with(messages).with(filter).try_init();
        Ok(())
    }
}

/// Standard error, with progress bars suspended during each write.
#[derive(Clone, Copy)]
struct BetweenBars;

impl Write for BetweenBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        progress::suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for BetweenBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

/// Prints a line of the results to standard output, or nothing if a JSON document is printed there.
macro_rules! say {
    ($($what:tt)*) => { $crate::program::say_line(format_args!($($what)*)) };
}
pub(crate) use say;

/// Implements [`say!`].
pub(crate) fn say_line(text: std::fmt::Arguments<'_>) {
    if !JSON.load(Ordering::Relaxed) {
        progress::suspend(|| println!("{text}"));
    }
}

/// Prints a part of a line immediately, under the same conditions as [`say!`].
pub(crate) fn say_piece(text: &str) {
    if !JSON.load(Ordering::Relaxed) {
        print!("{text}");
        // A closed terminal is noticed at the next line.
        let _ = io::stdout().flush();
    }
}

/// Reserves standard output for one JSON document from now on.
pub(crate) fn expect_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// Prints the JSON document if it was requested.
pub(crate) fn say_json(document: &serde_json::Value) -> Result {
    if JSON.load(Ordering::Relaxed) {
        let text = serde_json::to_string_pretty(document)?;
        progress::suspend(|| println!("{text}"));
    }
    Ok(())
}

/// Prints a note to standard error, unless the program is quiet.
pub fn note(text: &str) {
    if !progress::is_quiet() {
        progress::suspend(|| eprintln!("{text}"));
    }
}

/// Parses a question of the command line, which must not be blank.
///
/// # Errors
/// A blank text.
pub fn question(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("the question is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// The lines of a file that are not blank.
///
/// # Errors
/// A file that cannot be read or has no such line.
pub fn lines(file: &Path) -> Result<Vec<String>> {
    let bytes = pv_data::files::open_file(file).and_then(std::io::read_to_string);
    let text = bytes.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let lines: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() { Err(format!("{} has no lines", file.display()).into()) } else { Ok(lines) }
}

/// Whether results are printed to a terminal that shows colours.
pub fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stdout().is_terminal()
}

/// An error with its causes, one per line. A cause that is already contained in the text of its effect is not repeated.
/// Advice follows at the end if the program has any.
pub fn explained(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(found) = cause {
        cause = found.source();
        let more = found.to_string();
        if !text.contains(&more) {
            text.push_str("\n  because: ");
            text.push_str(&more);
        }
    }
    if let Some(advice) = advice::on(error) {
        text.push_str("\n  ");
        text.push_str(&advice);
    }
    text
}

/// Ends the program silently when its output pipe is closed, as in `… | head`, where `println!` would panic.
fn notice_a_closed_pipe() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        match text.strip_prefix("failed printing to stdout: ") {
            Some(reason) if reason.contains("Broken pipe") => std::process::exit(CLOSED_PIPE),
            Some(reason) => {
                eprintln!("error: cannot write to the standard output: {reason}");
                std::process::exit(1);
            }
            None => before(panic),
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Failure(&'static str, Option<Box<Failure>>);

    impl std::fmt::Display for Failure {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Failure {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    #[test]
    fn causes_are_printed_once_each() {
        let chain = Failure("a file", Some(Box::new(Failure("no disk", Some(Box::new(Failure("no power", None)))))));
        assert_eq!(explained(&chain), "a file\n  because: no disk\n  because: no power");
        let repeated =
            Failure("a file: no disk", Some(Box::new(Failure("no disk", Some(Box::new(Failure("no power", None)))))));
        assert_eq!(explained(&repeated), "a file: no disk\n  because: no power");
        assert_eq!(explained(&Failure("alone", None)), "alone");
    }

    #[test]
    fn a_real_error_names_file_and_reason() {
        let error = pv_vectors::PersonaVector::load("no/such.safetensors").expect_err("no file");
        let text = explained(&error);
        assert!(text.contains("no/such.safetensors") && text.contains("No such file"), "{text}");
        assert!(!text.contains('{') && !text.contains("Error"), "{text}");
    }
}
