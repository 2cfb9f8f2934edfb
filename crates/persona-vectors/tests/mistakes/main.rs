//! Mistakes of a first user, made with the built program. Each must end with an exit code other than 0 and a message
//! that says what is wrong and what to do, without Debug text, panic or secret.
//!
//! The messages are collected in `mistakes/*.txt` in the target folder's `tmp`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod data;
mod folders;
#[cfg(feature = "http")]
mod judges;
mod models;
#[cfg(feature = "http")]
mod stub;
mod switches;
mod traits;
mod vectors;
mod world;

use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::World;

/// The maximum time in which a command must report a mistake.
const PATIENCE: Duration = Duration::from_secs(300);
/// A key that no program may print.
const KEY: &str = "sk-secret-0123456789-abcdefghij";

/// A command that was run, and its output.
#[derive(Debug)]
struct Said {
    command: String,
    code: Option<i32>,
    out: String,
    err: String,
}

/// A mistake: a command of the program with arguments, and the texts that its output must contain.
struct Mistake {
    name: &'static str,
    /// The command's name.
    program: &'static str,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
    code: i32,
    says: Vec<String>,
}

impl Mistake {
    /// A mistake that ends with exit code 1.
    fn new(name: &'static str, program: &'static str, args: &[&str], says: &[&str]) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Self { name, program, args: owned(args), env: Vec::new(), code: 1, says: owned(says) }
    }

    /// A command-line mistake, which ends with exit code 2.
    fn usage(name: &'static str, program: &'static str, args: &[&str], says: &[&str]) -> Self {
        Self { code: 2, ..Self::new(name, program, args, says) }
    }

    fn with(mut self, variable: &'static str, value: impl Into<String>) -> Self {
        self.env.push((variable, value.into()));
        self
    }
}

/// `persona` in the world's folder, with its own environment, and arguments after the command's name.
fn command(world: &World, words: &str, args: &[String], env: &[(&'static str, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_persona"));
    command
        .args(words.split(' '))
        .args(args)
        .current_dir(world.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for name in ["RUST_LOG", "OPENAI_BASE_URL", "OPENAI_API_KEY", "HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", world.path().join("huggingface")).env("RUST_BACKTRACE", "1");
    command.env("XDG_CACHE_HOME", world.path().join("cache"));
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command
}

/// Runs a command to its end.
fn run(world: &World, program: &str, args: &[String], env: &[(&'static str, String)]) -> Said {
    let child = command(world, program, args, env).spawn().unwrap();
    finish(child, format!("persona {program} {}", args.join(" ")))
}

fn finish(mut child: Child, command: String) -> Said {
    let read = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            pipe.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let (out, err) = (read(Box::new(child.stdout.take().unwrap())), read(Box::new(child.stderr.take().unwrap())));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{command}: still running after {} s; {}", PATIENCE.as_secs(), err.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    Said { command, code: status.code(), out: out.join().unwrap(), err: err.join().unwrap() }
}

/// Makes the mistakes, saves the output, and then reports every fault in it.
fn make(group: &str, world: &World, mistakes: Vec<Mistake>) {
    let mut report = String::new();
    let mut wrong = Vec::new();
    for mistake in mistakes {
        let said = run(world, mistake.program, &mistake.args, &mistake.env);
        let place = world.path().display().to_string();
        let shown = |text: &str| text.replace(&place, "…").trim_end().to_owned();
        writeln!(
            report,
            "## {}\n$ {}\n{}\n[exit code {}]\n",
            mistake.name,
            shown(&said.command),
            shown(&said.err),
            code(&said)
        )
        .unwrap();
        wrong.extend(
            faults(&mistake, &said)
                .into_iter()
                .map(|fault| format!("{}: {fault}\n$ {}\n{}{}", mistake.name, said.command, said.out, said.err)),
        );
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mistakes");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{group}.txt")), &report).unwrap();
    println!("{report}");
    assert!(wrong.is_empty(), "{} faults:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

fn code(said: &Said) -> String {
    said.code.map_or_else(|| "none: ended by a signal".to_owned(), |code| code.to_string())
}

/// The faults in the output of a mistake.
fn faults(mistake: &Mistake, said: &Said) -> Vec<String> {
    let mut faults = Vec::new();
    if said.code != Some(mistake.code) {
        faults.push(format!("the exit code is {}, not {}", code(said), mistake.code));
    }
    for wanted in &mistake.says {
        if !said.err.contains(wanted) {
            faults.push(format!("it does not say {wanted:?}"));
        }
    }
    if !said.err.contains("error: ") {
        faults.push("it does not say that there is an error".to_owned());
    }
    for unwanted in
        ["panicked", "backtrace", "RUST_BACKTRACE", "Err(", "Error {", "Error(", "Some(", "None)", " { ", "Box<", KEY]
    {
        if said.err.contains(unwanted) || (unwanted == KEY && said.out.contains(unwanted)) {
            faults.push(format!("it says {unwanted:?}"));
        }
    }
    faults
}

#[test]
fn faults_in_the_output_are_found() {
    let mistake = Mistake::new("x", "sweep", &[], &["no such layer"]);
    let said =
        |code, err: &str| Said { command: String::new(), code: Some(code), out: String::new(), err: err.to_owned() };
    assert_eq!(faults(&mistake, &said(1, "error: no such layer")), Vec::<String>::new());
    assert_eq!(faults(&mistake, &said(0, "error: no such layer")).len(), 1);
    assert_eq!(faults(&mistake, &said(101, "error: no such layer\nthread 'main' panicked at")).len(), 2);
    assert_eq!(faults(&mistake, &said(1, "Error: LayerOutOfRange { layer: 9 }")).len(), 3);
    assert_eq!(faults(&mistake, &said(1, &format!("error: no such layer {KEY}"))).len(), 1);
}
