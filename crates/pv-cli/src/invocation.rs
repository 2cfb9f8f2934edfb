//! A command and its settings: read from the command line and from the file that repeats a run, and written to that
//! file.
//!
//! The keys of such a file are the command's switches without their dashes, so both share one table. A file is
//! converted to switches, which are parsed as if they were given on the command line; errors are therefore the same,
//! with the same messages.

use std::any::TypeId;
use std::cell::RefCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::ValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use pv_data::files::write_whole;
use toml::{Table, Value};

use crate::{OutArgs, Result};

/// The file that repeats a run, in the run folder.
const FILE: &str = "config.toml";
/// Keys of the file that are not switches but describe the settings.
const COMMAND: &str = "command";
const VERSION: &str = "version";
/// The run folder, which is known only when it is created.
const OUT: &str = "out";
/// Consent to a cost is valid for one run only.
const NEVER_KEPT: [&str; 2] = ["yes", OUT];
/// The value may contain a server's key.
const SECRET: &str = "judge-header";

/// A command and its settings.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// The command's name, as in "monitor study".
    command: String,
    /// The values of its arguments, including defaults.
    settings: Vec<(String, Value)>,
    /// Whether a value was omitted because it may be secret.
    withheld: bool,
    /// The run folder.
    folder: RefCell<Option<PathBuf>>,
}

impl Invocation {
    /// The invocation that a command line describes.
    pub(crate) fn of(command: &Command, matches: &ArgMatches) -> Self {
        let (mut command, mut matches, mut words) = (command, matches, Vec::new());
        while let Some((name, below)) = matches.subcommand() {
            let Some(found) = command.find_subcommand(name) else { break };
            words.push(name);
            (command, matches) = (found, below);
        }
        let mut found =
            Self { command: words.join(" "), settings: Vec::new(), withheld: false, folder: RefCell::new(None) };
        for arg in own_arguments(command) {
            let name = key(arg);
            if NEVER_KEPT.contains(&name.as_str()) {
                continue;
            }
            if is_flag(arg) {
                if matches.get_flag(arg.get_id().as_str()) {
                    found.settings.push((name, Value::Boolean(true)));
                }
                continue;
            }
            let raw = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
            let mut values: Vec<Value> = raw.map(|raw| value(arg, &raw.to_string_lossy())).collect();
            if name == SECRET {
                let before = values.len();
                let by_variable = |text: &str| text.split_once('=').is_some_and(|(_, value)| value.starts_with('$'));
                values.retain(|value| value.as_str().is_some_and(by_variable));
                found.withheld |= values.len() < before;
            }
            match (values.len(), takes_several(arg)) {
                (0, _) => {}
                (1, false) => found.settings.extend(values.pop().map(|value| (name, value))),
                _ => found.settings.push((name, Value::Array(values))),
            }
        }
        found
    }

    /// Creates the folder of this run on something (a model, a trait), prints its name, and writes the file that
    /// repeats the run.
    ///
    /// # Errors
    /// A folder that cannot be created or written.
    pub(crate) fn open(&self, out: &OutArgs, of: &[&str]) -> Result<PathBuf> {
        let folder = out.open(&self.command.replace(' ', "-"), of)?;
        *self.folder.borrow_mut() = Some(folder.clone());
        // The file of an existing run is kept until this run is known to be the same: a run with other settings is
        // refused.
        let begun = std::fs::read_dir(&folder)?.any(|entry| entry.is_ok_and(|entry| entry.file_name() != FILE));
        if !begun {
            self.write(&folder)?;
        }
        Ok(folder)
    }

    /// At the end of a run, writes the file again, because values may have changed since the beginning.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn finish(&self) -> Result {
        self.folder.borrow().as_deref().map_or(Ok(()), |folder| self.write(folder))
    }

    fn write(&self, folder: &Path) -> Result {
        let path = folder.join(FILE);
        let text = self.text(folder);
        if std::fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
            return Ok(());
        }
        Ok(write_whole(&path, text)?)
    }

    fn text(&self, folder: &Path) -> String {
        let Self { command, .. } = self;
        let place = folder.join(FILE).display().to_string();
        let mut text = format!("# Repeats this run: persona {command} {place}\n");
        text.push_str(
            "# Switches on the command line override these settings. Paths are relative to the current folder.\n",
        );
        if self.withheld {
            text.push_str(&format!(
                "# --{SECRET} was given and is not saved, because it may contain a key; the form NAME=$VARIABLE is saved.\n"
            ));
        }
        let out = Value::String(folder.display().to_string());
        let own = [(COMMAND, command.clone()), (VERSION, env!("CARGO_PKG_VERSION").to_owned())];
        let own = own.map(|(key, text)| (key.to_owned(), Value::String(text)));
        for (key, value) in own.iter().chain([&(OUT.to_owned(), out)]).chain(&self.settings) {
            text.push_str(&format!("{key} = {value}\n"));
        }
        text
    }
}

