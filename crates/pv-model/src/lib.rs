#![doc = include_str!("../README.md")]
//!
//! # Overview
//! - [`CausalLm`]: decoder, tokenizer and chat template of a folder. It checks its arguments; [`decoder::Decoder`] does
//!   not.
//! - [`generate`]: batched generation; [`continuations`]: log-probabilities of given continuations.
//! - [`config`], [`weights`]: architectures and their files; [`adapter`]: low-rank adapters.
//! - [`chat`], [`tokenizer`]: from messages to token ids.
//! - [`gguf`]: GGUF files as model folders.
//! - [`hub`]: from a model's name to its folder; [`device()`]: from a device's name to a device.

pub mod adapter;
pub mod batch;
pub mod causal_lm;
pub mod chat;
pub mod config;
pub mod continuations;
pub mod decoder;
pub mod device;
mod error;
mod families;
pub mod folder;
pub mod generate;
pub mod gguf;
pub mod hub;
mod identity;
mod listed;
mod load;
mod mapped;
mod memory;
mod ops;
mod prefixes;
mod response;
mod sampling;
mod save;
mod tensors;
pub mod tokenizer;
pub mod weights;

pub use adapter::{Adapter, LoraConfig};
pub use causal_lm::CausalLm;
pub use chat::{ChatTemplate, RenderOptions};
pub use config::DecoderConfig;
pub use device::device;
pub use error::{Error, Result};
pub use generate::{GenerateOptions, Request};
pub use identity::ModelIdentity;
pub use load::LoadOptions;
pub use pv_data::Message;
pub use sampling::Sampling;
pub use tokenizer::Tokenizer;
