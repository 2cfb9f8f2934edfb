#![doc = include_str!("../README.md")]
//!
//! # Overview
//! - [`Steerer`]: adds directions (with a constant [`Coefficient`] or along a [`Ramp`], optionally with the residual's
//!   norm unchanged, or a vector's increments over many layers), ablates them, caps or floors projections, or inhibits
//!   them where a [`Condition`] holds. Interventions act in the order in which they were added.
//! - [`Mixture`]: a separate mixture of directions for every row of a batch.
//! - [`control`]: changes that move chosen projections and leave others unchanged, and decomposition along several
//!   vectors.
//! - [`monitor`]: projections while text is generated, calibration, alarms.
//! - [`sweep`]: a judge scores answers over a full grid of layers and strengths or by successive halving; dose-response
//!   curves; a ranking of layers without a judge.

mod condition;
mod constant;
pub mod control;
pub mod error;
mod files;
mod intervention;
mod mixture;
pub mod monitor;
mod positions;
mod span;
pub mod spec;
mod steerer;
mod strength;
pub mod sweep;

pub use condition::Condition;
pub use error::{Error, Result};
pub use mixture::Mixture;
pub use positions::Positions;
pub use spec::SteeringSpec;
pub use steerer::Steerer;
pub use strength::{Coefficient, Ramp, Strength};
