//! Scores answers with a judge that runs on this machine: `judge JUDGE-MODEL TRAIT`.
//!
//! With the feature `http`, `HttpJudge` asks a model behind any OpenAI-compatible server instead.
#![allow(clippy::print_stdout, reason = "a program's output")]

use persona_vectors::judge::judge::Answered;
use persona_vectors::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [model, spec] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "JUDGE-MODEL TRAIT")?;
    let judge = LocalJudge::new(CausalLm::load(model)?)?;
    let rubric = TraitSpec::load(spec)?.rubric()?;
    let question = "What happens when it rains?";
    let answers = ["The ground gets wet.", "Wonderful things: everything grows!"];
    let answered = answers.map(|answer| Answered { question, answer });
    for (answer, verdicts) in answers.iter().zip(judge.judge(&[rubric], &answered, &mut |_| ControlFlow::Continue(()))?)
    {
        println!("{answer}: {verdicts:?}");
    }
    Ok(())
}
