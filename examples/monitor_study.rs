//! How well the projection of a prompt's last token foretells the trait of the answers that follow (method: paper,
//! monitoring), under graded system prompts and after exchanges that show the trait.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::Parser;
use comfy_table::Table;
use pv_examples::prompts::{after_shots, exchanges, graded};
use pv_examples::sweeping::SubjectArgs;
use pv_examples::{Bar, Result, default_layer, run};
use pv_hooks::Layer;
use pv_model::{GenerateOptions, Sampling};
use pv_steer::monitor::{MeasureOptions, Measurement, MonitoringStudy, Watch};

/// Correlates projections before the answer with judged expression, on a trait's evaluation questions.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// The layer, counted as in Hugging Face's hidden_states; the middle one by default, 7 for the organism. The others are
    /// shown beside it, and were not chosen on other prompts.
    #[arg(long)]
    layer: Option<usize>,
    /// Answers to each prompt; 10 in the paper.
    #[arg(long, default_value_t = 4)]
    rollouts: usize,
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let Args { subject: args, layer, rollouts } = args;
    let spec = args.spec()?;
    let model = args.model.load()?;
    let folder = args.folder("monitor_study", &spec)?;
    let subject = args.subject(&model, spec, &folder)?;
    let spec = &subject.spec;
    let layer = layer.map_or_else(|| default_layer(&args.model, &model), Layer::hidden_state);
    let judge = args.judge.judge(&args.model, &model, &args.render.options()?, &folder)?;
    let generate = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: Sampling::temperature(args.temperature),
        batch_size: 32,
        ..GenerateOptions::default()
    };
    let layers = (1..=model.config().layers).map(Layer::hidden_state);
    let watches = layers.map(|layer| Watch::of(&subject.vector, layer)).collect::<Result<Vec<_>, _>>()?;
    let shots = exchanges(&args.model, &model, spec, judge.as_ref(), &generate, &args.render.options()?)?;
    println!("{} on {} at {layer}, judged by {}", spec.name, model.name(), judge.name());
    for (family, prompts) in
        [("graded", graded(&args.model, spec, &spec.evaluation)?), ("many_shot", after_shots(&shots, &spec.evaluation))]
    {
        let options =
            MeasureOptions { rollouts, seed: args.seed, generate: generate.clone(), render: args.render.options()? };
        let rubrics = [spec.rubric()?];
        let measurement = Measurement::new(&model, &watches, &prompts, &rubrics, judge.as_ref(), &options)?;
        let folder = folder.join(family);
        let bar = Bar::new(family);
        let study = measurement.run(&folder, |progress| {
            bar.show(family, progress);
            ControlFlow::Continue(())
        })?;
        drop(bar);
        println!("\n{family}: {} prompts, {rollouts} answers each", prompts.len());
        show(&study, layer);
        println!("kept in {}", folder.display());
    }
    Ok(())
}

fn show(study: &MonitoringStudy, layer: Layer) {
    let mut table = Table::new();
    table.set_header(["condition", "projection before the answer", "expression", "answers", "no score"]);
    let here = || study.points.iter().filter(|point| point.layer == layer);
    let mut conditions: Vec<&str> = Vec::new();
    for point in here() {
        if conditions.last() != Some(&point.condition.as_str()) {
            conditions.push(&point.condition);
        }
    }
    for condition in conditions {
        let points: Vec<_> = here().filter(|point| point.condition == condition).collect();
        let scored: usize = points.iter().map(|point| point.n).sum();
        let expression: f64 = points.iter().filter_map(|point| Some(point.expression? * point.n as f64)).sum();
        let projection = points.iter().map(|point| point.projection).sum::<f64>() / points.len() as f64;
        table.add_row([
            condition.to_owned(),
            format!("{projection:+.3}"),
            if scored == 0 { "–".to_owned() } else { format!("{:.1}", expression / scored as f64) },
            (points.len() * study.rollouts).to_string(),
            (points.len() * study.rollouts - scored).to_string(),
        ]);
    }
    println!("{table}");
    for found in study.correlations.iter().filter(|found| found.layer == layer) {
        let told = |estimate: Option<pv_steer::monitor::CorrelationEstimate>| match estimate {
            Some(e) => format!("{:.2} (95 %: {:.2} to {:.2}; {} prompts)", e.r, e.low, e.high, e.n),
            None => "unknown".to_owned(),
        };
        let rho = found.spearman.map_or_else(|| "unknown".to_owned(), |rho| format!("{rho:.2}"));
        println!("r = {}; Spearman's ρ = {rho}; within conditions r = {}", told(found.overall), told(found.within));
    }
    let by_layer = study.correlations.iter().map(|found| match found.overall {
        Some(estimate) => format!("{}: {:.2}", found.layer.index(), estimate.r),
        None => format!("{}: –", found.layer.index()),
    });
    println!("r by layer: {}", by_layer.collect::<Vec<_>>().join(", "));
}
