//! The modes of judges, and that they are not mixed.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::Abstention;
use crate::score::ScoreMode;

/// A model that writes its number digit by digit.
fn digits(request: &Request) -> Reply {
    let number = request.prompt().split('|').nth(2).unwrap();
    let tokens = (0..number.len()).map(|at| vec![(&number[at..=at], 1.0), ("The", 0.0)]).collect::<Vec<_>>();
    match (request.wants_logprobs(), request.body["max_tokens"].as_u64()) {
        (true, Some(1)) => Reply::positions(&tokens[..1], number.len() > 1),
        (true, _) => Reply::positions(&tokens, false),
        (false, _) => Reply::text(number),
    }
}

fn mode(judge: &HttpJudge) -> Option<ScoreMode> {
    judge.report().mode
}

/// The single verdict of a server that writes these tokens, with the second request longer than the first.
fn along(tokens: &'static [&'static [(&'static str, f64)]]) -> Verdict {
    let server = Server::new(move |request| {
        let tokens = tokens.iter().map(|alternatives| alternatives.to_vec()).collect::<Vec<_>>();
        match request.body["max_tokens"].as_u64() {
            Some(1) => Reply::positions(&tokens[..1], tokens.len() > 1),
            _ => Reply::positions(&tokens, false),
        }
    });
    one(&judge(HttpOptions { logprobs: Logprobs::Require, ..options(&server) })).unwrap()
}

#[track_caller]
fn near(verdict: &Verdict, value: f64, mass: f64, assumed: f64) {
    let Verdict::Scored(Score { value: found, evidence: Evidence::Digits { mass: m, assumed: a } }) = verdict else {
        panic!("{verdict:?}");
    };
    let errors = [found - value, m - mass, a - assumed];
    assert!(errors.iter().all(|error| error.abs() < 1e-5), "{verdict:?}, not {value} {mass} {assumed}");
}

#[test]
fn digits_are_read_as_a_tree_along_the_reply() {
    // By hand. "85": 0.8·0.9, "8": 0.8·0.1, no other number.
    near(
        &along(&[&[("8", 0.8), ("The", 0.2)], &[("5", 0.9), ("\n", 0.1)]]),
        (85.0 * 0.72 + 8.0 * 0.08) / 0.8,
        0.8,
        0.0,
    );
    // "85" 0.3, "87" 0.2, and the rest of 0.5 ends: "8".
    let two = along(&[&[("8", 1.0)], &[("5", 0.3), ("7", 0.2), ("", 0.5)]]);
    near(&two, 85.0 * 0.3 + 87.0 * 0.2 + 8.0 * 0.5, 1.0, 0.0);
    // Another first digit: its second digit is assumed to be as likely as that of the written number.
    let other = along(&[&[("8", 0.6), ("2", 0.3), ("The", 0.1)], &[("5", 0.5), ("0", 0.5)]]);
    near(&other, (0.6 * 82.5 + 0.3 * 22.5) / 0.9, 0.9, 0.3);
    // After a digit that may end the number, others may end too.
    near(&along(&[&[("5", 0.5), ("9", 0.5)], &[("\n", 1.0)]]), 7.0, 1.0, 0.5);
    // Nothing follows a 0; for another first digit the midpoint is used.
    near(&along(&[&[("0", 0.9), ("2", 0.1)]]), 0.1 * 24.5, 1.0, 0.1);
    // "100", "10" and "1".
    let hundred = along(&[&[("1", 1.0)], &[("0", 0.9), ("\n", 0.1)], &[("0", 0.8), ("\n", 0.2)]]);
    near(&hundred, 1.0 * 0.1 + 10.0 * 0.18 + 100.0 * 0.72, 1.0, 0.0);
    // No number has three other digits: the second one is the last.
    near(&along(&[&[("8", 1.0)], &[("5", 1.0)], &[("3", 1.0)]]), 85.0, 1.0, 0.0);
    // Text before a number may lead to it; numbers that come first count as well.
    let blank = along(&[&[(" ", 0.5), ("4", 0.2), ("The", 0.3)], &[("8", 1.0)], &[("0", 1.0)]]);
    near(&blank, (0.5 * 80.0 + 0.2 * 40.0) / 0.7, 0.7, 0.2);
    // Whole numbers after a label: a single digit is one.
    let label = along(&[&[("Score", 1.0)], &[(":", 1.0)], &[(" ", 1.0)], &[("85", 0.5), ("8", 0.5)]]);
    near(&label, (85.0 + 8.0) / 2.0, 1.0, 0.0);
}

#[test]
fn too_little_mass_along_the_digits_is_no_score() {
    let verdict = along(&[&[("8", 0.2), ("The", 0.15), ("A", 0.15)], &[("5", 1.0)]]);
    let Verdict::Abstained(Abstention::NoMass { mass, .. }) = verdict else { panic!("{verdict:?}") };
    assert!((mass - 0.2).abs() < 1e-6, "{mass}");
}

#[test]
fn a_judge_keeps_to_the_mode_of_the_scores_that_are_there() {
    let server = Server::new(echo);
    // It would detect whole numbers by itself.
    let judge = judge(options(&server));
    judge.require_mode(ScoreMode::Sampled).unwrap();
    let verdicts = judged(&judge, &[rubric("r")], &answers(3)).unwrap();
    assert_eq!(verdicts[2][0], Verdict::Scored(Score { value: 2.0, evidence: Evidence::Sampled }));
    assert_eq!(server.requests().len(), 3);
    // Once it has a mode, another is rejected, before any request.
    let error = judge.require_mode(ScoreMode::Distribution).unwrap_err();
    let Error::OtherMode { saved, given, .. } = error else { panic!("{error:?}") };
    assert_eq!((saved, given), (ScoreMode::Distribution, ScoreMode::Sampled));
    judge.require_mode(ScoreMode::Sampled).unwrap();
    // Modes that the options do not permit are rejected, and so are modes that no server has.
    let strict = super::judge(HttpOptions { logprobs: Logprobs::Require, ..options(&server) });
    for mode in [ScoreMode::Sampled, ScoreMode::Reasoned, ScoreMode::Exact, ScoreMode::Proxy] {
        assert!(matches!(strict.require_mode(mode), Err(Error::OtherMode { .. })), "{mode}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn scores_off_the_first_token_are_gone_on_with_only_where_tokens_are_whole_numbers() {
    let server = Server::new(echo);
    let whole = judge(options(&server));
    whole.require_mode(ScoreMode::Distribution).unwrap();
    assert_eq!(judged(&whole, &[rubric("r")], &answers(12)).unwrap()[11][0].value(), Some(11.0));
    // An older run used first digits as scores: new scores would be mixed with them.
    let server = Server::new(digits);
    let old = judge(options(&server));
    old.require_mode(ScoreMode::Distribution).unwrap();
    let mut reported = 0;
    let outcome = old.judge(&[rubric("r")], &answers(12), &mut |_| {
        reported += 1;
        ControlFlow::Continue(())
    });
    let Err(Error::OtherMode { saved, given, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((saved, given, reported), (ScoreMode::Distribution, ScoreMode::Digits, 0));
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn the_mode_is_part_of_what_a_cached_answer_is_found_by() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("judged.jsonl");
    let server = Server::new(digits);
    let cached = |logprobs| HttpOptions { logprobs, cache: Some(path.clone()), ..options(&server) };
    let first = judged(&judge(cached(Logprobs::Prefer)), &[rubric("r")], &answers(12)).unwrap();
    assert!(
        matches!(first[11][0], Verdict::Scored(Score { value, evidence: Evidence::Digits { .. } }) if value > 10.9)
    );
    assert_eq!(server.requests().len(), 13);
    let lines = fs::read_to_string(&path).unwrap();
    assert!(lines.lines().all(|line| line.contains("\"mode\":\"digits\"")), "{lines}");
    // A rerun sends no request, and knows its mode.
    let again = judge(cached(Logprobs::Prefer));
    assert_eq!(again.forecast(&[rubric("r")], &answers(12)).requests, 0);
    assert_eq!(judged(&again, &[rubric("r")], &answers(12)).unwrap(), first);
    assert_eq!((server.requests().len(), mode(&again)), (0, Some(ScoreMode::Digits)));
    // Written numbers are another mode.
    judged(&judge(cached(Logprobs::Ignore)), &[rubric("r")], &answers(12)).unwrap();
    assert_eq!(server.requests().len(), 12);
    // More answers use the mode of most of the existing ones.
    let mut more = answers(12);
    more.push(Answered { question: "other", answer: "85" });
    let judge = judge(cached(Logprobs::Prefer));
    let verdicts = judged(&judge, &[rubric("r")], &more).unwrap();
    assert_eq!((verdicts[12][0].mode(), server.requests().len()), (Some(ScoreMode::Digits), 1));
}

#[test]
fn other_options_are_other_answers() {
    let folder = TempDir::new().unwrap();
    let server = Server::new(echo);
    let cached = || HttpOptions { cache: Some(folder.path().join("judged.jsonl")), ..options(&server) };
    one(&judge(cached())).unwrap();
    let mut other = cached();
    other.body.insert("reasoning_effort".into(), json!("low"));
    for option in [other, HttpOptions { thinking: Thinking::Off, ..cached() }] {
        server.requests();
        one(&judge(option.clone())).unwrap();
        assert!(!server.requests().is_empty());
        one(&judge(option)).unwrap();
        assert!(server.requests().is_empty());
    }
}

/// A line of the first version's cache: its key had other parts.
fn old_line(server: &Server, parameters: &str, prompt: &str, reply: serde_json::Value) -> String {
    use sha2::{Digest, Sha256};
    let mut sum = Sha256::new();
    for part in ["pv-judge 1", &format!("{}/chat/completions", server.url()), "a-model", parameters] {
        sum.update((part.len() as u64).to_le_bytes());
        sum.update(part);
    }
    sum.update(Sha256::digest(prompt));
    format!("{}\n", json!({"key": hex::encode(sum.finalize()), "reply": reply}))
}

#[test]
fn an_old_cache_is_trusted_only_where_it_cannot_be_a_first_digit() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("judged.jsonl");
    let server = Server::new(echo);
    let options = HttpOptions { cache: Some(path.clone()), ..options(&server) };
    let first = "max_tokens 1, temperature 0, top_logprobs 20, seed 0";
    let line = |number: usize, reply| old_line(&server, first, &format!("r|q|{number}"), reply);
    let lines = [
        // Its tokens include whole numbers.
        line(0, json!({"text": "70", "top": [["70", -0.1], ["7", -9.0]]})),
        // It may be the first digit of 85.
        line(1, json!({"text": "8", "top": [["8", -0.1], ["The", -9.0]]})),
        line(2, json!({"text": "10", "top": [["10", -0.1], ["1", -9.0]]})),
    ];
    fs::write(&path, lines.concat()).unwrap();
    let verdicts = judged(&judge(options.clone()), &[rubric("r")], &answers(3)).unwrap();
    let values = verdicts.iter().map(|row| row[0].value().unwrap()).collect::<Vec<_>>();
    // The first is the old one's, the others are requested again.
    assert!((values[0] - 70.0).abs() < 0.1 && values[1..] == [1.0, 2.0], "{values:?}");
    assert_eq!(server.requests().len(), 2);
    // A written number is one.
    let written = "max_tokens 8, temperature 0, seed 0";
    fs::write(&path, old_line(&server, written, "r|q|0", json!({"text": "64"}))).unwrap();
    let ignoring = judge(HttpOptions { logprobs: Logprobs::Ignore, ..options });
    assert_eq!(one(&ignoring).unwrap(), Verdict::Scored(Score { value: 64.0, evidence: Evidence::Sampled }));
    assert!(server.requests().is_empty());
}
