//! What a judge's scores are worth for a trait: does it tell answers under eliciting system prompts from answers under
//! suppressing ones, and does it find ordinary answers coherent?
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::ops::ControlFlow;

use clap::Parser;
use comfy_table::Table;
use pv_examples::Result;
use pv_examples::judging::named_spec;
use pv_examples::sweeping::SubjectArgs;
use pv_hooks::NoHook;
use pv_judge::{Answered, Polarity, Rubric};
use pv_model::{GenerateOptions, Message, Request, Sampling};
use pv_vectors::roc_auc;

/// Judges answers to a trait's evaluation questions under its contrastive system prompts, and under none.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
}

fn main() -> Result {
    let args = Args::parse().subject;
    let model = args.model.load()?;
    let mut spec = named_spec(&args.model, &args.which)?;
    spec.evaluation.truncate(args.questions.unwrap_or(usize::MAX));
    let gone = tempfile::tempdir()?;
    let judge = args.judge.judge(&args.model, &model, args.out.as_deref().unwrap_or(gone.path()))?;
    let rubrics = [spec.rubric()?, Rubric::coherence()];
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: Sampling::temperature(args.temperature),
        batch_size: 32,
        ..GenerateOptions::default()
    };
    println!("{} on {}, judged by {}", spec.name, model.id().name, judge.name());

    let mut table = Table::new();
    table.set_header(["system prompt", "answers", "no score", "expression", "coherence"]);
    // The expression of all answers that have one, with and against the trait.
    let mut sides = [Vec::new(), Vec::new()];
    let mut aucs = Vec::new();
    let pairs = 0..spec.instruction.len();
    let both = pairs.flat_map(|pair| [(pair, Polarity::Pos), (pair, Polarity::Neg)]).map(Some);
    for which in both.chain([None]) {
        let system = which.and_then(|(pair, polarity)| spec.system_prompt(pair, polarity));
        let mut requests = Vec::with_capacity(spec.evaluation.len());
        for (i, question) in spec.evaluation.iter().enumerate() {
            let messages = system.iter().map(Message::system).chain([Message::user(question)]);
            requests.push(Request::new(model.prompt(&messages.collect::<Vec<_>>())?, args.seed + i as u64));
        }
        let answers = model.generate(&requests, &options, &mut NoHook, |_| ControlFlow::Continue(()))?;
        let answered = spec.evaluation.iter().zip(&answers);
        let answered: Vec<Answered<'_>> =
            answered.map(|(question, answer)| Answered { question, answer: &answer.text }).collect();
        let verdicts = judge.judge(&rubrics, &answered, &mut |_| ControlFlow::Continue(()))?;
        let scores = |rubric: usize| verdicts.iter().filter_map(|v| v[rubric].value()).collect::<Vec<f64>>();
        let (expression, coherence) = (scores(0), scores(1));
        let mean = |values: &[f64]| match values.len() {
            0 => "–".to_owned(),
            n => format!("{:.0}", values.iter().sum::<f64>() / n as f64),
        };
        let name = which.map_or_else(|| "none".to_owned(), |(pair, polarity)| format!("{pair} {polarity:?}"));
        let (total, none) = (verdicts.len().to_string(), (verdicts.len() - expression.len()).to_string());
        table.add_row([name, total, none, mean(&expression), mean(&coherence)]);
        match which {
            Some((_, Polarity::Pos)) => sides[0].push(expression),
            Some((_, Polarity::Neg)) => {
                aucs.push(sides[0].last().and_then(|pos| roc_auc(pos, &expression)));
                sides[1].push(expression);
            }
            None => {}
        }
    }
    println!("{table}");
    let number = |auc: Option<f64>| auc.map_or_else(|| "unknown".to_owned(), |auc| format!("{auc:.3}"));
    let [pos, neg] = sides.map(|side| side.concat());
    println!(
        "AUC of pos against neg: {} over {} and {} answers; pair by pair {}",
        number(roc_auc(&pos, &neg)),
        pos.len(),
        neg.len(),
        aucs.into_iter().map(number).collect::<Vec<_>>().join(", ")
    );
    Ok(())
}
