//! Behaviours of servers, one after the other: the result of each, and the number of requests.
#![allow(clippy::print_stdout, reason = "a test shows what it measured")]

mod table;

use serde_json::{Value, json};

use super::*;
use crate::Abstention;
use crate::score::{AbstentionKind, ScoreMode};

/// A server, the answers to judge, and the expected result.
struct Case {
    name: &'static str,
    serve: fn(&Request) -> Reply,
    /// The scores of the answers, each its own text.
    answers: &'static [&'static str],
    /// Their scores.
    scores: &'static [Option<f64>],
    mode: Option<ScoreMode>,
    requests: usize,
    /// The findings in the report.
    found: &'static [&'static str],
}

const WORTH: [&str; 4] = ["85", "5", "100", "0"];
const SCORES: [Option<f64>; 4] = [Some(85.0), Some(5.0), Some(100.0), Some(0.0)];

/// The answer in a request.
fn worth(request: &Request) -> &str {
    request.prompt().split('|').nth(2).unwrap()
}

fn limit(request: &Request) -> usize {
    let limit = ["max_tokens", "max_completion_tokens"].iter().find_map(|name| request.body.get(*name));
    limit.unwrap().as_u64().unwrap() as usize
}

/// A model that writes these tokens and then ends; each is certain, and has an alternative that shows its vocabulary.
fn writes(request: &Request, tokens: &[&str], alternative: &str) -> Reply {
    let most = limit(request);
    let cut = tokens.len() > most;
    let tokens = &tokens[..tokens.len().min(most)];
    let positions = tokens.iter().map(|token| vec![(*token, 1.0), (alternative, 0.0)]).collect::<Vec<_>>();
    match request.wants_logprobs() {
        true => Reply::positions(&positions, cut),
        false => Reply::text(&tokens.concat()),
    }
}

/// With a vocabulary of whole numbers.
fn whole(request: &Request) -> Reply {
    writes(request, &[worth(request)], "55")
}

fn digits_of(request: &Request) -> Reply {
    let text = worth(request);
    let tokens = (0..text.len()).map(|at| &text[at..=at]).collect::<Vec<_>>();
    writes(request, &tokens, "The")
}

fn refuse(status: u16, message: &str, code: &str) -> Reply {
    Reply::new(
        status,
        json!({"error": {"message": message, "type": "invalid_request_error", "code": code}}).to_string(),
    )
}

fn has(request: &Request, name: &str) -> bool {
    request.body.get(name).is_some()
}

/// A model that reasons unless that is disabled.
fn thinker(request: &Request, obeys: bool) -> Reply {
    let off = request.body["chat_template_kwargs"]["enable_thinking"] == false;
    if off && obeys {
        return whole(request);
    }
    let content = if limit(request) > 100 { json!(worth(request)) } else { Value::Null };
    Reply::choice(json!({"message": {"content": content, "reasoning_content": "Okay, let me see."},
        "logprobs": null, "finish_reason": "length"}))
}

/// A first position with these alternatives, as the server writes them.
fn raw_logprobs(request: &Request, alternatives: &str) -> Reply {
    let token = worth(request);
    let body = format!(
        "{{\"choices\": [{{\"message\": {{\"content\": \"{token}\"}}, \"finish_reason\": \"length\", \"logprobs\": \
         {{\"content\": [{{\"token\": \"{token}\", \"logprob\": -0.0, \"top_logprobs\": \
         [{{\"token\": \"{token}\", \"logprob\": -0.0}}, {alternatives}]}}]}}}}]}}"
    );
    Reply::new(200, body)
}

/// Streamed.
fn pieces(request: &Request) -> Reply {
    let token = worth(request);
    let position = json!({"token": token, "logprob": 0.0,
        "top_logprobs": [{"token": token, "logprob": 0.0}, {"token": "55", "logprob": -9999.0}]});
    let first = json!({"choices": [{"delta": {"role": "assistant", "content": token},
        "logprobs": {"content": [position]}, "finish_reason": null}]});
    let last = json!({"choices": [{"delta": {}, "finish_reason": "length"}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 1}});
    Reply::new(200, format!(": ping\n\ndata: {first}\n\ndata: {last}\n\ndata: {usage}\n\ndata: [DONE]\n\n"))
}

#[test]
fn every_behaviour_has_its_verdicts_and_requests() {
    let cases = table::cases();
    assert!(cases.len() >= 45, "{}", cases.len());
    for Case { name, serve, answers, scores, mode, requests, found } in cases {
        let server = Server::new(serve);
        let judge = judge(HttpOptions { concurrency: 2, ..options(&server) });
        let answered = answers.iter().map(|answer| Answered { question: "q", answer }).collect::<Vec<_>>();
        let verdicts = judged(&judge, &[rubric("r")], &answered).unwrap_or_else(|error| panic!("{name}: {error}"));
        let report = judge.report();
        let values = verdicts.iter().map(|row| row[0].value()).collect::<Vec<_>>();
        let asked = server.requests().len();
        println!("{name}: {asked} requests, {}, {:?}", report.verdicts, report.found);
        assert_eq!(values.len(), scores.len(), "{name}");
        for (value, score) in values.iter().zip(scores) {
            let near = value.zip(*score).is_some_and(|(value, score)| (value - score).abs() < 1e-3);
            assert!(near || (value.is_none() && score.is_none()), "{name}: {verdicts:?}");
        }
        assert_eq!((report.mode, asked), (mode, requests), "{name}: {:?}", report.found);
        assert_eq!(report.requests, requests as u64, "{name}");
        for words in found {
            assert!(report.found.iter().any(|found| found.contains(words)), "{name}: {words:?} in {:?}", report.found);
        }
        assert_eq!(found.is_empty(), report.found.is_empty(), "{name}: {:?}", report.found);
        let modes = verdicts.iter().filter_map(|row| row[0].mode()).collect::<std::collections::BTreeSet<_>>();
        assert!(modes.iter().eq(&mode), "{name}: verdicts of one mode only, {modes:?}");
        let lacking = scores.iter().filter(|score| score.is_none()).count();
        let kinds = &report.verdicts.abstained;
        assert_eq!(kinds.values().sum::<usize>(), lacking, "{name}");
        if lacking > 0 && !name.starts_with("a judge that declines") {
            assert_eq!(kinds.get(&AbstentionKind::Refused), Some(&lacking), "{name}: {kinds:?}");
        }
    }
}

