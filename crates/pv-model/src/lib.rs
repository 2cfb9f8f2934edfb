//! One decoder for the Llama, Mistral, Qwen2 and Qwen3 families on any of Burn's backends: files, tokenizer, chat
//! template, hooked forward passes and generation.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use pv_hooks::NoHook;
//! use pv_model::{CausalLm, Event, GenerateOptions, Message, Request, default_dtype, device};
//!
//! # fn main() -> Result<(), pv_model::Error> {
//! let device = device("flex")?;
//! let model = CausalLm::from_folder("models/smollm2", &device, default_dtype(&device))?;
//! let prompt = model.prompt(&[Message::user("What is the capital of France?")])?;
//! let answers = model.generate(&[Request::new(prompt, 0)], &GenerateOptions::default(), &mut NoHook, |event| {
//!     if let Event::Token { text, .. } = event {
//!         print!("{text}");
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! # let _ = answers;
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//! The CPU backend (`flex`) is always built in. `wgpu`, `vulkan`, `metal`, `webgpu`, `cuda` and `rocm` add others, which
//! [`device`] then finds by name. A library should leave the choice to the application.
//!
//! `hub` lets [`resolve`] download models from the Hugging Face hub; it finds those in the local cache without it.

mod adapter;
mod batch;
mod causal_lm;
mod chat;
mod config;
mod continuations;
mod decoder;
mod device;
mod error;
mod families;
mod generate;
mod hub;
mod identity;
mod load;
mod memory;
mod ops;
mod response;
mod rope;
mod sampling;
mod save;
mod tensors;
mod tokenizer;
mod weights;

pub use adapter::{Adapter, LoraConfig, LoraTarget, LoraWeights};
pub use batch::{Batch, Sequence};
pub use causal_lm::{CausalLm, ForwardOptions};
pub use chat::{
    ChatTemplate, RenderOptions, Rendered, SystemText, Unwritten, UnwrittenPart, alters, answer_span, assistant_spans,
    assistant_spans_at, unwritten_parts,
};
pub use config::{
    Activation, AttentionBias, DecoderConfig, MlpBias, OutputHead, QkNorm, RopeConfig, RopeScaling, SpecialTokens,
};
pub use continuations::{Continuations, ScoreOptions, ScoredContinuations};
pub use decoder::{
    Block, Decoder, KvCache, Logits, LoraUpdate, Pass, PassOutput, Projection, Quantization, WeightBits,
};
pub use device::{default_dtype, device, dtype};
pub use error::{Error, Result};
pub use families::{ExpectedTensor, TensorNames};
pub use generate::{Event, FinishReason, GenerateOptions, Generation, Request};
pub use hub::{HubError, HubOptions, HubProgress, HubToken, resolve};
pub use identity::ModelIdentity;
pub use load::LoadOptions;
pub use ops::cross_entropy;
pub use pv_data::{Content, Conversation, Message};
pub use rope::RotaryTable;
pub use sampling::Sampling;
pub use tensors::to_f32;
pub use tokenizer::{AddSpecial, Encoded, TokenStream, Tokenizer, eos_ids};
pub use weights::{RawTensor, Remaining, StoredDtype, WeightFiles};
