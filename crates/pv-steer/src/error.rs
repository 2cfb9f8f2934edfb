//! What can be wrong with an intervention.

use pv_hooks::Layer;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A coefficient is in units of the residual's norm, but the direction does not know that norm.
    #[error("the direction at {layer} knows no mean residual norm; give a raw coefficient")]
    NoResidualNorm {
        /// Where the direction acts.
        layer: Layer,
    },
    /// A coefficient is not a finite number.
    #[error("the coefficient {value} at {layer} is not a finite number")]
    BadCoefficient {
        /// Where it would act.
        layer: Layer,
        /// What was given.
        value: f32,
    },
    /// A direction that has no length, or values that are not finite.
    #[error("the direction at {layer} is zero or not finite")]
    Degenerate {
        /// Where it would act.
        layer: Layer,
    },
}
