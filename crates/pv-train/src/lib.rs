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
//! Data that is made while training goes through [`Trainer::run`] with a closure, or step by step through
//! [`Trainer::step`]. Data that is too large to be held comes from [`pv_model::ConversationReader`], row by row.
//!
//! # Features
//! `data` (on by default): conversations from Parquet and from compressed files.

mod batches;
mod checkpoint;
mod collate;
mod error;
mod finetune;
mod gradients;
mod loss;
mod optimizer;
mod options;
mod regime;
mod regimes;
mod run_hook;
mod sample;
mod schedule;
mod trainer;

pub use batches::Batches;
pub use checkpoint::Checkpoints;
pub use error::{Error, Result};
pub use finetune::finetune;
pub use loss::mean_loss;
pub use options::{Duration, TrainOptions};
pub use pv_model::{Conversation, read_conversations, write_conversations};
pub use regime::{ClosedLoop, Preventative, Regime, Schedule};
pub use regimes::Regimes;
pub use run_hook::RunHook;
pub use sample::{EncodeOptions, Sample, TrainedTurns};
pub use schedule::{Decay, learning_rate};
pub use trainer::{StepReport, TrainReport, Trainer};
