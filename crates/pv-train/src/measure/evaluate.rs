//! Trait expression and coherence of a model's answers, and comparisons between models.

mod compare;
mod plan;
mod results;
mod run;

pub use compare::{Comparison, ComparisonRow};
pub use plan::{EvaluateOptions, EvaluationPlan, TraitQuestions};
pub use results::{EvaluationResults, TraitResult};
pub use run::Evaluation;
