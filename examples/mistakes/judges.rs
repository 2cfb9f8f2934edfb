//! Judges that cannot be reached, or refuse.

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
    let mut child = crate::command(&world, "check_judge", &args, &env).spawn().unwrap();
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
