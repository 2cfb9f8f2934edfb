//! Budgets, forecasts, the cache, and cancellation.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use tempfile::TempDir;

use super::*;

#[test]
fn a_rerun_costs_nothing_and_says_the_same() {
    let folder = TempDir::new().unwrap();
    let server =
        Server::new(|request| Reply::tokens(&[("33", 0.3), (request.prompt().split('|').nth(2).unwrap(), 0.2)]));
    let cached = || HttpOptions { cache: Some(folder.path().join("new/judged.jsonl")), ..options(&server) };
    let rubrics = [rubric("a"), rubric("b")];
    let first = judged(&judge(cached()), &rubrics, &answers(5)).unwrap();
    assert_eq!(server.requests().len(), 10);
    let again = judge(cached());
    assert_eq!(judged(&again, &rubrics, &answers(5)).unwrap(), first);
    assert_eq!((server.requests().len(), again.spent()), (0, Spent::default()));
    // For a larger task only new requests are sent.
    judged(&again, &rubrics, &answers(7)).unwrap();
    assert_eq!(server.requests().len(), 4);
    // Another model is another judge.
    judged(&judge(HttpOptions { model: "b-model".into(), ..cached() }), &rubrics, &answers(1)).unwrap();
    assert_eq!(server.requests().len(), 2);
    // And so is the same model on another server.
    let elsewhere = Server::new(echo);
    judged(&judge(HttpOptions { base_url: elsewhere.url(), ..cached() }), &rubrics, &answers(1)).unwrap();
    assert_eq!(elsewhere.requests().len(), 2);
}

#[test]
fn a_rerun_of_numbers_alone_costs_nothing_either() {
    let folder = TempDir::new().unwrap();
    let server = Server::new(|request| if request.wants_logprobs() { Reply::text("?") } else { echo(request) });
    let cached = || HttpOptions { cache: Some(folder.path().join("judged.jsonl")), ..options(&server) };
    let first = judged(&judge(cached()), &[rubric("a")], &answers(3)).unwrap();
    assert_eq!(server.requests().len(), 4);
    assert_eq!(judged(&judge(cached()), &[rubric("a")], &answers(3)).unwrap(), first);
    assert!(server.requests().is_empty());
    // Written numbers are not mistaken for probabilities.
    let strict = judge(HttpOptions { logprobs: Logprobs::Require, ..cached() });
    assert!(matches!(http(judged(&strict, &[rubric("a")], &answers(3))), HttpError::NoLogprobs { .. }));
}

#[test]
fn torn_and_foreign_lines_of_the_cache_are_passed_over() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("judged.jsonl");
    let server = Server::new(echo);
    let cached = || HttpOptions { cache: Some(path.clone()), concurrency: 1, ..options(&server) };
    let first = judged(&judge(cached()), &[rubric("a")], &answers(3)).unwrap();
    server.requests();
    // The program ended while the third line was being written.
    let whole = fs::read(&path).unwrap();
    let lines = whole.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::len).collect::<Vec<_>>();
    assert_eq!(lines.len(), 3);
    for torn in [lines[0] + lines[1] + 1, whole.len() - 1, whole.len() - 2] {
        fs::write(&path, &whole[..torn]).unwrap();
        assert_eq!(judged(&judge(cached()), &[rubric("a")], &answers(3)).unwrap(), first);
        let asked = server.requests().len();
        assert_eq!(asked, usize::from(torn < whole.len() - 1), "a line that lacks its line feed alone is whole");
        // The next line is not damaged by the incomplete one.
        assert_eq!(judged(&judge(cached()), &[rubric("a")], &answers(3)).unwrap(), first);
        assert!(server.requests().is_empty());
    }
    let mut foreign = b"\n\nnot json\n{\"key\": \"zz\", \"reply\": {\"text\": \"5\"}}\n\xff\xfe\n{}\n".to_vec();
    foreign.extend_from_slice(&whole);
    fs::write(&path, foreign).unwrap();
    assert_eq!(judged(&judge(cached()), &[rubric("a")], &answers(3)).unwrap(), first);
    assert!(server.requests().is_empty());
    // A folder with the file's name is an error.
    let error = http(HttpJudge::new(HttpOptions { cache: Some(folder.path().into()), ..options(&server) }));
    assert!(matches!(error, HttpError::Cache { path, .. } if path == folder.path()));
}

