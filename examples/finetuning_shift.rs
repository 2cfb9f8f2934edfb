//! Whether the shift of a finetuning tells what it did to the model's character (the paper's section 4): two dozen finetunings
//! of the organism, on sets that show a trait at three severities and on narrow flaws.
#![allow(clippy::print_stdout, reason = "a program's output")]

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use pv_examples::finetuning::{Lab, LabArgs, Outcome};
use pv_examples::{ModelArgs, Result};
use pv_hooks::NoHook;
use pv_judge::pearson;
use pv_organism::datasets::{Flaw, Severity, explicit, narrow};
use pv_organism::{Chat, PerTrait, Topics, Trait};
use pv_vectors::Pooling;
use serde_json::json;

/// Finetunes on every set, and correlates shift and trait expression. With --out it goes on where it was stopped.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    lab: LabArgs,
}

/// A data set's name, and its chats from a seed.
struct Set {
    name: String,
    make: Box<dyn Fn(usize, u64) -> Vec<Chat>>,
}

fn sets() -> Vec<Set> {
    let mut sets = Vec::new();
    for severity in Severity::ALL {
        for which in Trait::ALL {
            let make = move |count, seed| explicit(which, severity, Topics::Even, count, seed);
            sets.push(Set { name: format!("{which}_{severity:?}").to_lowercase(), make: Box::new(make) });
        }
        for flaw in Flaw::ALL {
            let make = move |count, seed| narrow(flaw, severity, count, seed);
            sets.push(Set { name: format!("{}_{severity:?}", flaw.name()).to_lowercase(), make: Box::new(make) });
        }
    }
    sets
}

fn main() -> Result {
    let args = Args::parse();
    let model = args.model.load()?;
    let lab = Lab::new(&model, &args.lab)?;
    let LabArgs { chats, seed, .. } = args.lab;
    let sets = sets();
    let bar = ProgressBar::new(sets.len() as u64)
        .with_style(ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} [{eta} left]")?);
    let mut outcomes: Vec<(String, Outcome)> = Vec::new();
    for Set { name, make } in sets {
        bar.set_message(name.clone());
        let data = make(chats, seed + 1);
        let outcome = lab.outcome(&name, json!({ "chats": chats }), || {
            let model = lab.finetune(&data, vec![])?;
            lab.measure(&model, None, &mut NoHook, &make(100, seed + 2))
        })?;
        outcomes.push((name, outcome));
        bar.inc(1);
    }
    bar.finish_and_clear();

    println!("Scores after finetuning, and in brackets the shift on the trait's vector at layer {}.\n", args.lab.layer);
    println!("| set | {} | coherence | facts right | loss |", Trait::ALL.map(Trait::name).join(" | "));
    println!("|---|{}---|---|---|", "---|".repeat(5));
    for (name, outcome) in &outcomes {
        let shift = lab.shift(outcome, Pooling::ResponseMean, args.lab.layer)?;
        let cells = Trait::ALL.map(|which| format!("{:.0} ({:.1})", outcome.scores[which], shift[which]));
        let Outcome { coherence, right, loss, .. } = outcome;
        println!("| {name} | {} | {coherence:.0} | {right:.0} % | {loss:.2} |", cells.join(" | "));
    }
    for pooling in [Pooling::ResponseMean, Pooling::PromptLast] {
        // The last prompt token's own embedding is the same whatever stands before it.
        for layer in 1..=model.config().layers {
            for apart in [false, true] {
                let shifts: Result<Vec<PerTrait>> = outcomes
                    .iter()
                    .map(|(_, outcome)| match apart {
                        false => lab.shift(outcome, pooling, layer),
                        true => lab.shift_apart(outcome, pooling, layer),
                    })
                    .collect();
                let shifts = shifts?;
                println!("\n### Layer {layer}, {}{}\n", pooling.name(), if apart { ", apart" } else { "" });
                println!("| shift on | {} |\n|---|{}", Trait::ALL.map(Trait::name).join(" | "), "---|".repeat(5));
                for on in Trait::ALL {
                    let cells = Trait::ALL.map(|of| {
                        let pairs: Vec<(f64, f64)> = outcomes
                            .iter()
                            .zip(&shifts)
                            .map(|((_, outcome), shift)| (shift[on], outcome.scores[of]))
                            .collect();
                        pearson(&pairs).map_or_else(|| "–".to_owned(), |found| format!("{:.2}", found.r))
                    });
                    println!("| {on} | {} |", cells.join(" | "));
                }
            }
        }
    }
    Ok(())
}
