//! Correlation of finetuning shift and trait expression (the paper's section 4): two dozen finetunings
//! of the organism, on sets that show a trait at three severities and on narrow flaws.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::process::ExitCode;

use clap::Parser;
use pv_examples::finetuning::{Lab, LabArgs, Outcome, Set};
use pv_examples::{Bar, ModelArgs, Result, run};
use pv_hooks::NoHook;
use pv_organism::{PerTrait, Trait};
use pv_statistics::correlation::pearson;
use pv_vectors::vector::Pooling;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Finetunes on every set, and correlates shift and trait expression. After an interruption, the same command resumes.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    lab: LabArgs,
    /// The layer at which shifts are measured; the last by default.
    #[arg(long)]
    shift_layer: Option<usize>,
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let model = args.model.load()?;
    let folder = args.lab.out.open("finetuning_shift", &[&args.model.title()])?;
    let lab = Lab::new(&model, &args.lab, folder)?;
    let LabArgs { chats, seed, .. } = args.lab;
    let sets = Set::all();
    let (bar, total) = (Bar::new("finetuning"), sets.len());
    let mut outcomes: Vec<(String, Outcome)> = Vec::new();
    for Set { name, make } in sets {
        bar.set(name.as_str(), outcomes.len(), total);
        let data = make(chats, seed + 1);
        let outcome = lab.outcome(&name, json!({ "chats": chats }), || {
            let model = lab.finetune(&data, vec![])?;
            lab.measure(&model, None, &mut NoHook, &make(100, seed + 2))
        })?;
        outcomes.push((name, outcome));
    }
    drop(bar);

    let report = Report { lab: &lab, outcomes: &outcomes };
    let layer = args.shift_layer.unwrap_or(model.config().layers);
    println!(
        "Scores after finetuning, and in brackets the part along the trait's vector in the shift at layer {layer}.\n"
    );
    println!("| set | {} | coherence | facts correct | loss |", Trait::ALL.map(Trait::name).join(" | "));
    println!("|---|{}---|---|---|", "---|".repeat(5));
    for (name, outcome) in &outcomes {
        let parts = lab.shift_apart(outcome, Pooling::PromptLast, layer)?;
        let cells = Trait::ALL.map(|which| format!("{:.0} ({:.2})", outcome.scores[which], parts[which]));
        let Outcome { coherence, right, loss, .. } = outcome;
        println!("| {name} | {} | {coherence:.0} | {right:.0} % | {loss:.2} |", cells.join(" | "));
    }
    println!("\nr over {} sets between a row's shift and a column's score, at layer {layer}.", outcomes.len());
    for reading in Reading::ALL {
        println!("\n### {}\n\n| shift on | {} |", reading.title(), Trait::ALL.map(Trait::name).join(" | "));
        println!("|---|{}", "---|".repeat(5));
        for (on, row) in Trait::ALL.into_iter().zip(report.correlations(reading, layer)?) {
            println!("| {on} | {} |", row.map(|r| format!("{r:.2}")).join(" | "));
        }
    }
    println!("\n### The lowest r with the same trait and the highest with another trait, by layer\n");
    println!(
        "| layer | {} |\n|---|{}",
        Reading::ALL.map(Reading::title).join(" | "),
        "---|".repeat(Reading::ALL.len())
    );
    for layer in 1..=model.config().layers {
        let cells = Reading::ALL.map(|reading| {
            let rows = report.correlations(reading, layer)?;
            let own = (0..5).map(|i| rows[i][i]).fold(f64::INFINITY, f64::min);
            let others = (0..25).filter(|i| i / 5 != i % 5).map(|i| rows[i / 5][i % 5]);
            Ok(format!("{own:.2}, {:.2}", others.fold(f64::NEG_INFINITY, f64::max)))
        });
        println!("| {layer} | {} |", cells.into_iter().collect::<Result<Vec<_>>>()?.join(" | "));
    }
    Ok(())
}

/// A measure of the shift.
#[derive(Clone, Copy)]
enum Reading {
    /// The projection on the vector of response means, as in the paper.
    Projection,
    /// The projection on the vector of the prompts' last tokens.
    PromptLast,
    /// The part along that vector after decomposition into all traits' vectors.
    Apart,
}

impl Reading {
    const ALL: [Self; 3] = [Self::Projection, Self::PromptLast, Self::Apart];

    fn title(self) -> &'static str {
        match self {
            Self::Projection => "Projection on the response vector",
            Self::PromptLast => "Projection on the prompt-last vector",
            Self::Apart => "Part along the prompt-last vector, decomposed",
        }
    }
}

struct Report<'a> {
    lab: &'a Lab<'a>,
    outcomes: &'a [(String, Outcome)],
}

impl Report<'_> {
    /// r of the shift on each trait (rows) with the score of each (columns).
    fn correlations(&self, reading: Reading, layer: usize) -> Result<Vec<[f64; 5]>> {
        let shift = |(_, outcome): &(String, Outcome)| match reading {
            Reading::Projection => self.lab.shift(outcome, Pooling::ResponseMean, layer),
            Reading::PromptLast => self.lab.shift(outcome, Pooling::PromptLast, layer),
            Reading::Apart => self.lab.shift_apart(outcome, Pooling::PromptLast, layer),
        };
        let shifts: Vec<PerTrait> = self.outcomes.iter().map(shift).collect::<Result<_>>()?;
        let row = |on: Trait| {
            Trait::ALL.map(|of| {
                let pairs =
                    self.outcomes.iter().zip(&shifts).map(|((_, outcome), shift)| (shift[on], outcome.scores[of]));
                pearson(&pairs.collect::<Vec<_>>()).map_or(f64::NAN, |found| found.r)
            })
        };
        Ok(Trait::ALL.map(row).to_vec())
    }
}
