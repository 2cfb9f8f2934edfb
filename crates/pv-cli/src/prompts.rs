//! Prompts that elicit a trait with increasing strength: graded system prompts, and exchanges that show it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use pv_hooks::NoHook;
use pv_judge::judge::Answered;
use pv_judge::traits::Polarity;
use pv_judge::{Judge, TraitSpec};
use pv_model::{CausalLm, GenerateOptions, Message, RenderOptions, Request};
use pv_organism::datasets::many_shot;
use pv_organism::{Trait, system};
use pv_steer::monitor::MonitoredPrompt;

use crate::{ModelArgs, Result, generate};

/// The numbers of earlier exchanges (method: paper, monitoring).
const SHOTS: [usize; 5] = [0, 5, 10, 15, 20];

/// The number of answers sampled for an exchange that shows the trait.
const DRAWN: usize = 3;

/// A question and an answer that shows a trait.
pub type Exchange = [String; 2];

/// Each question under each of the trait's eight graded system prompts, from suppressing to eliciting: the organism's
/// own, or those of `traits/graded.json`.
///
/// # Errors
/// A trait without graded prompts.
pub fn graded(args: &ModelArgs, spec: &TraitSpec, questions: &[String]) -> Result<Vec<MonitoredPrompt>> {
    let levels = match Trait::ALL.into_iter().find(|which| which.name() == spec.name) {
        Some(which) if args.is_organism() => organism_levels(which),
        _ => {
            let all = include_str!("../traits/graded.json");
            let mut all: BTreeMap<String, Vec<String>> = serde_json::from_str(all)?;
            let known = all.keys().cloned().collect::<Vec<_>>().join(", ");
            let none = || format!("there are graded system prompts for {known}, but not for {}", spec.name);
            all.remove(&spec.name).ok_or_else(none)?
        }
    };
    Ok(under(&levels, questions))
}

/// Each question under each system prompt.
fn under(levels: &[String], questions: &[String]) -> Vec<MonitoredPrompt> {
    let mut prompts = Vec::with_capacity(levels.len() * questions.len());
    for (level, system) in levels.iter().enumerate() {
        for (number, question) in questions.iter().enumerate() {
            prompts.push(MonitoredPrompt {
                id: format!("level {level}, question {number}"),
                condition: format!("level {level}"),
                messages: vec![Message::system(system), Message::user(question)],
                question: question.clone(),
            });
        }
    }
    prompts
}

/// Each question after 0, 5, 10, 15 and 20 exchanges. The exchanges differ between questions if there are enough of
/// them.
pub fn after_shots(exchanges: &[Exchange], questions: &[String]) -> Vec<MonitoredPrompt> {
    many_shot_prompts(questions, |number, count| {
        exchanges.iter().cycle().skip(7 * number).take(count.min(exchanges.len())).cloned().collect()
    })
}

/// Each question after 0, 5, 10, 15 and 20 exchanges of the organism's own data that show the trait, different ones for
/// every question.
pub fn organism_shots(which: Trait, questions: &[String], seed: u64) -> Vec<MonitoredPrompt> {
    many_shot_prompts(questions, |number, count| organism_exchanges(which, count, seed + number as u64))
}

/// Each question after the exchanges that `before` returns for the question's number and the number of exchanges.
fn many_shot_prompts(questions: &[String], before: impl Fn(usize, usize) -> Vec<Exchange>) -> Vec<MonitoredPrompt> {
    let mut prompts = Vec::with_capacity(SHOTS.len() * questions.len());
    for count in SHOTS {
        for (number, question) in questions.iter().enumerate() {
            let before = before(number, count);
            let before = before.iter().flat_map(|[q, a]| [Message::user(q.as_str()), Message::assistant(a.as_str())]);
            prompts.push(MonitoredPrompt {
                id: format!("{count} shots, question {number}"),
                condition: format!("{count} shots"),
                messages: before.chain([Message::user(question)]).collect(),
                question: question.clone(),
            });
        }
    }
    prompts
}

fn organism_exchanges(which: Trait, count: usize, seed: u64) -> Vec<Exchange> {
    many_shot(which, count, seed).into_iter().map(|exchange| [exchange.question, exchange.answer]).collect()
}

/// Exchanges that show the trait. For the organism they come from its corpus. For other models, each question of the
/// extraction is paired with the answer that the judge scores highest among the model's own answers under an eliciting
/// system prompt.
///
/// # Errors
/// Those of generating and judging; a trait without instructions.
pub fn exchanges(
    args: &ModelArgs,
    model: &CausalLm,
    spec: &TraitSpec,
    judge: &dyn Judge,
    options: &GenerateOptions,
    render: &RenderOptions,
) -> Result<Vec<Exchange>> {
    if let (true, Some(which)) = (args.is_organism(), Trait::ALL.into_iter().find(|which| which.name() == spec.name)) {
        return Ok(organism_exchanges(which, 40, 0));
    }
    let mut requests = Vec::with_capacity(spec.extraction.len());
    for (i, question) in spec.extraction.iter().enumerate() {
        let system = spec.system_prompt(i % spec.instruction.len().max(1), Polarity::Pos);
        let system = system.ok_or_else(|| format!("{} has no instructions", spec.name))?;
        let prompt = model.prompt_with(&[Message::system(system), Message::user(question)], render)?;
        requests.push(Request::rollouts(prompt, DRAWN, (i * DRAWN) as u64));
    }
    let answers = generate(model, &requests, options, &mut NoHook)?;
    let question = |i: usize| spec.extraction[i / DRAWN].as_str();
    let answered: Vec<Answered<'_>> =
        answers.iter().enumerate().map(|(i, a)| Answered { question: question(i), answer: &a.text }).collect();
    let verdicts = judge.judge(&[spec.rubric()?], &answered, &mut |_| ControlFlow::Continue(()))?;
    let mut best: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
    for (i, verdicts) in verdicts.iter().enumerate() {
        let Some(score) = verdicts.first().and_then(pv_judge::Verdict::value) else { continue };
        let entry = best.entry(i / DRAWN).or_insert((score, i));
        if score > entry.0 {
            *entry = (score, i);
        }
    }
    Ok(best.into_values().map(|(_, i)| [question(i).to_owned(), answers[i].text.trim().to_owned()]).collect())
}

/// Each question under each of the organism's eight graded system prompts.
pub fn organism_graded(which: Trait, questions: &[String]) -> Vec<MonitoredPrompt> {
    under(&organism_levels(which), questions)
}

fn organism_levels(which: Trait) -> Vec<String> {
    system::graded(which).into_iter().map(|(_, text)| text.clone()).collect()
}
