//! Measures how well the projection of a prompt's last token predicts the trait expression of the answers (method:
//! paper, monitoring), under graded system prompts and after many-shot exchanges that show the trait.

use std::ops::ControlFlow;

use comfy_table::Table;
use pv_hooks::Layer;
use pv_model::{GenerateOptions, Sampling};
use pv_steer::monitor::{MeasureOptions, Measurement, MonitoringStudy, Watch};
use serde_json::{Value, json};

use crate::folder::kept;
use crate::invocation::Invocation;
use crate::program::say;
use crate::prompts::{after_shots, exchanges, graded};
use crate::sweeping::SubjectArgs;
use crate::{Bar, Result, default_layer};

/// The arguments of `persona monitor study`.
#[derive(clap::Args, Debug)]
pub(in crate::commands) struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// The layer, counted as in Hugging Face's hidden_states; by default the middle layer, 7 for the organism. Results
    /// for all other layers are shown too; they were not selected on separate prompts.
    #[arg(long)]
    layer: Option<usize>,
    /// The number of answers to each prompt.
    #[arg(long, default_value_t = 10)]
    rollouts: usize,
}

pub(super) fn run(args: &Args, here: &Invocation) -> Result<Value> {
    let Args { subject: args, layer, rollouts } = args;
    let rollouts = *rollouts;
    let spec = args.spec()?;
    let model = args.model.load()?;
    let folder = args.folder(here, &[], &spec)?;
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
    let render = args.render.options()?;
    let shots = || exchanges(&args.model, &model, spec, judge.as_ref(), &generate, &render);
    // Saved, since another judge would choose others, to which there are no answers yet.
    let settings = json!({
        "model": model.identity()?,
        "instruction": spec.instruction,
        "questions": spec.extraction,
        "generate": generate,
        "render": render,
    });
    let shots = if args.model.is_organism() { shots()? } else { kept(&folder, "exchanges", &settings, shots)? };
    say!("{} on {} at {layer}, judged by {}", spec.name, model.name(), judge.name());
    let mut families = Vec::new();
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
        say!("\n{family}: {} prompts, {rollouts} answers each", prompts.len());
        show(&study, layer);
        say!("saved in {}", folder.display());
        families.push(json!({
            "prompts": family,
            "count": prompts.len(),
            "correlations": study.correlations,
            "points": study.points.iter().filter(|point| point.layer == layer).collect::<Vec<_>>(),
        }));
    }
    Ok(json!({
        "trait": spec.name,
        "model": model.name(),
        "judge": judge.name(),
        "layer": layer.index(),
        "rollouts": rollouts,
        "folder": folder,
        "families": families,
    }))
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
    say!("{table}");
    for found in study.correlations.iter().filter(|found| found.layer == layer) {
        let shown = |estimate: Option<pv_steer::monitor::CorrelationEstimate>| match estimate {
            Some(e) => format!("{:.2} (95 %: {:.2} to {:.2}; {} prompts)", e.r, e.low, e.high, e.n),
            None => "unknown".to_owned(),
        };
        let rho = found.spearman.map_or_else(|| "unknown".to_owned(), |rho| format!("{rho:.2}"));
        say!("r = {}; Spearman's ρ = {rho}; within conditions r = {}", shown(found.overall), shown(found.within));
    }
    let by_layer = study.correlations.iter().map(|found| match found.overall {
        Some(estimate) => format!("{}: {:.2}", found.layer.index(), estimate.r),
        None => format!("{}: –", found.layer.index()),
    });
    say!("r by layer: {}", by_layer.collect::<Vec<_>>().join(", "));
}
