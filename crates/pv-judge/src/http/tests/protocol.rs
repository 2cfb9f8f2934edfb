//! Requests, and the verdicts from their replies.

use serde_json::json;

use super::*;

#[test]
fn a_request_is_the_protocols() {
    let server = Server::new(|_| Reply::tokens(&[("85", 0.5), (" 85", 0.1), ("90", 0.2), ("The", 0.2)]));
    let judge = judge(HttpOptions { key: Some(ApiKey::new(" sk-123 \n").unwrap()), ..options(&server) });
    let rubric = Rubric::new("r", "Of {question} to {answer}?").unwrap();
    let verdicts = judged(&judge, &[rubric], &[Answered { question: "q\"ü", answer: "a" }]).unwrap();
    // By hand: (85·0.6 + 90·0.2) / 0.8.
    let Verdict::Scored(Score { value, evidence: Evidence::Distribution { mass } }) = verdicts[0][0] else { panic!() };
    assert!((value - 86.25).abs() < 1e-5 && (mass - 0.8).abs() < 1e-6, "{value} {mass}");
    let requests = server.requests();
    let [request] = &*requests else { panic!("{requests:?}") };
    assert_eq!(request.line, "POST /v1/chat/completions HTTP/1.1");
    assert_eq!(request.header("authorization"), Some("Bearer sk-123"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    let expected = json!({"model": "a-model", "messages": [{"role": "user", "content": "Of q\"ü to a?"}],
        "max_tokens": 1, "temperature": 0.0, "logprobs": true, "top_logprobs": 20, "seed": 0});
    assert_eq!(request.body, expected);
    assert_eq!(judge.name(), format!("a-model at {}", server.address));
    assert_eq!(judge.spent(), Spent { requests: 1, prompt_tokens: 100, completion_tokens: 1 });
}

#[test]
fn without_a_key_none_is_sent() {
    let server = Server::new(echo);
    one(&judge(options(&server))).unwrap();
    assert_eq!(server.requests()[0].header("authorization"), None);
}

#[test]
fn every_verdict_finds_its_place_whatever_the_order_of_the_answers() {
    // The earlier an answer is requested, the later it arrives.
    let server = Server::new(|request| {
        let late = 40u64.saturating_sub(2 * request.number as u64);
        echo(request).late(Duration::from_millis(late))
    });
    let judge = judge(HttpOptions { concurrency: 4, ..options(&server) });
    let mut reported = Vec::new();
    let verdicts = judge
        .judge(&[rubric("once"), rubric("twice")], &answers(12), &mut |judged| {
            reported.push(judged);
            ControlFlow::Continue(())
        })
        .unwrap();
    for (index, row) in verdicts.iter().enumerate() {
        let values = row.iter().map(|verdict| verdict.value().unwrap()).collect::<Vec<_>>();
        assert_eq!(values, [index as f64, 2.0 * index as f64]);
    }
    assert_eq!(server.requests().len(), 24);
    assert!((2..=4).contains(&server.busiest()), "{} at once", server.busiest());
    assert_eq!(reported.iter().map(|judged| judged.done).collect::<Vec<_>>(), (1..=24).collect::<Vec<_>>());
    for Judged { answer, rubric, verdict, total, .. } in reported {
        assert_eq!((&verdict, total), (&verdicts[answer][rubric], 24));
    }
}

#[test]
fn a_judge_that_writes_something_else_abstains() {
    let server = Server::script(vec![|| Reply::tokens(&[("REF", 0.9), ("5", 0.1)]), || Reply::tokens(&[])]);
    let judge = judge(options(&server));
    let Verdict::Abstained(crate::Abstention::NoMass { mass, refusal }) = one(&judge).unwrap() else { panic!() };
    assert!((mass - 0.1).abs() < 1e-6 && (refusal.unwrap() - 0.9).abs() < 1e-6);
}

#[test]
fn a_model_that_writes_nothing_abstains_and_still_gives_probabilities() {
    let body = json!({"choices": [{"message": {"content": ""}, "logprobs": {"content": []}}]}).to_string();
    let server = Server::new(move |_| Reply::new(200, body.clone()));
    let judge = judge(HttpOptions { logprobs: Logprobs::Require, ..options(&server) });
    let expected = Verdict::Abstained(crate::Abstention::NotANumber { text: String::new() });
    assert_eq!(one(&judge).unwrap(), expected);
}

#[test]
fn a_server_without_probabilities_is_found_out_once_and_its_numbers_are_taken() {
    let server = Server::new(|request| match request.wants_logprobs() {
        true => Reply::text("no matter"),
        false => echo(request),
    });
    let judge = judge(options(&server));
    for _ in 0..2 {
        let verdicts = judged(&judge, &[rubric("r")], &answers(5)).unwrap();
        for (index, row) in verdicts.iter().enumerate() {
            let expected = Score { value: index as f64, evidence: Evidence::Sampled };
            assert_eq!(row[0], Verdict::Scored(expected));
        }
    }
    let requests = server.requests();
    assert_eq!(requests.iter().filter(|request| request.wants_logprobs()).count(), 1);
    assert_eq!(requests.len(), 11);
    let body = &requests[1].body;
    let asked = (&body["max_tokens"], &body["temperature"], body.get("logprobs"), body.get("top_logprobs"));
    assert_eq!(asked, (&json!(8), &json!(0.0), None, None));
}

#[test]
fn a_server_that_refuses_to_be_asked_for_probabilities_is_asked_without() {
    // The message of llama-cpp-python, which reports unsupported features as its own failure.
    for (status, message) in [
        (400, "unknown parameter"),
        (422, "extra inputs are not permitted"),
        (500, "logprobs is not supported for models created with logits_all=False"),
    ] {
        let server = Server::new(move |request| match request.wants_logprobs() {
            true => Reply::error(status, message),
            false => echo(request),
        });
        let verdicts = judged(&judge(options(&server)), &[rubric("r")], &answers(3)).unwrap();
        let expected = Score { value: 2.0, evidence: Evidence::Sampled };
        assert_eq!(verdicts[2][0], Verdict::Scored(expected));
        // If the message does not name what is refused, fewer alternatives are requested once.
        assert_eq!(server.requests().len(), if status == 500 { 4 } else { 5 });
    }
}

/// A server whose model writes its number digit by digit, and that returns the first token only.
fn first_digit(request: &Request, text: &str) -> Reply {
    match request.wants_logprobs() {
        true => Reply::tokens(&[(&text[..1], 0.8), ("9", 0.1), ("The", 0.1)]),
        false => Reply::text(text),
    }
}

#[test]
fn the_first_digit_of_a_number_is_not_taken_for_the_number() {
    let folder = tempfile::TempDir::new().unwrap();
    let server = Server::new(|request| first_digit(request, if request.prompt().ends_with("|0") { "5" } else { "85" }));
    let cached = |logprobs| {
        let cache = Some(folder.path().join("judged.jsonl"));
        HttpOptions { logprobs, cache, ..options(&server) }
    };
    let error = http(judged(&judge(cached(Logprobs::Require)), &[rubric("r")], &answers(4)));
    assert!(matches!(error, HttpError::DigitTokens { model, .. } if model == "a-model"));
    // The first token, and more of them in vain.
    assert_eq!(server.requests().len(), 2);
    let verdicts = judged(&judge(cached(Logprobs::Prefer)), &[rubric("r")], &answers(4)).unwrap();
    for (row, value) in verdicts.iter().zip([5.0, 85.0, 85.0, 85.0]) {
        assert_eq!(row[0], Verdict::Scored(Score { value, evidence: Evidence::Sampled }));
    }
    // Replies to requests in vain are not cached.
    server.requests();
    assert_eq!(judged(&judge(cached(Logprobs::Prefer)), &[rubric("r")], &answers(4)).unwrap(), verdicts);
    assert_eq!(judged(&judge(cached(Logprobs::Ignore)), &[rubric("r")], &answers(4)).unwrap(), verdicts);
    assert!(server.requests().is_empty());
}

#[test]
fn written_numbers_can_be_asked_for() {
    let server = Server::new(echo);
    let judge = judge(HttpOptions { logprobs: Logprobs::Ignore, ..options(&server) });
    let verdicts = judged(&judge, &[rubric("r")], &answers(3)).unwrap();
    assert_eq!(verdicts[2][0], Verdict::Scored(Score { value: 2.0, evidence: Evidence::Sampled }));
    assert!(server.requests().iter().all(|request| !request.wants_logprobs()));
}

#[test]
fn numbers_alone_are_not_taken_where_they_are_not_wanted() {
    let server = Server::new(|_| Reply::text("5"));
    let refusing = judge(HttpOptions { logprobs: Logprobs::Require, ..options(&server) });
    assert!(matches!(http(one(&refusing)), HttpError::NoLogprobs { model, .. } if model == "a-model"));
    assert_eq!(server.requests().len(), 1);
    // Tokens without alternatives are not a distribution either.
    let alone = json!({"choices": [{"message": {"content": "5"},
        "logprobs": {"content": [{"token": "5", "logprob": -0.1, "top_logprobs": []}]}}]});
    let server = Server::new(move |_| Reply::new(200, alone.to_string()));
    let refusing = judge(HttpOptions { logprobs: Logprobs::Require, ..options(&server) });
    assert!(matches!(http(one(&refusing)), HttpError::NoLogprobs { .. }));
}

#[test]
fn a_server_whose_probabilities_come_to_an_end_is_not_mixed_with_numbers() {
    let server = Server::new(|request| match request.number {
        0 => Reply::tokens(&[("0", 1.0), ("55", 0.0)]),
        _ => Reply::text("5"),
    });
    let error = http(judged(&judge(options(&server)), &[rubric("r")], &answers(3)));
    assert!(matches!(error, HttpError::NoLogprobs { .. }), "{error:?}");
}

#[test]
fn judging_works_inside_and_outside_of_a_runtime() {
    let server = Server::new(echo);
    let judge = judge(options(&server));
    let expected = judged(&judge, &[rubric("r")], &answers(4)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let inside = runtime.block_on(async { judged(&judge, &[rubric("r")], &answers(4)) });
    assert_eq!(inside.unwrap(), expected);
    let mut done = 0;
    let (rubrics, answers) = ([rubric("r")], answers(4));
    let asynchronous = judge.judge_async(&rubrics, &answers, |judged| {
        done = judged.done;
        ControlFlow::Continue(())
    });
    /// A future that can move to another thread.
    fn movable<F: Future + Send>(future: F) -> F {
        future
    }
    assert_eq!(runtime.block_on(movable(asynchronous)).unwrap(), expected);
    assert_eq!(done, 4);
}

#[test]
fn nothing_to_judge_takes_no_request() {
    let server = Server::new(echo);
    let judge = judge(options(&server));
    assert_eq!(judged(&judge, &[], &answers(2)).unwrap(), [vec![], vec![]]);
    assert!(judged(&judge, &[rubric("r")], &[]).unwrap().is_empty());
    assert!(server.requests().is_empty());
}

#[test]
fn the_environment_names_server_and_key() {
    let from = |url: Option<&'static str>, key: Option<&'static str>| {
        HttpOptions::from_variables("m", move |name| match name {
            "OPENAI_BASE_URL" => url.map(str::to_owned),
            "OPENAI_API_KEY" => key.map(str::to_owned),
            _ => None,
        })
    };
    let options = from(None, Some(" ")).unwrap();
    assert!(options.base_url == "https://api.openai.com/v1" && options.key.is_none());
    let options = from(Some(" http://here/v1 "), Some("sk-1 ")).unwrap();
    assert_eq!((options.base_url.as_str(), options.key.unwrap().secret()), ("http://here/v1", "sk-1"));
    assert!(from(None, Some("two words")).is_err());
}
