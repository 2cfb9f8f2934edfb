#![doc = include_str!("../README.md")]
//!
//! # Overview
//! - [`TraitSpec`]: a trait's instructions, questions and rubric; [`Rubric`]: the prompt for a judge.
//! - [`Judge`]: the interface of judges; [`LocalJudge`], and with the feature `http` `HttpJudge`.
//! - [`Verdict`]: a [`Score`] or an [`Abstention`]; [`agreement`]: how far two judges agree.

pub mod agreement;
#[cfg(feature = "http")]
pub mod artifacts;
#[cfg(feature = "http")]
mod cost;
mod error;
#[cfg(feature = "http")]
pub mod http;
pub mod judge;
pub mod local;
mod polarity;
pub mod rubric;
pub mod score;
pub mod traits;

pub use error::{Error, Result};
#[cfg(feature = "http")]
pub use http::{HttpJudge, HttpOptions};
pub use judge::Judge;
pub use local::LocalJudge;
pub use rubric::Rubric;
pub use score::{Abstention, Score, Verdict};
pub use traits::{InstructionPair, TraitSpec};
