//! Tests across the crates.
#![allow(clippy::print_stdout, reason = "a test shows what it measured")]

mod activations;
mod clean_cache;
mod continuations;
mod control_on_organism;
mod conversations;
mod data_cases;
mod experts;
mod files;
mod folders;
mod gguf;
mod http_judge;
mod interventions;
mod kv_cache;
mod layering;
mod local_judge;
mod lora;
mod measuring;
mod monitoring;
mod organism;
mod packed;
mod properties;
mod proxies;
mod quantized;
mod regimes;
mod rendering;
mod results;
mod rollouts;
mod runs;
mod scan;
mod schedules;
mod screening;
mod shared_prefixes;
mod smollm2;
mod sweeps;
mod tokenizers;
mod training;
mod vector_files;

/// The allocator of the programs; tests of memory read what it has handed out.
#[global_allocator]
static ALLOCATOR: cap::Cap<mimalloc::MiMalloc> = cap::Cap::new(mimalloc::MiMalloc, usize::MAX);
