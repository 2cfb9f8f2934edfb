//! The HTTP judge against a real server, llama.cpp's with SmolLM2-135M-Instruct; see [`server`].

mod extraction;
mod server;

use std::ops::ControlFlow;

use pv_judge::artifacts::{TraitRequest, write_trait};
use pv_judge::http::{HttpError, Logprobs};
use pv_judge::judge::Answered;
use pv_judge::score::{Evidence, ScoreMode};
use pv_judge::{Abstention, Error, HttpJudge, HttpOptions, Judge, Rubric, Score, TraitSpec, Verdict};
use serde_json::{Value, json};

use server::{Server, request};

/// Σ k·p(k), Σ p(k) over the numbers along the digits of a short reply, from a request without the judge. The model's tokens are single
/// digits.
fn by_hand(url: &str, prompt: &str) -> (f64, f64) {
    let body = json!({"model": "smollm2", "messages": [{"role": "user", "content": prompt}], "max_tokens": 8,
        "temperature": 0, "logprobs": true, "top_logprobs": 20, "seed": 0});
    let (status, answer) = request(url, "POST", "/chat/completions", &body.to_string()).expect("an answer");
    assert_eq!(status, 200, "{answer}");
    let choice = &answer["choices"][0];
    let positions = choice["logprobs"]["content"].as_array().expect("log-probabilities");
    let text = choice["message"]["content"].as_str().expect("a text");
    let is_number = Verdict::from_text(text).value().is_some();
    let digits = |at: &Value| -> Vec<(u32, f64)> {
        let top = at["top_logprobs"].as_array().expect("rivals");
        let digit = |rival: &Value| {
            let token = rival["token"].as_str().expect("a token").trim().to_owned();
            Some((token.parse().ok().filter(|_| token.len() == 1)?, rival["logprob"].as_f64().expect("a number").exp()))
        };
        top.iter().filter_map(digit).collect()
    };
    let written = |position: &Value| -> Option<u32> { position["token"].as_str()?.trim().parse().ok() };
    // What follows the written digit, if it is not 0: other first digits are assumed to continue in the same way.
    let read = if is_number { positions.as_slice() } else { &positions[..positions.len().min(1)] };
    let place = read.iter().position(|position| written(position).is_some());
    let place = place.filter(|at| written(&positions[*at]).is_some_and(|first| first > 0));
    let next = place.map(|at| positions.get(at + 1).map(digits).unwrap_or_default());
    let (mut sum, mut mass, mut before) = (0.0, 0.0, 1.0);
    for position in positions {
        for (first, p) in digits(position) {
            let longer: f64 = next.iter().flatten().map(|(_, p)| p).sum();
            let value = match &next {
                _ if first == 0 => 0.0,
                Some(next) => {
                    let two = next.iter().map(|(second, p)| p * f64::from(10 * first + second)).sum::<f64>();
                    f64::from(first) * (1.0 - longer) + two
                }
                None => f64::from(10 * first) + 4.5,
            };
            mass += before * p;
            sum += before * p * value;
        }
        if written(position).is_some() || !is_number {
            break;
        }
        before *= position["logprob"].as_f64().expect("a number").exp();
    }
    (sum, mass)
}

/// With these examples, a small model replies with a digit.
fn rubrics() -> Vec<Rubric> {
    let examples = "Write only a number from 0 to 9.\nExample: 7\nExample: 3\nExample: 5\nRating:";
    let rating = format!("Question: {{question}}\nAnswer: {{answer}}\n\nRate the answer. {examples}");
    vec![
        Rubric::new("rating", rating).expect("a rubric"),
        Rubric::new("none", "{question} {answer} Write a poem about it.").expect("a rubric"),
    ]
}

const ANSWERS: [Answered<'_>; 3] = [
    Answered { question: "Is water wet?", answer: "Yes." },
    Answered { question: "Why is the sky blue?", answer: "Short waves of light are scattered more than long ones." },
    Answered { question: "Wie heißt du?", answer: "Das „weiß“ ich nicht 🙂" },
];

