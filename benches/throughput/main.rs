//! Tokens per second of prefill and decoding, as one JSON line per measure; with `--beside`, a peer's in the same run.
#![allow(clippy::print_stdout, reason = "a program's output")]

mod peer;
mod tasks;

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use pv_model::{CausalLm, default_dtype, device, dtype};
use serde_json::json;

use crate::tasks::Task;

// Large results are allocated and freed all the time; the system's allocator maps and unmaps each.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a model folder's throughput.
#[derive(Parser)]
struct Args {
    /// The model folder.
    #[arg(long, default_value = "models/smollm2")]
    model: PathBuf,
    /// The device, such as flex, vulkan or cuda:0.
    #[arg(long, default_value = "flex")]
    device: String,
    /// The compute type: f32, f16 or bf16; by default what suits the device.
    #[arg(long)]
    dtype: Option<String>,
    /// Only the tasks whose name contains this.
    #[arg(long)]
    task: Option<String>,
    /// How often each task is measured; the median is reported.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// A command that measures the same for a peer, such as "python3 benches/throughput/peer.py"; it is given --model,
    /// --task and --runs after each of our measures, and the ratio of the two is printed.
    #[arg(long)]
    beside: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let device = device(&args.device)?;
    let dtype = args.dtype.as_deref().map(dtype).transpose()?.unwrap_or_else(|| default_dtype(&device));
    let chosen: Vec<Task> = Task::all()
        .into_iter()
        .filter(|task| args.task.as_deref().is_none_or(|part| task.name().contains(part)))
        .collect();
    if chosen.is_empty() {
        return Err(format!("no task is called like {:?}", args.task).into());
    }
    let model = CausalLm::from_folder(&args.model, &device, dtype)?;
    for task in chosen {
        task.run(&model)?;
        let mut rates = Vec::new();
        let mut over_plain = Vec::new();
        for _ in 0..args.runs.max(1) {
            // A steered run is paired with a plain one, so that both meet the machine in the same state.
            let plain = task.plain().map(|plain| plain.run(&model)).transpose()?;
            let rate = task.run(&model)?;
            rates.push(rate);
            over_plain.extend(plain.map(|plain| rate / plain));
        }
        let rate = median(rates);
        let over_plain = (!over_plain.is_empty()).then(|| median(over_plain));
        let line = json!({
            "name": task.name(), "tokens_per_s": rate, "peak_rss_mib": peak_rss_mib(), "model": model.id().name,
            "dtype": format!("{dtype:?}").to_lowercase(), "threads": rayon::current_num_threads(), "device": args.device,
            "peer": "pv-model", "over_plain": over_plain,
        });
        println!("{line}");
        if let Some(command) = &args.beside {
            let theirs = peer::measure(command, &args.model, &task.name(), args.runs)?;
            println!("{}", theirs.line);
            println!("{}", json!({ "name": task.name(), "ratio": rate / theirs.tokens_per_s }));
        }
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The most memory that this process has held so far.
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
