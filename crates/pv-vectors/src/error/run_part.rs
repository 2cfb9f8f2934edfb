//! Parts of a run.

use std::fmt;

/// A part of a run's results that may be incomplete.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunPart {
    /// The rollouts.
    Rollouts,
    /// The verdicts by a rubric.
    Verdicts {
        /// The rubric's name.
        rubric: String,
    },
    /// The verdicts of a judge.
    VerdictsOf {
        /// The judge.
        judge: String,
    },
}

impl fmt::Display for RunPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rollouts => f.write_str("rollouts"),
            Self::Verdicts { rubric } => write!(f, "verdicts on {rubric}"),
            Self::VerdictsOf { judge } => write!(f, "verdicts of {judge}"),
        }
    }
}
