//! Judges that cannot be reached, or refuse.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::stub::{Reply, Stub};
use crate::world::World;
use crate::{KEY, Mistake, make};

/// A short judged run.
const SHORT: [&str; 8] = ["--questions", "1", "--max-new-tokens", "4", "--judge", "http", "--judge-wait", "1"];

#[test]
fn judges_that_do_not_judge() {
    let world = World::new();
    let refusal = |status, message: &str| {
        Stub::new(Reply::Refusal(status, format!(r#"{{"error": {{"message": "{message}", "type": "x"}}}}"#)))
    };
    let no_key = refusal(401, "You didn't provide an API key");
    let wrong_key = refusal(401, &format!("Incorrect API key provided: {KEY}"));
    let no_model = refusal(404, "The model judge-1 does not exist");
    let no_json = Stub::new(Reply::Refusal(200, "<html>a proxy's greeting</html>".to_owned()));
    let judged = |name, url: &str, says: &[&str]| {
        let out = format!("runs/{name}");
        let args = [&["--judge-model", "judge-1", "--out", &out][..], &SHORT].concat();
        Mistake::new(name, "check_judge", &args, says).with("OPENAI_BASE_URL", url)
    };
    make(
        "judges",
        &world,
        vec![
            Mistake::usage("no judge model", "check_judge", &SHORT, &["--judge-model NAME"]),
            // The address is not repeated: there may be a password in it.
            judged("an address without http", "localhost:8080/v1", &["http://"]),
            judged("no server", "http://127.0.0.1:9/v1", &["127.0.0.1:9"]),
            judged("no key", &no_key.url(), &["401", "API key", "OPENAI_API_KEY"]),
            judged("a wrong key", &wrong_key.url(), &["401", "Incorrect API key"]).with("OPENAI_API_KEY", KEY),
            judged("a key with a line break inside", &no_key.url(), &["key"]).with("OPENAI_API_KEY", "sk-123\n456"),
            judged("a model that the server does not have", &no_model.url(), &["404", "judge-1"]),
            judged("an address that is a web page's", &no_json.url(), &[&no_json.url()["http://".len()..][..9]]),
            Mistake::usage(
                "a screening's judge without its kind",
                "screen",
                &["--judge-model", "x"],
                &["--judge local"],
            ),
            Mistake::usage(
                "a judge without its kind",
                "sweep",
                &["--judge-model", "x"],
                &["--judge local or --judge http"],
            ),
            Mistake::usage("a limit without a judge", "persona_vectors", &["--judge-rpm", "5"], &["--judge http"]),
            Mistake::usage(
                "a server's switch for another judge",
                "evaluate",
                &["--judge", "local", "--judge-wait", "5"],
                &["--judge-wait is for --judge http"],
            ),
            Mistake::usage("a judge of no kind", "sweep", &["--judge", "human"], &["human", "exact"]),
        ],
    );
}

/// Whether this process, and so what it starts, ignores SIGINT.
#[cfg(unix)]
fn interrupts_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 0b10 != 0)
}

#[test]
#[cfg(unix)]
fn ctrl_c_loses_nothing_that_was_paid_for() {
    let world = World::new();
    let stub = Stub::new(Reply::Fifty(Duration::from_millis(60)));
    let args =
        ["--judge-model", "judge-1", "--out", "run", "--questions", "4", "--max-new-tokens", "16", "--judge", "http"];
    let args = args.map(str::to_owned).to_vec();
    let env = [("OPENAI_BASE_URL", stub.url())];
    // Eleven system prompts, four questions, two rubrics: 88 verdicts, some on equal answers. How many requests that takes:
    let undisturbed = Stub::new(Reply::Fifty(Duration::ZERO));
    let elsewhere: Vec<String> =
        args.iter().map(|arg| if arg == "run" { "whole".to_owned() } else { arg.clone() }).collect();
    let whole = crate::run(&world, "check_judge", &elsewhere, &[("OPENAI_BASE_URL", undisturbed.url())]);
    assert_eq!(whole.code, Some(0), "{}{}", whole.out, whole.err);
    let whole = undisturbed.requests();
    assert!(whole > 20, "{whole} requests are too few to interrupt");
    let mut command = crate::command(&world, "check_judge", &args, &env);
    if interrupts_are_ignored() {
        // As where a shell has started the tests in the background: children would ignore the signal, too.
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
    // Requests that were under way are counted when the stub has answered them.
    std::thread::sleep(Duration::from_millis(300));
    let paid = stub.requests();
    let said = crate::run(&world, "check_judge", &args, &env);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    // Those under way when the signal came are paid for again: eight at most.
    let again = stub.requests() - paid;
    assert!(again + paid <= whole + 8 && again < whole, "{paid} of {whole} verdicts were paid for, then {again} more");
    assert!(said.out.contains(" 50 "), "{}", said.out);
    let third = crate::run(&world, "check_judge", &args, &env);
    assert_eq!(
        (third.out, stub.requests()),
        (said.out, paid + again),
        "everything is there, and nothing is asked again"
    );
}
