//! How every program begins and ends: its arguments, its warnings, its errors and exit codes.
#![allow(clippy::print_stderr, reason = "a program's errors and notes")]

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::{ExitCode, Termination};

use clap::{Args, FromArgMatches, Parser};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::{Result, advice, progress};

/// The exit code of a program whose output nobody reads any more: that of one ended by SIGPIPE.
const CLOSED_PIPE: i32 = 141;

/// Whose messages `-v` is about; the rest of the program's crates speak up with warnings only.
const CRATES: [&str; 7] = ["pv_hooks", "pv_model", "pv_judge", "pv_vectors", "pv_steer", "pv_train", "pv_screen"];

// What every program takes besides its own arguments. (A doc comment would take the place of the program's own.)
#[derive(Args, Clone, Copy, Debug)]
#[group(skip)]
struct Messages {
    /// Say more than warnings: -v what is done, -vv details. RUST_LOG (as in RUST_LOG=pv_judge=debug) overrides both.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Show errors and results only: no warnings, no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
}

/// Parses a program's arguments, shows the libraries' warnings on the standard error, and runs the program.
///
/// The exit code is 0 when all went well, 1 after an error, which is printed with its causes, and 2 when the arguments
/// cannot be used. Ctrl-C ends a program at once (130 in a shell): what long work has reached is in its folder by then.
pub fn run<A: Parser, T: Termination>(main: impl FnOnce(A) -> Result<T>) -> ExitCode {
    let mut command = Messages::augment_args(A::command());
    let matches = command.get_matches_mut();
    let parsed =
        Messages::from_arg_matches(&matches).and_then(|messages| Ok((messages, A::from_arg_matches(&matches)?)));
    let (messages, args) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => error.format(&mut command).exit(),
    };
    notice_a_closed_pipe();
    match messages.listen().and_then(|()| main(args)) {
        Ok(done) => done.report(),
        Err(error) => {
            progress::suspend(|| eprintln!("error: {}", explained(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

impl Messages {
    /// Sends what the libraries say to the standard error, between the progress bars.
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
        // Only another subscriber of this process could be in the way, and would do as well.
        let _ = tracing_subscriber::registry().with(messages).with(filter).try_init();
        Ok(())
    }
}

/// The standard error, written to while progress bars step aside.
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

/// Prints a note to the standard error, unless the program is to be quiet.
pub fn note(text: &str) {
    if !progress::is_quiet() {
        progress::suspend(|| eprintln!("{text}"));
    }
}

/// A question of the command line, which must say something.
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
    let bytes = pv_data::open_file(file).and_then(std::io::read_to_string);
    let text = bytes.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let lines: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() { Err(format!("{} has no lines", file.display()).into()) } else { Ok(lines) }
}

/// Whether results go to a terminal that can show colours.
pub fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stdout().is_terminal()
}

/// An error with its causes, each on a line of its own; a cause that its effect's text already holds is not repeated.
/// At the end, what may be done about it, where that depends on the program.
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

/// Ends the program without a word when its output is no longer read, as in `… | head`, where `println!` would panic.
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
