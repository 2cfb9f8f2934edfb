//! Persona vectors: the directions in a model's residual stream that stand for character traits.
//!
//! A [`Contrast`] (pairs of instructions and questions) becomes a [`PersonaVector`] with one row per layer; a
//! [`Direction`] is that vector at one layer, which interventions act along and [`projection`] measures along. Vectors
//! live in safetensors files that say where they come from, and refuse models that they were not made on.
//!
//! Vectors are raw mean differences in activation units (method: arXiv 2507.21509, section 2); nothing is normalised
//! unless a function says so.

mod contrast;
mod error;
mod files;
mod project;
mod vector;

pub use contrast::{Contrast, ContrastAnswer, Extraction, InstructionPair, Progress, prompt_last, response_mean};
pub use error::{Error, Result};
pub use project::{cosine, projection};
pub use vector::{Direction, LayerRows, PersonaVector, Pooling, Provenance};
