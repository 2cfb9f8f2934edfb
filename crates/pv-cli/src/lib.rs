#![doc = include_str!("../README.md")]
//!
//! # Overview
//! [`main`] is the whole program. The modules are shared by the commands and by further programs of this project: how a
//! program starts and ends ([`program`]), model and trait arguments, run folders ([`folder`]), judges ([`judging`]). This
//! crate depends on all libraries; of these, none depends on it.

mod adapters;
mod advice;
pub mod calibrating;
mod commands;
pub mod folder;
#[cfg(feature = "http")]
pub mod http_judging;
mod invocation;
pub mod judging;
mod models;
pub mod organism;
pub mod program;
pub mod progress;
pub mod prompts;
pub mod proxies;
pub mod reading;
pub mod rendering;
pub mod samples;
pub mod separation;
pub mod sweeping;
pub mod traits;
pub mod vectors;

use std::error::Error;

pub use adapters::AdapterArgs;
pub use commands::main;
pub use folder::OutArgs;
pub use models::{LoadArgs, ModelArgs, SAMPLING, default_layer};
pub use program::{note, run};
pub use progress::{Bar, generate};
pub use reading::ReadingArgs;
pub use rendering::RenderArgs;
pub use traits::TraitArgs;

/// The result of a program or a command.
pub type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;