#[test]
fn a_refused_prompt_has_the_servers_words() {
    let server = Server::new(|request| match worth(request) {
        "3" => refuse(400, "filtered: violence", "content_filter"),
        _ => whole(request),
    });
    let verdicts = judged(&judge(options(&server)), &[rubric("r")], &answers(12)).unwrap();
    let expected = Abstention::Refused { status: 400, message: "filtered: violence".into() };
    assert_eq!(verdicts[3][0], Verdict::Abstained(expected));
    assert_eq!(verdicts.iter().filter(|row| row[0].value().is_some()).count(), 11);
}

/// A server with which no judge works, its description, and the number of requests after which that is known.
#[test]
fn what_cannot_be_helped_ends_at_once() {
    type Ends = (&'static str, fn(&Request) -> Reply, usize, fn(&HttpError) -> bool);
    let refused = |error: &HttpError| matches!(error, HttpError::Refused { .. });
    let cases: [Ends; 9] = [
        (
            "no money",
            |_| {
                refuse(
                    429,
                    "You exceeded your current quota, please check your plan and billing details.",
                    "insufficient_quota",
                )
            },
            1,
            refused,
        ),
        ("no money, by 402", |_| refuse(402, "Insufficient Balance", ""), 1, refused),
        ("no money, by 403", |_| refuse(403, "insufficient_quota", ""), 1, refused),
        ("a wrong key", |_| refuse(401, "Incorrect API key provided", "invalid_api_key"), 1, refused),
        ("a wrong key, by 400", |_| refuse(400, "API key not valid. Please pass a valid API key.", ""), 1, refused),
        ("no permission", |_| refuse(403, "you are not allowed to sample from this model", ""), 1, refused),
        ("no such model", |_| refuse(404, "The model `a-model` does not exist", "model_not_found"), 1, refused),
        // The first token, the written number in three forms, and only the first token of four other prompts.
        ("every prompt is refused without a word", |_| refuse(400, "no", ""), 8, refused),
        (
            "every prompt is filtered",
            |_| refuse(400, "no", "content_filter"),
            5,
            |error| matches!(error, HttpError::NoNumbers { answers: 5, reply, .. } if reply.contains("no")),
        ),
    ];
    for (name, serve, requests, expected) in cases {
        let server = Server::new(serve);
        let mut reported = 0;
        let outcome = judge(options(&server)).judge(&[rubric("r")], &answers(12), &mut |_| {
            reported += 1;
            ControlFlow::Continue(())
        });
        let error = http(outcome);
        assert!(expected(&error), "{name}: {error:?}");
        assert_eq!((server.requests().len(), reported), (requests, 0), "{name}");
    }
}

#[test]
fn a_judge_that_gives_no_number_for_the_first_answers_is_quoted_before_more_is_paid_for() {
    let words = ["I", " cannot", " say", " that", ",", " sorry"];
    // With and without probabilities; with them, each prompt needs a longer request too.
    type Serve = fn(&Request) -> Reply;
    let cases: [(Serve, usize); 2] = [
        (|request| writes(request, &["I", " cannot", " say", " that", ",", " sorry"], "The"), 10),
        (|_| Reply::text("I cannot say that, sorry"), 10),
    ];
    for (serve, requests) in cases {
        let server = Server::new(serve);
        let folder = tempfile::TempDir::new().unwrap();
        let cache = folder.path().join("judged.jsonl");
        let judge = judge(HttpOptions { cache: Some(cache.clone()), ..options(&server) });
        let error = http(judged(&judge, &[rubric("r")], &answers(12)));
        let HttpError::NoNumbers { answers: 5, reply, model, .. } = &error else { panic!("{error:?}") };
        assert_eq!((reply.as_str(), model.as_str()), (&*words.concat(), "a-model"));
        assert!(error.to_string().contains("I cannot say that"), "{error}");
        assert_eq!(server.requests().len(), requests);
        assert_eq!(std::fs::read(&cache).unwrap().len(), 0, "nothing of it is kept");
    }
    // In several calls as in one.
    let server = Server::new(|_| Reply::text("no"));
    let judge = judge(options(&server));
    for answer in 0..4 {
        assert!(judged(&judge, &[rubric("r")], &answers(5)[answer..=answer]).is_ok());
    }
    assert!(matches!(http(judged(&judge, &[rubric("r")], &answers(5)[4..])), HttpError::NoNumbers { answers: 5, .. }));
    // One number is enough; and the limit can be disabled.
    let server = Server::new(|request| Reply::text(if request.prompt().ends_with("|4") { "40" } else { "no" }));
    let verdicts = judged(&super::judge(options(&server)), &[rubric("r")], &answers(12)).unwrap();
    assert_eq!(verdicts.iter().filter(|row| row[0].value().is_some()).count(), 1);
    let server = Server::new(|_| Reply::text("no"));
    let patient = super::judge(HttpOptions { numberless: 0, ..options(&server) });
    assert_eq!(judged(&patient, &[rubric("r")], &answers(12)).unwrap().len(), 12);
}
