#![doc = include_str!("../README.md")]
//!
//! # Overview
//! [`Hook`] states the contract between hooks and the code that runs passes. [`Layer`] numbers layers like Hugging Face's
//! `hidden_states`. [`TokenSpans`] gives the role of every token of a pass.

mod capture;
mod error;
pub mod hook;
mod layer;
mod record;
pub mod tokens;

pub use capture::Capture;
pub use error::HookError;
pub use hook::{Hook, ModelShape, NoHook, ResidualContext};
pub use layer::{Layer, LayerSet};
pub use record::Recorder;
pub use tokens::{Phase, TokenSet, TokenSpans};
