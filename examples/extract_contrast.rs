//! Extracts a trait's vector from contrastive system prompts and saves it, with where it comes from, as safetensors.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use pv_examples::folder::{file_name, make};
use pv_examples::{ModelArgs, RenderArgs, Result, TraitArgs, extract, run};
use pv_hooks::LayerSet;

/// Extracts a trait's vector: answers under eliciting minus answers under suppressing instructions.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    render: RenderArgs,
    #[command(flatten)]
    contrast: TraitArgs,
    /// Where the vector goes; models/TRAIT.safetensors by default.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 48)]
    max_new_tokens: usize,
    /// The seed of the first answer.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let contrast = args.contrast.read(&args.model)?.contrast(&args.render.options()?);
    let model = args.model.load()?;
    // What is extracted must have a place to go to.
    let out = args.out.unwrap_or_else(|| format!("models/{}.safetensors", file_name(&[&contrast.name])).into());
    make(out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    let extraction = extract(&model, &contrast, args.max_new_tokens, args.seed)?;
    for answer in extraction.answers.iter().take(2) {
        let side = if answer.eliciting { "eliciting" } else { "suppressing" };
        println!("{} ({side}): {}\n", contrast.questions[answer.question], answer.generation.text.trim());
    }
    let vector = extraction.vector;
    println!("{:<24} {:>10} {:>16}", "layer", "‖v‖", "‖v‖ / residual");
    for layer in LayerSet::All.resolve(model.config().layers) {
        // Before the first block, answers of equal tokens may differ by nothing.
        let Ok(direction) = vector.direction(layer) else { continue };
        let share = direction.mean_residual_norm.map_or(f64::NAN, |norm| direction.norm() / f64::from(norm));
        println!("{:<24} {:>10.2} {share:>16.3}", layer.to_string(), direction.norm());
    }
    vector.save(&out)?;
    println!("saved {}", out.display());
    Ok(())
}
