use clap::error::ErrorKind;

use super::*;

fn line(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// The names of all commands, including groups of commands.
fn all(command: &clap::Command, words: &[String], found: &mut Vec<Vec<String>>) {
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        let words = [words, &[below.get_name().to_owned()]].concat();
        found.push(words.clone());
        all(below, &words, found);
    }
}

#[test]
fn every_command_has_a_help_of_its_own() {
    let mut root = command_line();
    root.clone().debug_assert();
    let mut commands = vec![Vec::new()];
    all(&root.clone(), &[], &mut commands);
    assert!(commands.len() > 20, "{commands:?}");
    for words in commands {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let help = parse(&mut root, line(&[&["persona"], &words[..], &["--help"]].concat())).expect_err("help");
        assert_eq!(help.kind(), ErrorKind::DisplayHelp, "{words:?}: {help}");
        let text = help.to_string();
        assert!(text.contains("Usage: persona") && text.contains("--json"), "{words:?}: {text}");
    }
}

#[test]
fn first_steps_can_be_parsed() {
    let shown = first_steps::show();
    for (command, _) in first_steps::STEPS {
        let words: Vec<&str> = command.split(' ').collect();
        let (_, persona, _) =
            parse(&mut command_line(), line(&words)).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert!(persona.command.is_some(), "{command}");
        assert!(shown.to_string().contains(command));
    }
    let (_, persona, _) = parse(&mut command_line(), line(&["persona"])).expect("no command");
    assert!(persona.command.is_none());
}

#[test]
fn completions_and_man_pages_name_every_command() {
    let root = command_line();
    let names: Vec<&str> = root.get_subcommands().map(clap::Command::get_name).collect();
    for shell in <clap_complete::Shell as clap::ValueEnum>::value_variants() {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut command_line(), "persona", &mut script);
        let script = String::from_utf8(script).expect("a script");
        names.iter().for_each(|name| assert!(script.contains(name), "{shell} completes no {name}"));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("man");
    let words = ["persona", "man", path.to_str().expect("a name")];
    let (_, persona, invocation) = parse(&mut command_line(), line(&words)).expect("a command");
    let written = persona.command.expect("a command").run(&invocation).expect("pages");
    let files: Vec<&str> = written["files"].as_array().expect("files").iter().filter_map(Value::as_str).collect();
    let mut commands = vec![Vec::new()];
    all(&root, &[], &mut commands);
    assert_eq!(files.len(), commands.len(), "{files:?}");
    assert!(files.contains(&"persona-monitor-study.1"), "{files:?}");
    let page = std::fs::read_to_string(path.join("persona-train.1")).expect("a page");
    assert!(page.starts_with(".ie") || page.starts_with(".TH") || page.contains(".TH persona"), "{page}");
    assert!(page.contains("learning\\-rate"), "{page}");
}
