//! Finetuning of a [`pv_model::Decoder`] on conversations: low-rank adapters or all parameters, with interventions in the
//! training forward pass that keep the model's character, checkpoints, and resumption to the bit.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use burn::tensor::{DType, Device};
//! use pv_hooks::NoHook;
//! use pv_model::CausalLm;
//! use pv_train::{EncodeOptions, Sample, TrainOptions, finetune, read_conversations};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = CausalLm::from_folder("models/smollm2", &Device::flex(), DType::F32)?;
//! let options = EncodeOptions::default();
//! let samples = read_conversations("data.jsonl")?
//!     .iter()
//!     .map(|conversation| Sample::from_conversation(&model, conversation, &options))
//!     .collect::<Result<Vec<_>, _>>()?;
//! let options = TrainOptions::default();
//! let (decoder, _report) = finetune(model.decoder(), &samples, &options, &mut NoHook, None, |step| {
//!     println!("{}: {}", step.step, step.loss);
//!     ControlFlow::Continue(())
//! })?;
//! model.with_decoder(decoder)?.save("models/finetuned", DType::F32)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`TrainingRun`] does this in a folder that says what was trained and how, keeps the metrics of every step (also as a
//! table and for TensorBoard), and goes on where it was stopped or killed; [`DataSet`] reads its data and says what became of every row.
//!
//! Data that is made while training goes through [`Trainer::run`] with a closure, or step by step through
//! [`Trainer::step`]. Data that is too large to be held comes from [`pv_data::ConversationReader`], row by row.
//!
//! # Before and after
//! What measures a model takes any [`CausalLm`](pv_model::CausalLm), and a hook where one may act: an [`Evaluation`] of
//! traits by a judge, the finetuning shift along persona vectors ([`ProjectionTable`]), general capability ([`mmlu`]), and
//! [`perplexity()`] on a text.
//!
//! # Features
//! `data` (on by default): conversations from Parquet and from compressed files.

mod batches;
mod checkpoint;
mod collate;
mod data;
mod devices;
mod error;
mod evaluate;
mod finetune;
mod gradients;
mod loss;
mod measure;
pub mod mmlu;
mod optimizer;
mod options;
mod penalty;
mod perplexity;
mod probes;
mod regime;
mod regimes;
mod run;
mod run_hook;
mod sample;
mod schedule;
mod shift;
mod trainer;

pub use batches::Batches;
pub use checkpoint::Checkpoints;
pub use data::{
    BadData, DataFile, DataOptions, DataReport, DataSet, HeldOut, LongSamples, MaskSpan, SkippedRow, mask_spans,
};
pub use error::{Error, Result};
pub use evaluate::{
    Comparison, ComparisonRow, EvaluateOptions, Evaluation, EvaluationPlan, EvaluationResults, TraitQuestions,
    TraitResult,
};
pub use finetune::finetune;
pub use loss::mean_loss;
pub use measure::{BootstrapOptions, Change, MeasureError, Proportion};
pub use options::{Duration, TrainOptions};
pub use perplexity::{Perplexity, PerplexityOptions, perplexity, perplexity_of_tokens};
pub use probes::Probes;
pub use pv_data::conversations::{read_conversations, write_conversations};
pub use pv_model::Conversation;
pub use pv_model::ModelIdentity;
pub use pv_vectors::TraitDirection;
pub use regime::{ClosedLoop, Preventative, Regime, Schedule};
pub use regimes::Regimes;
pub use run::{
    BestRule, BestStep, Keep, RunOptions, RunOutcome, StepMetrics, TrainingRun, metrics_csv, read_metrics,
    write_tensorboard,
};
pub use run_hook::{LoopShift, RunHook};
pub use sample::{EncodeOptions, Sample, TrainedTurns};
pub use schedule::{Decay, WarmUp, learning_rate};
pub use shift::{DirectionStamp, ProjectionTable, Shift, ShiftReport, finetuning_shift};
pub use trainer::{StepReport, TrainReport, Trainer};
