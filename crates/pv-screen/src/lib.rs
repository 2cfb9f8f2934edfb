#![doc = include_str!("../README.md")]
//!
//! # Overview
//! - [`Screen`]: screens a data set's files into a folder, and resumes interrupted runs.
//! - [`difference`]: the computation for one batch. [`likelihood`]: how much more likely a steered model finds an
//!   answer, which also detects wrong facts in plain words.
//! - [`base_answers`]: the cache of the model's own answers, which are most of the cost; [`estimate`]: ΔP from some of
//!   them, with its error.
//! - [`select()`], [`judging`], [`export()`]: selects, judges and exports samples; [`compare`]: the words that
//!   contribute to a projection. [`pv_statistics::separation`] compares two sets.

pub mod base_answers;
pub mod compare;
pub mod difference;
pub mod error;
pub mod estimate;
pub mod export;
mod hashes;
pub mod judging;
pub mod likelihood;
pub mod sample;
#[cfg(feature = "data")]
pub mod score_table;
pub mod scores;
pub mod screen;
pub mod select;

pub use error::{Error, Result};
pub use export::{Keep, export};
pub use screen::{Screen, ScreenOptions, Summary};
pub use select::{Which, select};
