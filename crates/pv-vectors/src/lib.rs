//! Persona vectors: the directions in a model's residual stream that stand for character traits.
//!
//! [`extract`] makes the [`PersonaVector`] of a trait, with one row per layer: rollouts in a folder, judged, filtered and
//! averaged, each step of which can be broken off and goes on. A [`Contrast`] does the same in short, without a judge. A
//! [`Direction`] is a vector at one layer, which interventions act along and [`projection`] measures along. Vectors
//! live in safetensors files that say where they come from, and refuse models that they were not made on.
//! [`import`] reads those of other tools, and [`PersonaVector::export_control_vector`] writes llama.cpp's.
//!
//! Vectors are raw mean differences in activation units (method: arXiv 2507.21509, section 2); nothing is normalised
//! unless a function says so.

mod activations;
mod algebra;
mod comparison;
mod contrast;
mod error;
mod extract;
mod files;
mod filter;
mod judged_answers;
mod matrix;
mod project;
mod rollout;
mod scan;
mod text;
mod trait_direction;
mod uncertainty;
mod vector;

pub use activations::{Activations, ResampledUnit, mean_difference};
pub use algebra::{cosines, gram, layer_cosines, trait_cosines, trait_cosines_by_layer, trait_gram};
pub use comparison::{Centring, PrincipalComponent, Probe, ProbeOptions, Regularisation, principal_component, probe};
pub use contrast::{Contrast, ContrastAnswer, Extraction, Progress, prompt_last, response_mean};
pub use error::{Error, Result};
pub use extract::{ExtractOptions, NeutralLayer, NeutralReading, TraitExtraction, extract};
pub use files::{Cap, CappingConfig, CappingExperiment, Format, ImportOptions, Imported, import, import_files};
pub use filter::{Filter, FilterRule, FilterTable, Kept, Outcome, Scored};
pub use judged_answers::{JudgedAnswer, JudgedAnswers};
pub use matrix::Matrix;
pub use project::{ProjectionColumn, UnitDirection, column_name, cosine, projection};
pub use pv_judge::InstructionPair;
pub use rollout::{
    KeptActivations, Place, Plan, Precision, Record, RolloutMeans, RolloutOptions, RolloutRun, ScoredRollouts,
    recompute, vector_of,
};
pub use scan::{Overlong, Pooled, Projections, ScanOptions, ScanProgress, Scanned, Skipped, scan, token_batches};
pub use text::{CsvTable, number_field, pretty_json};
pub use trait_direction::TraitDirection;
pub use uncertainty::{
    Gap, Interval, SplitHalf, Stability, StabilityOptions, bootstrap_gap, bootstrap_mean, cohens_d,
    held_out_projections, roc_auc, split_half_cosine, stability,
};
pub use vector::{Direction, LayerRows, PersonaVector, Pooling, Provenance, RowMark};