#[test]
fn a_real_server_gives_verdicts() {
    let Some(server) = Server::from_env("the HTTP judge on a real server") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let options = || HttpOptions {
        cache: Some(folder.path().join("cache.jsonl")),
        logprobs: Logprobs::Require,
        ..server.options()
    };
    let (rubrics, mut scored, mut abstained) = (rubrics(), 0, 0);
    let judge = HttpJudge::new(options()).expect("a judge");
    let forecast = judge.forecast(&rubrics, &ANSWERS);
    assert_eq!((forecast.requests, forecast.cached), (6, 0));
    let verdicts = judge.judge(&rubrics, &ANSWERS, &mut |_| ControlFlow::Continue(())).expect("verdicts");
    for (answered, row) in ANSWERS.iter().zip(&verdicts) {
        for (rubric, verdict) in rubrics.iter().zip(row) {
            let (sum, mass) = by_hand(&server.url, &rubric.fill(answered));
            println!("{} of {:?}: by hand {sum:.4} / {mass:.4}, {verdict:?}", rubric.name, answered.question);
            match verdict {
                Verdict::Scored(Score { value, evidence: Evidence::Digits { mass: found, .. } }) => {
                    assert!((value - sum / mass).abs() < 1e-2 && (found - mass).abs() < 1e-4);
                    scored += 1;
                }
                Verdict::Abstained(Abstention::NoMass { mass: found, .. }) => {
                    assert!((found - mass).abs() < 1e-4 && mass < 0.25);
                    abstained += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(scored >= 1 && abstained >= 1, "both kinds are to be compared: {scored} scored, {abstained} abstained");
    // The first token alone was requested once and was a digit; then there was one request per verdict.
    let report = judge.report();
    println!("{} requests, {}", report.requests, report.verdicts);
    assert_eq!((report.mode, report.requests), (Some(ScoreMode::Digits), 7));
    assert_eq!(report.verdicts.scored.get(&ScoreMode::Digits), Some(&scored));
    assert_eq!(report.verdicts.abstained.values().sum::<usize>(), abstained);
    // A rerun sends no request, even if the server is gone.
    let again = HttpJudge::new(options()).expect("a judge");
    let rerun = again.judge(&rubrics, &ANSWERS, &mut |_| ControlFlow::Continue(())).expect("verdicts");
    assert_eq!((&rerun, again.spent().requests), (&verdicts, 0));

    // The text alone, as from a server without probabilities.
    let judge = HttpJudge::new(HttpOptions { logprobs: Logprobs::Ignore, ..server.options() }).expect("a judge");
    let verdicts = judge.judge(&rubrics[..1], &ANSWERS, &mut |_| ControlFlow::Continue(())).expect("verdicts");
    for verdict in verdicts.iter().flatten() {
        println!("written: {verdict:?}");
        assert!(matches!(
            verdict,
            Verdict::Scored(Score { evidence: Evidence::Sampled, .. })
                | Verdict::Abstained(Abstention::NotANumber { .. })
        ));
    }

    // A prompt that the server rejects is an abstention with the server's message; the others have verdicts.
    let long = "word ".repeat(20_000);
    let some_too_long = [ANSWERS[0], Answered { question: "q", answer: &long }, ANSWERS[1]];
    let verdicts = again.judge(&rubrics[..1], &some_too_long, &mut |_| ControlFlow::Continue(())).expect("verdicts");
    println!("too long: {:?}", verdicts[1]);
    assert!(matches!(&verdicts[1][0], Verdict::Abstained(Abstention::Refused { status: 400, .. })), "{verdicts:?}");
    assert_eq!((&verdicts[0][0], &verdicts[2][0]), (&rerun[0][0], &rerun[1][0]));
    assert_eq!(again.spent().requests, 1, "the others are in the cache");

    // A model of this size cannot write a trait; the request and the fallback for an unknown schema are tested.
    let request = TraitRequest { repairs: 1, max_tokens: 48, ..TraitRequest::new("brevity", "Answers in few words.") };
    match write_trait(server.options(), &request) {
        Err(error @ Error::Http(HttpError::NoTrait { requests: 2, .. })) => println!("no trait: {error}"),
        other => panic!("{other:?}"),
    }
    // The forecast for real rubrics is close to the server's count, which determines the price.
    let evil = TraitSpec::builtin("evil").and_then(|spec| spec.rubric()).expect("a rubric");
    let rubrics = [evil, Rubric::coherence()];
    let judge = HttpJudge::new(HttpOptions { logprobs: Logprobs::Ignore, ..server.options() }).expect("a judge");
    let forecast = judge.forecast(&rubrics, &ANSWERS[..1]);
    let verdicts = judge.judge(&rubrics, &ANSWERS[..1], &mut |_| ControlFlow::Continue(())).expect("verdicts");
    let spent = judge.spent();
    println!("evil and coherence: {verdicts:?}, {forecast:?}, {spent:?}");
    assert_eq!((forecast.requests as u64, spent.requests), (2, 2));
    let ratio = forecast.prompt_tokens as f64 / spent.prompt_tokens as f64;
    assert!((0.75..1.33).contains(&ratio), "the forecast is {ratio} of what the server counted");
}
