//! Judges that cannot be reached, or refuse.

use std::process::{Command, Stdio};
use std::time::Duration;

use pv_judge::TraitSpec;

use crate::stub::{Reply, Stub};
use crate::world::World;
use crate::{KEY, Mistake, make};

/// A short judged run.
const SHORT: [&str; 8] = ["--questions", "1", "--max-new-tokens", "4", "--judge", "http", "--judge-wait", "1"];

/// A trait to be written.
const WRITTEN: [&str; 7] = ["wit", "--describe", "Is witty.", "--judge-model", "author-1", "--judge-wait", "1"];

#[test]
fn a_trait_is_written_by_a_server_and_never_overwrites_a_file() {
    let world = World::new();
    let path = world.path().join("humor.json");
    TraitSpec::builtin("humor").unwrap().save(&path).unwrap();
    let stub = Stub::new(Reply::Text(std::fs::read_to_string(path).unwrap()));
    let args = WRITTEN.map(str::to_owned);
    let env = [("OPENAI_BASE_URL", stub.url())];
    let said = crate::run(&world, "trait new", &args, &env);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    let written = TraitSpec::load(world.path().join("wit.json")).unwrap();
    assert_eq!((written.name.as_str(), written.description.as_deref()), ("wit", Some("Is witty.")));
    assert_eq!(written.extraction, TraitSpec::builtin("humor").unwrap().extraction);
    let asked = stub.requests();
    let again = crate::run(&world, "trait new", &args, &env);
    assert!(again.code == Some(1) && again.err.contains("wit.json exists"), "{}", again.err);
    assert_eq!(stub.requests(), asked, "no request is sent if the file exists");
}

#[test]
fn unreachable_and_refusing_judges() {
    let world = World::new();
    let refusal = |status, message: &str| {
        Stub::new(Reply::Refusal(status, format!(r#"{{"error": {{"message": "{message}", "type": "x"}}}}"#)))
    };
    let no_key = refusal(401, "You didn't provide an API key");
    let wrong_key = refusal(401, &format!("Incorrect API key provided: {KEY}"));
    let no_model = refusal(404, "The model judge-1 does not exist");
    let no_json = Stub::new(Reply::Refusal(200, "<html>a proxy</html>".to_owned()));
    let judged = |name, url: &str, says: &[&str]| {
        let out = format!("runs/{name}");
        let args = [&["--judge-model", "judge-1", "--out", &out][..], &SHORT].concat();
        Mistake::new(name, "judge check", &args, says).with("OPENAI_BASE_URL", url)
    };
    make(
        "judges",
        &world,
        vec![
            Mistake::usage("no judge model", "judge check", &SHORT, &["--judge-model NAME"]),
            // The address is not repeated: it may contain a password.
            judged("an address without http", "localhost:8080/v1", &["http://"]),
            judged("no server", "http://127.0.0.1:9/v1", &["127.0.0.1:9"]),
            judged("no key", &no_key.url(), &["401", "API key", "OPENAI_API_KEY"]),
            judged("a wrong key", &wrong_key.url(), &["401", "Incorrect API key"]).with("OPENAI_API_KEY", KEY),
            judged("a key with a line break inside", &no_key.url(), &["key"]).with("OPENAI_API_KEY", "sk-123\n456"),
            judged("a model that the server does not have", &no_model.url(), &["404", "judge-1"]),
            judged("an address that returns a web page", &no_json.url(), &[&no_json.url()["http://".len()..][..9]]),
            Mistake::usage(
                "a judge model without a kind, for a screening",
                "screen",
                &["--judge-model", "x"],
                &["--judge local"],
            ),
            Mistake::usage(
                "a judge model without a kind",
                "sweep",
                &["--judge-model", "x"],
                &["--judge local or --judge http"],
            ),
            Mistake::usage("a limit without a judge", "extract", &["--judge-rpm", "5"], &["--judge http"]),
            Mistake::usage(
                "a switch of HTTP judges for another judge",
                "eval",
                &["--judge", "local", "--judge-wait", "5"],
                &["--judge-wait is for --judge http"],
            ),
            Mistake::new(
                "writing a trait with a server that refuses",
                "trait new",
                &WRITTEN,
                &["401", "API key", "OPENAI_API_KEY"],
            )
            .with("OPENAI_BASE_URL", no_key.url()),
            // A reserved address: no request is sent to it without consent.
            Mistake::new(
                "writing a trait without consent",
                "trait new",
                &WRITTEN,
                &["5 requests", "--yes", "no consent"],
            )
            .with("OPENAI_BASE_URL", "http://192.0.2.1/v1"),
            Mistake::usage("an unknown kind of judge", "sweep", &["--judge", "human"], &["human", "exact"]),
        ],
    );
}

/// Whether this process, and therefore its children, ignore SIGINT.
#[cfg(unix)]
fn interrupts_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 0b10 != 0)
}

#[test]
#[cfg(unix)]
fn after_ctrl_c_no_paid_request_is_repeated() {
    let world = World::new();
    let stub = Stub::new(Reply::Fifty(Duration::from_millis(60)));
    let args =
        ["--judge-model", "judge-1", "--out", "run", "--questions", "4", "--max-new-tokens", "16", "--judge", "http"];
    let args = args.map(str::to_owned).to_vec();
    let env = [("OPENAI_BASE_URL", stub.url())];
    // Eleven system prompts, four questions, two rubrics: 88 verdicts, some on equal answers. The number of requests
    // for them:
    let undisturbed = Stub::new(Reply::Fifty(Duration::ZERO));
    let elsewhere: Vec<String> =
        args.iter().map(|arg| if arg == "run" { "whole".to_owned() } else { arg.clone() }).collect();
    let whole = crate::run(&world, "judge check", &elsewhere, &[("OPENAI_BASE_URL", undisturbed.url())]);
    assert_eq!(whole.code, Some(0), "{}{}", whole.out, whole.err);
    let whole = undisturbed.requests();
    assert!(whole > 20, "{whole} requests are too few to interrupt");
    let mut command = crate::command(&world, "judge check", &args, &env);
    if interrupts_are_ignored() {
        // If a shell started the tests in the background, children would ignore the signal too.
        let mut outer = Command::new("env");
        outer.arg("--default-signal=INT").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        outer.current_dir(command.get_current_dir().unwrap());
        outer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command = outer;
    }
    let mut child = command.spawn().unwrap();
    while stub.requests() < 6 {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it was interrupted: {:?}",
            child.wait_with_output()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let interrupted = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2), "a shell calls this exit code 130");
    // Requests in progress are counted when the stub has answered them.
    std::thread::sleep(Duration::from_millis(300));
    let paid = stub.requests();
    let said = crate::run(&world, "judge check", &args, &env);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    // Requests in progress when the signal came are paid for again: eight at most.
    let again = stub.requests() - paid;
    assert!(again + paid <= whole + 8 && again < whole, "{paid} of {whole} verdicts were paid for, then {again} more");
    assert!(said.out.contains(" 50 "), "{}", said.out);
    let third = crate::run(&world, "judge check", &args, &env);
    assert_eq!(
        (third.out, stub.requests()),
        (said.out, paid + again),
        "all verdicts are cached, and no request is sent again"
    );
}
