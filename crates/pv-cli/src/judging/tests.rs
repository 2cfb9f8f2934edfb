use clap::Parser;
use pv_model::chat::SystemText;
use pv_organism::model_folder;

use super::*;
use crate::RenderArgs;

#[derive(clap::Parser, Debug)]
struct Program {
    #[command(flatten)]
    judge: JudgeArgs,
    #[command(flatten)]
    render: RenderArgs,
}

fn parsed(arguments: &[&str]) -> Result<Program, String> {
    Program::try_parse_from([&["program"], arguments].concat()).map_err(|error| error.to_string())
}

/// Every switch of an HTTP judge, with a valid value.
#[cfg(feature = "http")]
const HTTP: [(&str, &str); 12] = [
    ("requests", "5"),
    ("tokens", "5"),
    ("prices", "1,2"),
    ("concurrency", "2"),
    ("rpm", "3"),
    ("tpm", "3"),
    ("logprobs", "require"),
    ("thinking", "off"),
    ("thought-tokens", "9"),
    ("body", "a=1"),
    ("header", "a=b"),
    ("wait", "1"),
];

#[test]
#[cfg(feature = "http")]
fn no_switch_of_an_http_judge_is_ignored() {
    let known = <Switches as clap::Args>::augment_args(Command::new(""));
    let of_http = |name: &&str| name.starts_with("judge-") && JudgeKind::users(name) == [JudgeKind::Http];
    let known = known.get_arguments().filter_map(|arg| arg.get_long()).filter(of_http).count();
    assert_eq!(known, HTTP.len(), "every switch is tried here");
    for (name, value) in HTTP {
        let switch = format!("--judge-{name}");
        let error = parsed(&[&switch, value]).expect_err("no judge");
        assert!(error.contains(&format!("{switch} needs --judge http")), "{error}");
        for other in ["exact", "local", "tone", "likelihood"] {
            let error = parsed(&["--judge", other, &switch, value]).expect_err("another judge");
            assert!(error.contains(&format!("not for --judge {other}")), "{error}");
        }
        parsed(&["--judge", "http", "--judge-model", "x", &switch, value]).expect("its own judge");
    }
}

#[test]
fn no_switch_of_a_judge_is_ignored() {
    for (arguments, says) in [
        (&["--judge-model", "x"][..], "--judge-model needs --judge local or --judge http"),
        (&["--judge", "exact", "--judge-model", "x"], "not for --judge exact"),
        (&["--judge", "http"], "--judge http needs --judge-model"),
        (&["--judge-template", "x"], "--judge-template needs --judge local"),
        (&["--judge", "http", "--judge-model", "x", "--judge-template-var", "a=1"], "not for --judge http"),
    ] {
        let error = parsed(arguments).expect_err("ignored");
        assert!(error.contains(says), "{error}");
    }
    for arguments in [&[][..], &["--judge", "tone"], &["--judge", "local"], &["--judge", "local", "--judge-model", "x"]]
    {
        assert_eq!(parsed(arguments).expect("a judge").judge.is_given(), !arguments.is_empty());
    }
}

#[test]
fn a_judge_is_rendered_with_its_own_template() {
    let render = ["--template", "rag", "--template-var", "a=1", "--now", "2025-07-29", "--system-in-user"];
    let template = |arguments: &[&str]| {
        let program = parsed(&[&render[..], arguments].concat()).expect("arguments");
        let render = program.render.options().expect("options");
        (program.judge.template(&render), render)
    };
    let (own, render) = template(&[]);
    assert_eq!((&own, own.system), (&render, SystemText::FirstUserTurn), "the measured model judges as it answers");
    let (other, render) = template(&["--judge", "local", "--judge-model", "x"]);
    assert_eq!(other, RenderOptions { now: render.now, ..RenderOptions::default() });
    let own = ["--judge", "local", "--judge-model", "x", "--judge-template", "plain", "--judge-template-var", "b=2"];
    let (chosen, _) = template(&own);
    assert_eq!((chosen.template_name.as_deref(), &chosen.variables["b"]), (Some("plain"), &2.into()));
    assert!(chosen.variables.get("a").is_none());
}

/// Judges accept a template that requires the date if --now is given, and report how they render.
#[test]
fn judges_take_the_render_options() {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(model_folder()).expect("the organism") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
    }
    let path = folder.path().join("chat_template.jinja");
    let plain = std::fs::read_to_string(&path).expect("a template");
    std::fs::write(&path, format!("{{{{ strftime_now('%d %b %Y') }}}}\n{plain}")).expect("written");
    let name = folder.path().to_str().expect("a name");
    let args = ModelArgs::cpu(name);
    let model = args.load().expect("a model");
    for arguments in
        [&["--judge", "local"][..], &["--judge", "local", "--judge-model", name], &["--judge", "likelihood"]]
    {
        let with = |more: &[&str]| {
            let program = parsed(&[arguments, more].concat()).expect("arguments");
            let judge = program.judge.judge(&args, &model, &program.render.options()?, folder.path())?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(judge.name())
        };
        let error = with(&[]).expect_err("no date").to_string();
        assert!(error.contains("date"), "{error}");
        let judge = with(&["--now", "2025-07-29"]).expect("a judge");
        assert!(judge.contains("rendered with") && judge.contains("2025-07-29"), "{judge}");
    }
}