#[test]
fn a_cache_that_is_emptied_under_a_judge_is_asked_again() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("judged.jsonl");
    let server = Server::new(echo);
    let judge = judge(HttpOptions { cache: Some(path.clone()), ..options(&server) });
    let first = judged(&judge, &[rubric("a")], &answers(3)).unwrap();
    fs::write(&path, "").unwrap();
    assert_eq!(judged(&judge, &[rubric("a")], &answers(3)).unwrap(), first);
    assert_eq!(server.requests().len(), 6);
}

#[test]
fn two_programs_may_share_a_cache() {
    let folder = TempDir::new().unwrap();
    let server = Server::new(echo);
    let cached = || HttpOptions { cache: Some(folder.path().join("judged.jsonl")), ..options(&server) };
    let (left, right) = (judge(cached()), judge(cached()));
    judged(&left, &[rubric("a")], &answers(3)).unwrap();
    judged(&right, &[rubric("b")], &answers(3)).unwrap();
    judged(&left, &[rubric("c")], &answers(3)).unwrap();
    server.requests();
    // Each finds its own lines, and a third one finds all.
    for judge in [left, judge(cached())] {
        for (name, value) in [("a", 2.0), ("c", 2.0)] {
            assert_eq!(judged(&judge, &[rubric(name)], &answers(3)).unwrap()[2][0].value(), Some(value));
        }
    }
    assert!(server.requests().is_empty());
}

#[test]
fn a_budget_of_requests_ends_the_run_and_another_goes_on_from_there() {
    let folder = TempDir::new().unwrap();
    let server = Server::new(echo);
    let budget = |requests| {
        let budget = Budget { requests, tokens: None };
        HttpOptions { cache: Some(folder.path().join("judged.jsonl")), budget, concurrency: 3, ..options(&server) }
    };
    let mut reported = 0;
    let outcome = judge(budget(Some(5))).judge(&[rubric("a")], &answers(12), &mut |_| {
        reported += 1;
        ControlFlow::Continue(())
    });
    let error = http(outcome);
    let HttpError::Budget { done: 5, total: 12, spent } = &error else { panic!("{error:?}") };
    assert_eq!((spent.requests, spent.prompt_tokens, reported), (5, 500, 5));
    assert!(error.to_string().contains("5 of 12"), "{error}");
    assert_eq!(server.requests().len(), 5);
    assert_eq!(judged(&judge(budget(None)), &[rubric("a")], &answers(12)).unwrap()[11][0].value(), Some(11.0));
    assert_eq!(server.requests().len(), 7);
}

#[test]
fn attempts_that_fail_count_as_requests() {
    let server = Server::script(vec![|| Reply::error(500, "oops")]);
    let budget = Budget { requests: Some(2), tokens: None };
    let error = http(one(&judge(HttpOptions { budget, ..options(&server) })));
    assert!(matches!(error, HttpError::Budget { done: 0, total: 1, .. }), "{error:?}");
    assert_eq!(server.requests().len(), 2);
    let budget = Budget { requests: Some(0), tokens: None };
    assert!(matches!(http(one(&judge(HttpOptions { budget, ..options(&server) }))), HttpError::Budget { .. }));
    assert!(server.requests().is_empty());
}

