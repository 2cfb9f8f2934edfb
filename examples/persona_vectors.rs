//! From a trait to its persona vector: rollouts under contrastive system prompts, a judge, a filter, the means, and how
//! far the result can be trusted. A run that was broken off goes on.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use comfy_table::{ContentArrangement, Table};
use pv_examples::judging::JudgeArgs;
use pv_examples::separation::Separation;
use pv_examples::traits::named_spec;
use pv_examples::{Bar, ModelArgs, OutArgs, RenderArgs, Result, run};
use pv_hooks::LayerSet;
use pv_judge::{Judge, TraitSpec};
use pv_model::{CausalLm, Sampling};
use pv_organism::Trait;
use pv_vectors::{
    ExtractOptions, Filter, FilterRule, Pooling, ResampledUnit, RolloutOptions, StabilityOptions, TraitExtraction,
    extract, stability,
};

/// Extracts persona vectors, one folder per trait.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    render: RenderArgs,
    /// A trait: a JSON file, or a name that is built in (evil, sycophancy, hallucination, optimism, humor, impoliteness,
    /// apathy; of these the organism has five of its own). May be given several times; all of the organism's by default, else evil.
    #[arg(long = "trait")]
    traits: Vec<String>,
    #[command(flatten)]
    judge: JudgeArgs,
    #[command(flatten)]
    out: OutArgs,
    /// Answers per question and instruction; 10 in the paper.
    #[arg(long, default_value_t = 1)]
    per_prompt: usize,
    /// The most tokens of an answer; 1000 in the paper.
    #[arg(long, default_value_t = 80)]
    max_new_tokens: usize,
    /// The sampling temperature; 1 in the paper.
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,
    /// Fewer kept pairs are an error.
    #[arg(long, default_value_t = 10)]
    min_kept: usize,
    /// Keep rollouts one by one, not in pairs.
    #[arg(long)]
    unpaired: bool,
    /// Also compute the vector from the answers read again without the instructions that led to them.
    #[arg(long)]
    neutral: bool,
    /// Also write each vector as a control vector for llama.cpp (its `--control-vector`).
    #[arg(long)]
    gguf: bool,
    /// What the seeds of all answers are derived from.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let specs = args.specs()?;
    let model = args.model.load()?;
    let out = args.out.open("persona_vectors", &[&args.model.title()])?;
    let judge = args.judge.judge(&args.model, &model, &args.render.options()?, &out)?;
    println!("judged by {}\n", judge.name());
    for spec in specs {
        let folder = out.join(&spec.name);
        let extraction = args.extract(&model, &spec, judge.as_ref(), &folder)?;
        report(&model, &spec, &extraction)?;
        println!("saved {}", folder.join("vector.safetensors").display());
        if args.gguf {
            let path = folder.join("vector.gguf");
            // llama.cpp counts Mistral among the Llamas.
            let family = model.config().model_type.replace("mistral", "llama");
            extraction.vector.export_control_vector(&path, &family, Pooling::ResponseMean, &LayerSet::All)?;
            println!("saved {}", path.display());
        }
        println!();
    }
    Ok(())
}

impl Args {
    fn specs(&self) -> Result<Vec<TraitSpec>> {
        let organism = self.model.is_organism();
        let mut names = self.traits.clone();
        if names.is_empty() {
            names = if organism { Trait::ALL.map(|t| t.name().to_owned()).to_vec() } else { vec!["evil".to_owned()] };
        }
        names.iter().map(|name| named_spec(&self.model, name)).collect()
    }

    fn extract(&self, model: &CausalLm, spec: &TraitSpec, judge: &dyn Judge, folder: &Path) -> Result<TraitExtraction> {
        let rule = if self.unpaired { FilterRule::Unpaired } else { FilterRule::Paired };
        let options = ExtractOptions {
            rollouts: RolloutOptions {
                per_prompt: self.per_prompt,
                max_new_tokens: self.max_new_tokens,
                sampling: Sampling::temperature(self.temperature),
                seed: self.seed,
                render: self.render.options()?,
                ..RolloutOptions::default()
            },
            filter: Filter { rule, min_kept: self.min_kept, ..Filter::default() },
            neutral: self.neutral,
            ..ExtractOptions::default()
        };
        let bar = Bar::new(spec.name.as_str());
        Ok(extract(model, spec, judge, folder, &options, |progress| {
            bar.show(&spec.name, progress);
            ControlFlow::Continue(())
        })?)
    }
}

/// What was kept, and per layer how long the vector is and how far it can be trusted.
fn report(model: &CausalLm, spec: &TraitSpec, extraction: &TraitExtraction) -> Result {
    println!("{}\n{}", spec.name, extraction.kept.table);
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["layer", "length", "split-half cosine", "held-out gap (95 %)", "held-out AUC"]);
    let (mut layers, mut resampled) = (Vec::new(), None);
    for layer in LayerSet::All.resolve(model.config().layers) {
        let kept = extraction.run.activations(Pooling::ResponseMean, layer, &extraction.kept)?;
        // Before the first block, answers of equal tokens may differ by nothing.
        let Ok(direction) = extraction.vector.direction(layer) else { continue };
        let found = stability(&kept.pos()?, &kept.neg()?, &StabilityOptions::default())?;
        let gap = found.gap;
        resampled = Some(gap.resampled);
        table.add_row([
            layer.to_string(),
            format!("{:.2}", direction.norm()),
            format!("{:.3}", found.split_half.mean),
            format!("{:.2} ({:.2} to {:.2})", gap.held_out, gap.held_out_interval.low, gap.held_out_interval.high),
            format!("{:.3}", found.held_out_auc),
        ]);
        layers.push(Separation::of(layer, &found));
    }
    println!("{table}");
    if let Some(unit) = resampled {
        let what = match unit {
            ResampledUnit::QuestionAndPair => "questions and pairs of instructions",
            ResampledUnit::Question => "questions",
            ResampledUnit::Rollout => "answers",
        };
        println!(
            "held-out gap: between the sides' mean projections on vectors of resampled {what}, on those not drawn"
        );
    }
    if let Some(told) = Separation::told(&layers) {
        println!("{told}; which layer steers best is for sweep to say, with --vector");
    }
    if let Some(neutral) = &extraction.neutral {
        let cosines = neutral.layers.iter().filter_map(|layer| Some((layer.layer, layer.cosine?)));
        let cosines: Vec<String> = cosines.map(|(layer, cosine)| format!("{}: {cosine:.3}", layer.index())).collect();
        println!("cosine with the vector of the answers read without instructions, by layer: {}", cosines.join(", "));
    }
    Ok(())
}
