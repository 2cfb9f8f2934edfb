#![doc = include_str!("../README.md")]
//!
//! # Overview
//! - [`TrainingRun`]: a finetuning run in a folder, with its settings, the metrics of every step and checkpoints. A run
//!   that was stopped or killed resumes; on the CPU the result is bit-identical.
//! - [`DataSet`]: conversations as samples, and a report of every skipped row.
//! - [`Regime`]: a mitigation in the training passes.
//! - [`finetune()`]: training on a list of samples; [`Trainer`]: training step by step, for generated or streamed data.
//! - [`measure`]: trait expression, finetuning shift, MMLU and perplexity of any [`CausalLm`](pv_model::CausalLm), with
//!   an optional hook.

mod batches;
mod collate;
pub mod data;
mod devices;
pub mod error;
mod finetune;
mod gradients;
mod loss;
pub mod measure;
mod optimizer;
mod options;
mod penalty;
mod probes;
pub mod regime;
mod regimes;
pub mod run;
mod run_hook;
pub mod sample;
mod schedule;
pub mod trainer;

pub use data::{DataOptions, DataSet};
pub use error::{Error, Result};
pub use finetune::finetune;
pub use options::TrainOptions;
pub use regime::{Preventative, Regime};
pub use run::{RunOptions, TrainingRun};
pub use sample::{EncodeOptions, Sample};
pub use trainer::Trainer;
