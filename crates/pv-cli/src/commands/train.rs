//! Finetunes a model on conversations in a run folder that can be resumed: an adapter or all parameters, with
//! mitigations, and with measurements of the shift during training.

mod data;
mod options;
mod regimes;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pv_data::files::write_whole;
use pv_model::decoder::Quantization;
use pv_train::TrainingRun;
use pv_train::data::MaskSpan;
use pv_train::run::{StepMetrics, metrics_csv, read_metrics, write_tensorboard};
use serde_json::{Value, json};

use self::data::DataArgs;
use self::options::TrainingArgs;
use self::regimes::RegimeArgs;
use crate::invocation::Invocation;
use crate::program::{colours, say};
use crate::{Bar, ModelArgs, OutArgs, Result};

/// The arguments of `persona train`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    out: OutArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    regimes: RegimeArgs,
    /// Show which tokens of the first step's samples are trained, and exit.
    #[arg(long)]
    show_mask: bool,
    /// Also write the metrics as a CSV table to this file.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Also write the metrics for TensorBoard, into the run folder.
    #[arg(long)]
    tensorboard: bool,
}

pub(super) fn run(args: &Args, here: &Invocation) -> Result<Value> {
    let mut model = args.model.load()?;
    if let Some(bits) = args.training.base_bits {
        let quantized = model.decoder().quantized(Quantization { bits, ..Quantization::default() })?;
        model = model.with_decoder(quantized)?;
    }
    let prompts = args.regimes.prompts(&model, &args.model, &args.data.reading.render.options()?)?;
    let regimes = args.regimes.regimes(&model, &prompts)?;
    let probes = args.regimes.probes(&model, prompts)?;
    let (train, held_out) = args.data.read(&args.model, &model, &regimes, args.training.seed)?;
    say!("training data: {}\nheld-out data: {}", train.report(), held_out.report());
    let mut training =
        TrainingRun::new(&model, &train, args.training.options()?).with_held_out(&held_out).with_regimes(regimes);
    if let Some(probes) = &probes {
        training = training.with_probes(probes);
    }
    if args.show_mask {
        training.show_mask()?.iter().for_each(|sample| show(sample));
        return Ok(json!({ "training_on": train.report().to_string() }));
    }
    let out = here.open(&args.out, &[&args.model.title(), &args.data.name()])?;
    let bar = Bar::new("training");
    let mut measured = String::new();
    let outcome = training.run(&out, |step| {
        if step.held_out_loss.is_some() {
            measured = measured_text(step);
        }
        let line = match (step.loss, step.learning_rate) {
            (Some(loss), Some(rate)) => {
                format!("loss {loss:.3}, {:.0} tokens/s, learning rate {rate:.1e}{measured}", step.tokens_per_second)
            }
            _ => format!("before training{measured}"),
        };
        if !bar.is_shown() && step.held_out_loss.is_some() {
            say!("step {}: {line}", step.step);
        }
        bar.set(line, step.step, step.steps);
        ControlFlow::Continue(())
    })?;
    drop(bar);
    if let Some(step) = outcome.resumed_from {
        say!("resumed after step {step}");
    }
    let metrics = read_metrics(&out)?;
    if let Some(path) = &args.csv {
        write_whole(path, metrics_csv(&metrics)?)?;
    }
    if args.tensorboard {
        say!("wrote {}", write_tensorboard(&out, &out)?.display());
    }
    if let (Some(first), Some(last)) = (metrics.first(), metrics.last()) {
        say!("before training{}\nafter training{}", measured_text(first), measured_text(last));
    }
    if outcome.stopped_early {
        say!("stopped early: no measurement improved");
    }
    if let Some(best) = &outcome.best {
        say!("the best step is {}", best.step);
    }
    if let Some(saved) = &outcome.saved {
        say!("saved {}; to chat with the model:", saved.display());
        say!("  persona chat {}", chat_arguments(args, saved));
    }
    Ok(json!({
        "folder": out,
        "saved": outcome.saved,
        "resumed_from": outcome.resumed_from,
        "stopped_early": outcome.stopped_early,
        "best_step": outcome.best.as_ref().map(|best| best.step),
        "training_on": train.report().to_string(),
        "holding_out": held_out.report().to_string(),
        "before": metrics.first(),
        "after": metrics.last(),
    }))
}

fn chat_arguments(args: &Args, saved: &Path) -> String {
    let mut words = vec![format!("--model {}", args.model.model)];
    match args.training.full {
        true => words = vec![format!("--model {}", saved.display())],
        // The new adapter applies on top of the adapters that it was trained on.
        false => {
            words.extend(args.model.adapters.arguments().into_iter().chain([format!("--adapter {}", saved.display())]))
        }
    }
    words.join(" ")
}

/// The measurements of a step as text.
fn measured_text(step: &StepMetrics) -> String {
    let mut text = step.held_out_loss.map_or_else(String::new, |loss| format!(", held-out loss {loss:.3}"));
    // Only a few of them fit on a line; the metrics file has all.
    for (name, shift) in step.shifts.iter().take(4) {
        text.push_str(&format!(", {name} {shift:+.3}"));
    }
    for (name, value) in &step.regimes {
        text.push_str(&format!(", {name} {value:.2}"));
    }
    text
}

/// Prints a sample with its trained tokens in green, or in ⟦ ⟧ without colours.
fn show(sample: &[MaskSpan]) {
    let (open, close) = if colours() { ("\x1b[32m", "\x1b[0m") } else { ("⟦", "⟧") };
    let piece = |span: &MaskSpan| match span.trained {
        true => format!("{open}{}{close}", span.text),
        false => span.text.clone(),
    };
    say!("{}\n", sample.iter().map(piece).collect::<String>());
}
