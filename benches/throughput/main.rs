//! Tokens per second of prefill, decoding and training, as one JSON line per measure; with `--beside`, a peer's in the same run.
#![allow(clippy::print_stdout, reason = "a program's output")]

mod finetuning;
mod long;
mod measured;
mod peer;
mod pipelines;
mod screening;
mod tasks;

use std::process::{Command, ExitCode};

use clap::Parser;
use pv_examples::{ModelArgs, Result, run};
use pv_statistics::intervals::quantile;
use serde_json::json;

use crate::tasks::Task;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a model folder's throughput.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Only the task of this name or, where there is none, the tasks whose name contains it.
    #[arg(long)]
    task: Option<String>,
    /// How often each task is measured after a run that is not counted; the median is reported. With 0, that run counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// A command that measures the same for a peer, such as "python3 benches/throughput/peer.py"; it is given --model,
    /// --task and --runs after each of our measures, and the ratio of the two is printed.
    #[arg(long)]
    beside: Option<String>,
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let exact = Task::all().iter().any(|task| args.task.as_ref() == Some(&task.name()));
    let asked_for = |name: &str| args.task.as_deref().is_none_or(|part| name == part || !exact && name.contains(part));
    let chosen: Vec<Task> = Task::all().into_iter().filter(|task| asked_for(&task.name())).collect();
    if chosen.is_empty() {
        return Err(format!("no task is called like {:?}", args.task).into());
    }
    // What a task leaves in memory would be in the next one's peak: several have a process each.
    let [task] = chosen.as_slice() else {
        return chosen.iter().try_for_each(|task| apart(&task.name()));
    };
    measure(&args, *task)
}

/// Measures a task in a process of its own, with the other arguments of this one.
fn apart(name: &str) -> Result {
    let mut words = std::env::args_os();
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    words.next();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--task") => drop(words.next()),
            Some(word) if word.starts_with("--task=") => {}
            _ => drop(command.arg(word)),
        }
    }
    let status = command.args(["--task", name]).status()?;
    if status.success() { Ok(()) } else { Err(format!("{name} failed ({status})").into()) }
}

/// Measures a task and, if asked, the peer beside it.
fn measure(args: &Args, task: Task) -> Result {
    let (model, folder) = (args.model.load()?, args.model.folder()?);
    let dtype = model.decoder().dtype();
    reset_peak();
    let first = task.run(&model)?;
    let mut rates = Vec::new();
    let mut over_plain = Vec::new();
    for _ in 0..args.runs {
        // A steered run is paired with a plain one, so that both meet the machine in the same state.
        let plain = task.plain().map(|plain| plain.run(&model)).transpose()?;
        let rate = task.run(&model)?.tokens_per_s();
        rates.push(rate);
        over_plain.extend(plain.map(|plain| rate / plain.tokens_per_s()));
    }
    let rate = if rates.is_empty() { first.tokens_per_s() } else { median(&rates) };
    let over_plain = (!over_plain.is_empty()).then(|| median(&over_plain));
    let line = json!({
        "name": task.name(), "tokens_per_s": rate, "peak_rss_mib": peak_rss_mib(), "model": model.name(),
        "dtype": format!("{dtype:?}").to_lowercase(), "threads": rayon::current_num_threads(), "device": args.model.loading.device,
        "peer": "pv-model", "over_plain": over_plain, "tokens": first.tokens, "check": first.check,
        "seconds_per_step": task.step_tokens().map(|tokens| tokens as f64 / rate),
    });
    println!("{line}");
    if let Some(command) = args.beside.as_ref().filter(|_| task.has_peer()) {
        let theirs = peer::measure(command, &folder, &task.name(), args.runs)?;
        println!("{}", theirs.line);
        // A loss differs by a thousandth of a nat at most, however large it is.
        let most = task.step_tokens().map_or(f64::INFINITY, |_| 1.0);
        theirs.same_work(first.tokens, first.check, most)?;
        println!("{}", json!({ "name": task.name(), "ratio": rate / theirs.tokens_per_s }));
    }
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5).unwrap_or(f64::NAN)
}

/// Begins the peak of memory anew, where the system lets a process do so.
fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most memory that this process has held since [`reset_peak`].
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
