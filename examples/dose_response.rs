//! How a trait answers to the strength of steering at one layer, with intervals over questions.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::process::ExitCode;

use clap::Parser;
use comfy_table::{ContentArrangement, Table};
use pv_examples::sweeping::{SweepArgs, shown};
use pv_examples::{Result, default_layer, run};
use pv_hooks::Layer;
use pv_steer::{SweepOptions, SweepResults};

/// Steers at one layer with rising strength, and measures the trait and the coherence of the answers.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    /// The layer, counted as in Hugging Face's hidden_states; the middle one by default, 7 for the organism.
    #[arg(long)]
    layer: Option<usize>,
    /// The strengths, in residual norms; below 0 they suppress the trait.
    #[arg(
        long,
        value_delimiter = ',',
        allow_hyphen_values = true,
        default_value = "0,0.1,0.2,0.3,0.35,0.4,0.45,0.5,0.55,0.6"
    )]
    strengths: Vec<f32>,
    /// Answers to each question at each strength.
    #[arg(long, default_value_t = 3)]
    per_question: usize,
    /// A system prompt for all answers, such as one that elicits the trait that is to be suppressed.
    #[arg(long)]
    system: Option<String>,
    /// Show the first answer to this many questions at every strength.
    #[arg(long, default_value_t = 1)]
    texts: usize,
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let spec = args.sweep.subject.spec()?;
    let model = args.sweep.subject.model.load()?;
    let folder = args.sweep.subject.folder("dose_response", &spec)?;
    let subject = args.sweep.subject.subject(&model, spec, &folder)?;
    let layer = args.layer.map_or_else(|| default_layer(&args.sweep.subject.model, &model), Layer::hidden_state);
    let options = SweepOptions {
        layers: layer.into(),
        strengths: args.strengths.clone(),
        per_question: args.per_question,
        system: args.system.clone(),
        ..args.sweep.options()?
    };
    let results = args.sweep.run(&model, &subject, &folder, &options)?;
    let found = results.dose_response(layer)?;
    println!("{} on {} at {layer}, judged by {}", found.plan.trait_name, found.model.name, found.judge);
    let mut table = Table::new();
    let unit = format!("strength ({})", found.plan.unit.name());
    table.set_header([&unit, "on the raw vector", "expression (95 %)", "coherence (95 %)", "answers", "no score"]);
    for dose in &found.doses {
        table.add_row([
            dose.strength.to_string(),
            format!("{:.2}", dose.raw),
            shown(&dose.expression),
            shown(&dose.coherence),
            dose.expression.scored.to_string(),
            dose.expression.abstained.to_string(),
        ]);
    }
    println!("{table}");
    let number = |rho: Option<f64>| rho.map_or_else(|| "unknown".to_owned(), |rho| format!("{rho:.3}"));
    println!(
        "Spearman's ρ of strength and expression: {} over the strengths, {} over the answers",
        number(found.rho),
        number(found.rho_answers)
    );
    match found.monotone {
        true => println!("the expression rises with every step or stays"),
        false => println!("the expression falls below an earlier one by {:.0} points at most", found.greatest_fall),
    }
    show_texts(&results, layer, args.texts);
    let paths = ["dose_response.json", "dose_response.csv"].map(|name| folder.join(name));
    found.save_json(&paths[0])?;
    found.save_csv(&paths[1])?;
    println!("saved {} and {}", paths[0].display(), paths[1].display());
    Ok(())
}

/// The first answer to each of some questions, at every strength.
fn show_texts(results: &SweepResults, layer: Layer, questions: usize) {
    let number = |score: Option<f64>| score.map_or_else(|| "no score".to_owned(), |score| format!("{score:.0}"));
    for (question, text) in results.plan.questions.iter().enumerate().take(questions) {
        let mut table = Table::new();
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if !table.is_tty() {
            table.set_width(150);
        }
        table.set_header(["strength", "answer", "expression", "coherence"]);
        for cell in results.cells_at(layer) {
            let Some(answer) = cell.scores.iter().find(|s| s.question == question && s.rollout == 0) else { continue };
            let scores = [answer.expression, answer.coherence].map(number);
            table.add_row([&cell.strength.to_string(), answer.text.trim(), &scores[0], &scores[1]]);
        }
        println!("\n{text}\n{table}");
    }
}
