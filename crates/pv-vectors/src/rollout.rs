//! Rollouts: answers under contrastive instructions, with their activations and scores.

mod header;
mod journal;
mod means;
mod means_file;
mod plan;
mod record;
mod run;
mod scores;
mod store;
mod table;

pub use self::table::ScoredRollouts;
pub use means::{KeptActivations, RolloutMeans, recompute, vector_of};
pub(crate) use means::{difference, read_sequences};
pub(crate) use plan::check_questions;
pub use plan::{Plan, Precision, RolloutOptions};
pub use record::Record;
pub use run::RolloutRun;

pub use crate::place::Place;