#[test]
fn a_budget_of_tokens_is_never_overdrawn() {
    // Each request actually uses 101 tokens and is estimated at fewer; with two running, the budget may be exceeded by
    // the error of those two estimates and no more.
    let server = Server::new(|request| echo(request).late(Duration::from_millis(10)));
    let budget = Budget { requests: None, tokens: Some(500) };
    let judge = judge(HttpOptions { budget, concurrency: 2, ..options(&server) });
    let error = http(judged(&judge, &[rubric("a")], &answers(12)));
    let HttpError::Budget { done, spent, .. } = error else { panic!("{error:?}") };
    assert_eq!(spent.tokens(), 101 * done as u64);
    assert!((404..=606).contains(&spent.tokens()), "{spent:?}");
}

#[test]
fn what_a_server_does_not_say_is_estimated() {
    let server = Server::new(|_| Reply::new(200, r#"{"choices": [{"message": {"content": "5"}}]}"#));
    let judge = judge(options(&server));
    let long = "word ".repeat(80);
    judged(&judge, &[rubric("r")], &[Answered { question: "q", answer: &long }]).unwrap();
    let spent = judge.spent();
    assert_eq!(spent.requests, 2);
    assert!((200..=260).contains(&spent.prompt_tokens), "{spent:?}");
}

#[test]
fn the_forecast_is_what_a_run_then_takes() {
    let folder = TempDir::new().unwrap();
    let server = Server::new(echo);
    let judge = judge(HttpOptions { cache: Some(folder.path().join("judged.jsonl")), ..options(&server) });
    let rubrics = [rubric("a"), rubric("b")];
    judged(&judge, &rubrics, &answers(2)).unwrap();
    server.requests();
    let mut more = answers(5);
    more.push(more[4]);
    more.push(more[0]);
    let forecast = judge.forecast(&rubrics, &more);
    assert!(server.requests().is_empty());
    assert_eq!((forecast.verdicts, forecast.cached, forecast.repeated, forecast.requests), (14, 6, 2, 6));
    // Prompts of five characters: two tokens, and eight for the template.
    assert_eq!((forecast.prompt_tokens, forecast.completion_tokens), (60, 6));
    let cost = forecast.cost(&Prices { prompt: 2.0, completion: 8.0 });
    assert!((cost - (120.0 + 48.0) / 1e6).abs() < 1e-12, "{cost}");
    let verdicts = judged(&judge, &rubrics, &more).unwrap();
    assert_eq!((&verdicts[5], &verdicts[6]), (&verdicts[4], &verdicts[0]));
    assert_eq!(server.requests().len(), 6);
    assert_eq!(judge.forecast(&rubrics, &more).requests, 0);
}

#[test]
fn breaking_off_is_quick_and_keeps_what_was_reported() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("judged.jsonl");
    let server = Server::new(|request| match request.number {
        0..=2 => echo(request),
        _ => Reply::Stall(Duration::from_secs(30)),
    });
    let judge = judge(HttpOptions { cache: Some(path.clone()), concurrency: 2, ..options(&server) });
    let (mut reported, start) = (Vec::new(), Instant::now());
    let outcome = judge.judge(&[rubric("a")], &answers(12), &mut |judged| {
        reported.push(judged);
        if reported.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(outcome, Err(Error::Cancelled { done: 3, total: 12 })), "{outcome:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(reported.iter().all(|judged| judged.verdict.value() == Some(judged.answer as f64)));
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
    // The three are not requested again.
    server.requests();
    let fresh = Server::new(echo);
    assert_eq!(fresh.requests().len(), 0);
    assert_eq!(judge.forecast(&[rubric("a")], &answers(12)).cached, 3);
}

#[test]
fn a_callback_that_panics_ends_the_run_at_once() {
    let server = Server::new(|request| match request.number {
        0 => echo(request),
        _ => Reply::Stall(Duration::from_secs(30)),
    });
    let judge = judge(options(&server));
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        judge.judge(&[rubric("a")], &answers(12), &mut |_| panic!("the caller's own trouble"))
    }));
    assert!(outcome.is_err());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}
