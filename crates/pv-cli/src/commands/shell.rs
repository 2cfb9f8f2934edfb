//! Shell completions and man pages.

use std::path::PathBuf;

use clap_complete::Shell;
use serde_json::{Value, json};

use super::{command_line, unbuilt};
use crate::Result;
use crate::folder::make;
use crate::program::{say, say_piece};

/// The program's name in a shell.
const NAME: &str = "persona";

/// The arguments of `persona completions`.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

/// The arguments of `persona man`.
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// The folder. It is created if it does not exist.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Completions {
    pub(super) fn run(&self) -> Result<Value> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command_line(), NAME, &mut script);
        let script = String::from_utf8(script)?;
        say_piece(&script);
        Ok(json!({ "shell": self.shell.to_string(), "script": script }))
    }
}

impl Man {
    pub(super) fn run(&self) -> Result<Value> {
        make(&self.folder)?;
        let failed = |error| format!("cannot write man pages into {}: {error}", self.folder.display());
        clap_mangen::generate_to(without_help(unbuilt()), &self.folder).map_err(failed)?;
        let names = std::fs::read_dir(&self.folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut files: Vec<String> = names.filter(|name| name.starts_with(NAME) && name.ends_with(".1")).collect();
        files.sort();
        say!("wrote {} man pages into {}", files.len(), self.folder.display());
        Ok(json!({ "folder": self.folder, "files": files }))
    }
}

/// Removes the command `help`, which every group of commands has.
fn without_help(command: clap::Command) -> clap::Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}
