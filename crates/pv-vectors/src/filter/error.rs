//! Errors of filters.

use super::{Advice, FilterTable};

/// An error of a filter.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// A threshold is not finite.
    #[error("the filter's {name} is {value}; it must be a finite number")]
    Threshold {
        /// The name of the threshold.
        name: &'static str,
        /// The given value.
        value: f64,
    },
    /// The filter keeps too few rollouts.
    #[error("the filter keeps {found} {unit} of the {needed} that are needed; {advice}")]
    TooFewKept {
        /// The number that it keeps.
        found: usize,
        /// The minimum number.
        needed: usize,
        /// The unit that is counted: pairs, or rollouts per side.
        unit: &'static str,
        /// What to change.
        advice: Advice,
        /// The numbers of kept rollouts, and of dropped ones by reason.
        table: Box<FilterTable>,
    },
}
