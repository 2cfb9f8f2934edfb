//! The commands of `persona` and their arguments.

mod chat;
mod eval;
mod extract;
mod first_steps;
mod judge;
mod model;
mod monitor;
mod screen;
mod shell;
mod steer;
mod sweep;
mod train;
mod traits;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::Value;

use crate::Result;
use crate::invocation::{Invocation, has_runs, with_file};
use crate::program::{Messages, expect_json, say_json};

/// Find, measure and steer the character traits of a language model with persona vectors (arXiv 2507.21509).
///
/// Without a command, the program shows first commands to try. A command that takes minutes or costs money saves its
/// work in a run folder, and the same command resumes there after an interruption. The folder's config.toml repeats the
/// run: `persona train FOLDER/config.toml`.
#[derive(Debug, Parser)]
#[command(name = "persona", version)]
pub(crate) struct Persona {
    /// Print one JSON document with the results to standard output at the end, and nothing else.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, read from the command line")]
enum Command {
    /// Extract a trait's direction, steer with it at several coefficients, and compare the texts.
    Steer(steer::Args),
    /// Extract persona vectors with their uncertainty.
    ///
    /// The model answers questions under contrastive system prompts, a judge scores the answers, a filter selects them,
    /// and a vector is the difference of their mean activations. Each trait has a folder in the run folder. The same
    /// command resumes an interrupted run. Defaults are the paper's.
    Extract(extract::Args),
    /// Find the layer and coefficient at which a trait's vector steers best, or with --dose measure trait expression by
    /// coefficient at one layer.
    ///
    /// A sweep can be extended in its folder (--out) with other or more layers, coefficients, questions and answers, or
    /// judged again by another judge: existing answers and scores are used again.
    Sweep(sweep::Args),
    /// Chat with a model that is steered, or whose trait is capped at its ordinary range.
    ///
    /// The model is unsteered, steered along a vector (--coef), capped at the ordinary range of a trait (--cap), or
    /// moved along a trait while other traits stay unchanged (--amount, --preserve).
    ///
    /// In the conversation, /coef NUMBER changes the coefficient, /off and /on disable and enable the interventions,
    /// /reset clears the conversation, and /quit ends the program.
    Chat(chat::Args),
    /// Monitor a trait while a model answers.
    #[command(subcommand)]
    Monitor(monitor::Command),
    /// Check the quality of a judge's scores.
    #[command(subcommand)]
    Judge(judge::Command),
    /// Finetune a model, with mitigations against trait shifts.
    ///
    /// The same command resumes an interrupted run. Defaults are the paper's: rank 32, alpha 64 (rsLoRA), AdamW at 1e-5
    /// with 5 steps of warm-up and linear decay, one epoch in 2 × 8 samples per step.
    Train(train::Args),
    /// Measure models before and after finetuning: traits, shift along vectors, MMLU, perplexity.
    ///
    /// All changes are relative to the first model. With --adapter, the first model with these adapters is measured
    /// too, after the others. The same command resumes an interrupted run. Defaults are the paper's.
    Eval(eval::Args),
    /// Rank data sets by projection difference (ΔP), which predicts the trait shift from training on them, and show
    /// their most suspicious samples.
    Screen(screen::Args),
    /// List traits, show one, or have a model write one.
    #[command(subcommand)]
    Trait(traits::Command),
    /// Show a model's architecture or memory use, merge adapters into it, or save it in another type.
    #[command(subcommand)]
    Model(model::Command),
    /// Print a completion script for a shell.
    ///
    /// Save it where the shell reads completions:
    /// `persona completions bash > ~/.local/share/bash-completion/completions/persona`.
    Completions(shell::Completions),
    /// Write the program's man pages into a folder, one for each command.
    Man(shell::Man),
}

/// The program `persona`: parses its command line, runs the command, and reports the outcome.
pub fn main() -> ExitCode {
    let mut root = command_line();
    let parsed = parse(&mut root, std::env::args_os().collect());
    let (messages, persona, invocation) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => error.format(&mut root).exit(),
    };
    if persona.json {
        expect_json();
    }
    messages.finish(|| {
        let document = match persona.command {
            Some(command) => command.run(&invocation)?,
            None => first_steps::show(),
        };
        invocation.finish()?;
        say_json(&document)
    })
}

/// All commands and arguments of the program.
pub(crate) fn command_line() -> clap::Command {
    let mut root = unbuilt();
    root.build();
    root
}

/// Like [`command_line`], without the arguments and commands that clap adds.
fn unbuilt() -> clap::Command {
    <Messages as clap::Args>::augment_args(Persona::command()).mut_subcommands(with_note)
}

/// Adds to the help of a command that has run folders how to repeat a run.
fn with_note(command: clap::Command) -> clap::Command {
    let command = command.mut_subcommands(with_note);
    match has_runs(&command) {
        true => command.after_help(
            "To repeat a run, give the config.toml of its folder as the first argument. Switches override its settings.",
        ),
        false => command,
    }
}

/// Parses a command line, including the file in it that repeats a run.
pub(crate) fn parse(
    root: &mut clap::Command,
    line: Vec<OsString>,
) -> Result<(Messages, Persona, Invocation), clap::Error> {
    let line = with_file(root, line)?;
    let matches = root.try_get_matches_from_mut(line)?;
    let invocation = Invocation::of(root, &matches);
    Ok((Messages::from_arg_matches(&matches)?, Persona::from_arg_matches(&matches)?, invocation))
}

impl Command {
    /// Runs the command and returns its results.
    fn run(self, here: &Invocation) -> Result<Value> {
        match self {
            Self::Steer(args) => steer::run(&args),
            Self::Extract(args) => extract::run(&args, here),
            Self::Sweep(args) => sweep::run(&args, here),
            Self::Chat(args) => chat::run(&args),
            Self::Monitor(command) => command.run(here),
            Self::Judge(command) => command.run(here),
            Self::Train(args) => train::run(&args, here),
            Self::Eval(args) => eval::run(&args, here),
            Self::Screen(args) => screen::run(&args, here),
            Self::Trait(command) => command.run(),
            Self::Model(command) => command.run(),
            Self::Completions(args) => args.run(),
            Self::Man(args) => args.run(),
        }
    }
}

#[cfg(test)]
mod tests;
