//! The HTTP judge against a real server, llama.cpp's with SmolLM2-135M-Instruct; see [`server`].

mod extraction;
mod server;

use std::ops::ControlFlow;

use pv_judge::{
    Abstention, Answered, Error, Evidence, HttpError, HttpJudge, HttpOptions, Judge, Logprobs, Rubric, Score,
    TraitSpec, TraitWish, Verdict, write_trait,
};
use serde_json::json;

use server::{Server, request};

/// Σ k·p(k), Σ p(k) over the numbers of the first token, from a request by hand.
fn by_hand(url: &str, prompt: &str) -> (f64, f64) {
    let body = json!({"model": "smollm2", "messages": [{"role": "user", "content": prompt}], "max_tokens": 1,
        "temperature": 0, "logprobs": true, "top_logprobs": 20, "seed": 0});
    let (status, answer) = request(url, "POST", "/chat/completions", &body.to_string()).expect("an answer");
    assert_eq!(status, 200, "{answer}");
    let top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"].as_array().expect("log-probabilities");
    assert_eq!(top.len(), 20);
    top.iter().fold((0.0, 0.0), |(sum, mass), rival| {
        let p = rival["logprob"].as_f64().expect("a number").exp();
        match rival["token"].as_str().expect("a token").trim().parse::<u8>() {
            Ok(k) if k <= 100 => (sum + f64::from(k) * p, mass + p),
            _ => (sum, mass),
        }
    })
}

/// The examples bring a small model to answer with a digit.
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
fn a_real_server_judges() {
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
                Verdict::Scored(Score { value, evidence: Evidence::Distribution { mass: found } }) => {
                    assert!((value - sum / mass).abs() < 1e-3 && (found - mass).abs() < 1e-4);
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
    // A rerun asks nothing, wherever the server has gone.
    let again = HttpJudge::new(options()).expect("a judge");
    let rerun = again.judge(&rubrics, &ANSWERS, &mut |_| ControlFlow::Continue(())).expect("verdicts");
    assert_eq!((rerun, again.spent().requests), (verdicts, 0));

    // The text alone, as of a server without probabilities.
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

    // What the server cannot take is told in its words, at once.
    let long = "word ".repeat(20_000);
    let too_long = [Answered { question: "q", answer: &long }];
    let error = judge.judge(&rubrics[..1], &too_long, &mut |_| ControlFlow::Continue(())).expect_err("too long");
    println!("too long: {error}");
    assert!(matches!(error, Error::Http(HttpError::Refused { status: 400, .. })), "{error:?}");

    // So small a model writes no trait, but the way to it is there, and so is the way around an unknown schema.
    let wish = TraitWish { repairs: 1, max_tokens: 48, ..TraitWish::new("brevity", "Answers in few words.") };
    match write_trait(server.options(), &wish) {
        Err(error @ Error::Http(HttpError::NoTrait { requests: 2, .. })) => println!("no trait: {error}"),
        other => panic!("{other:?}"),
    }
    // The forecast of real rubrics is near what the server counts, which prices go by.
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
