//! Shared by the programs of this package: the organism's studies, based on `pv-cli`.

pub mod capping;
pub mod finetuning;
pub mod noise;

pub use pv_cli::{Bar, ModelArgs, OutArgs, Result, SAMPLING, TraitArgs, default_layer, generate, note, run};
pub use pv_cli::{calibrating, folder, organism, progress, prompts, proxies, samples, sweeping, traits, vectors};
