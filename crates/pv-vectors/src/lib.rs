#![doc = include_str!("../README.md")]
//!
//! # Overview
//! - [`extract()`]: from a trait to its [`PersonaVector`]: rollouts in a folder, judged, filtered and averaged. Every
//!   step can be resumed. [`Contrast`] does the same without a judge.
//! - [`Direction`]: a vector at one layer, along which interventions act. [`UnitDirection`] and [`projection`] measure
//!   along it.
//! - [`files`]: vectors in the formats of other tools. This crate's safetensors files state their origin; a vector is
//!   refused by a model that it was not extracted from.
//! - [`scan`]: many texts on many vectors, in one pass each; [`uncertainty`], [`algebra`], [`comparison`]: how reliable
//!   vectors are, and how they relate.

pub mod activations;
pub mod algebra;
pub mod comparison;
pub mod contrast;
pub mod error;
pub mod extract;
pub mod files;
pub mod filter;
pub mod judged_answers;
mod place;
mod progress;
pub mod projection;
mod provenance;
pub mod rollout;
pub mod scan;
pub mod serde_rows;
mod trait_direction;
pub mod uncertainty;
pub mod vector;

pub use contrast::Contrast;
pub use error::{Error, Result};
pub use extract::{ExtractOptions, TraitExtraction, extract};
pub use filter::Filter;
pub use projection::UnitDirection;
pub use rollout::RolloutOptions;
pub use trait_direction::TraitDirection;
pub use vector::{Direction, PersonaVector};
