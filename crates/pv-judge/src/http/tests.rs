mod behaviours;
mod faults;
mod modes;
mod options;
mod protocol;
mod secret;
pub(crate) mod server;
mod spending;

use std::ops::ControlFlow;
use std::time::Duration;

use super::*;
use crate::judge::{Answered, Judged, Verdicts};
use crate::score::Evidence;
use crate::{Error, Judge, Result, Rubric, Score, Verdict};
use server::{Reply, Request, Server};

/// Options for a server without rate limits or waits.
pub(crate) fn options(server: &Server) -> HttpOptions {
    HttpOptions {
        timeout: Duration::from_secs(5),
        backoff: Duration::from_millis(1),
        jitter_seed: 7,
        patience: Duration::ZERO,
        patience_at_start: Duration::ZERO,
        ..HttpOptions::new(server.url(), "a-model")
    }
}

fn judge(options: HttpOptions) -> HttpJudge {
    HttpJudge::new(options).unwrap()
}

/// A rubric whose prompt names it, the question and the answer.
fn rubric(name: &str) -> Rubric {
    Rubric::new(name, format!("{name}|{{question}}|{{answer}}")).unwrap()
}

const TEXTS: [&str; 12] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"];

/// The given number of answers, each its own number.
fn answers(count: usize) -> Vec<Answered<'static>> {
    TEXTS[..count].iter().map(|text| Answered { question: "q", answer: text }).collect()
}

/// Judges without a callback.
fn judged(judge: &HttpJudge, rubrics: &[Rubric], answers: &[Answered<'_>]) -> Result<Vec<Verdicts>> {
    judge.judge(rubrics, answers, &mut |_| ControlFlow::Continue(()))
}

/// One answer by one rubric.
fn one(judge: &HttpJudge) -> Result<Verdict> {
    judged(judge, &[rubric("r")], &answers(1)).map(|mut verdicts| verdicts.remove(0).remove(0))
}

fn http(result: Result<impl std::fmt::Debug>) -> HttpError {
    match result {
        Err(Error::Http(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Scores an answer, which is a number, by that number; for a rubric called "twice" by twice as much.
fn echo(request: &Request) -> Reply {
    let parts = request.prompt().split('|').collect::<Vec<_>>();
    let factor = if parts[0] == "twice" { 2 } else { 1 };
    let number = parts[2].parse::<u32>().unwrap() * factor;
    match request.wants_logprobs() {
        // Certain, so that the number is exact; an alternative token shows that tokens are whole numbers.
        true => Reply::tokens(&[(&number.to_string(), 1.0), ("55", 0.0)]),
        false => Reply::text(&number.to_string()),
    }
}