/// If the first argument of a command names a file that repeats a run, inserts the file's switches into the command
/// line.
///
/// # Errors
/// A file that cannot be read, belongs to another command, or has a key that the command does not know.
pub(crate) fn with_file(root: &Command, line: Vec<OsString>) -> Result<Vec<OsString>, clap::Error> {
    let Some((at, command, words)) = file_place(root, &line) else { return Ok(line) };
    let (before, rest) = (&line[..at], &line[at + 1..]);
    let file = Path::new(&line[at]);
    let wrong = |text: String| clap::Error::raw(ErrorKind::InvalidValue, format!("{}: {text}\n", file.display()));
    let text = pv_data::files::open_file(file).and_then(std::io::read_to_string);
    let text = text.map_err(|error| wrong(format!("cannot read it: {error}")))?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string().trim_end().to_owned()))?;
    match table.get(COMMAND).map(Value::as_str) {
        None => {}
        Some(Some(of)) if of == words => {}
        Some(Some(of)) => return Err(wrong(format!("it is a file of `persona {of}`, not of `persona {words}`"))),
        Some(None) => return Err(wrong(format!("the key `{COMMAND}` is not a text"))),
    }
    // The arguments of the command line, whatever is wrong with them: errors are reported when the whole line is
    // parsed.
    let alone = command.clone().no_binary_name(true).ignore_errors(true);
    let given = alone.try_get_matches_from(rest.iter()).ok();
    let on_line = |arg: &Arg| {
        let id = arg.get_id().as_str();
        given.as_ref().is_some_and(|found| {
            found.try_contains_id(id).unwrap_or(false) && found.value_source(id) == Some(ValueSource::CommandLine)
        })
    };
    let (mut switches, mut places) = (Vec::new(), Vec::new());
    for (name, value) in table.iter().filter(|(name, _)| ![COMMAND, VERSION].contains(&name.as_str())) {
        let Some(arg) = own_arguments(command).find(|arg| is_called(arg, name)) else {
            let known: Vec<String> = own_arguments(command).map(key).collect();
            let known = known.join(", ");
            return Err(wrong(format!("`persona {words}` has no setting `{name}`; it has {known}")));
        };
        let texts = texts(arg, value).map_err(|what| wrong(format!("the setting `{name}` {what}")))?;
        let usual = arg.get_default_values().iter().map(|value| value.to_string_lossy());
        if on_line(arg) || (!is_flag(arg) && usual.eq(texts.iter().map(String::as_str))) {
            continue;
        }
        match (arg.get_long(), is_flag(arg)) {
            (Some(long), true) => switches.extend(texts.iter().map(|_| format!("--{long}"))),
            (Some(long), false) => switches.extend(texts.iter().map(|text| format!("--{long}={text}"))),
            (None, _) => places.extend(texts),
        }
    }
    let places = if places.is_empty() { Vec::new() } else { [vec!["--".to_owned()], places].concat() };
    let owned = |texts: Vec<String>| texts.into_iter().map(OsString::from);
    Ok(before.iter().cloned().chain(owned(switches)).chain(rest.iter().cloned()).chain(owned(places)).collect())
}

/// The file's place on the command line, its command, and that command's name.
fn file_place<'a>(root: &'a Command, line: &[OsString]) -> Option<(usize, &'a Command, String)> {
    let (mut command, mut words) = (root, Vec::new());
    for (at, word) in line.iter().enumerate().skip(1) {
        let word = word.to_str()?;
        if ["-v", "-vv", "-q", "--verbose", "--quiet", "--json"].contains(&word) {
            continue;
        }
        if let Some(below) = command.find_subcommand(word) {
            command = below;
            words.push(below.get_name());
            continue;
        }
        let named = Path::new(word).extension().is_some_and(|end| end.eq_ignore_ascii_case("toml"));
        return (has_runs(command) && named).then(|| (at, command, words.join(" ")));
    }
    None
}

/// Whether a command saves its runs in folders, each with a file that repeats the run.
pub(crate) fn has_runs(command: &Command) -> bool {
    own_arguments(command).any(|arg| key(arg) == OUT)
}

/// The command's own arguments, which are settings of a run.
fn own_arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    let not_ours = ["help", "version", "verbose", "quiet", "progress_interval", "json"];
    command.get_arguments().filter(move |arg| !not_ours.contains(&arg.get_id().as_str()))
}

fn key(arg: &Arg) -> String {
    arg.get_long().map_or_else(|| arg.get_id().as_str().replace('_', "-"), str::to_owned)
}

/// Whether this is the key of an argument, now or in an earlier version: renamed switches have aliases.
fn is_called(arg: &Arg, name: &str) -> bool {
    key(arg) == name || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
}

fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn takes_several(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Converts an argument's text to a value of the file.
fn value(arg: &Arg, text: &str) -> Value {
    let number = if is_number(arg.get_value_parser()) { text.parse::<f64>().ok() } else { None };
    match (text.parse::<i64>(), number) {
        (Ok(whole), Some(_)) => Value::Integer(whole),
        (Err(_), Some(number)) if number.is_finite() => Value::Float(number),
        _ => Value::String(text.to_owned()),
    }
}

fn is_number(parser: &ValueParser) -> bool {
    let of = parser.type_id();
    let numbers = [
        TypeId::of::<f32>(),
        TypeId::of::<f64>(),
        TypeId::of::<usize>(),
        TypeId::of::<u64>(),
        TypeId::of::<u32>(),
        TypeId::of::<i64>(),
    ];
    numbers.iter().any(|number| of == *number)
}

/// Converts a value of the file to texts of the command line; a flag that is set gives one text.
fn texts(arg: &Arg, value: &Value) -> Result<Vec<String>, &'static str> {
    if is_flag(arg) {
        return match value {
            Value::Boolean(true) => Ok(vec![String::new()]),
            Value::Boolean(false) => Ok(Vec::new()),
            _ => Err("must be true or false"),
        };
    }
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        // TOML's dates have the same format as the program's.
        Value::Datetime(date) => Ok(date.to_string()),
        Value::Boolean(_) => Err("takes a value, not true or false"),
        Value::Array(_) | Value::Table(_) => Err("takes a text or a number"),
    };
    match value {
        Value::Array(values) if takes_several(arg) => values.iter().map(one).collect(),
        Value::Array(_) => Err("takes one value"),
        value => Ok(vec![one(value)?]),
    }
}

#[cfg(test)]
mod tests;
