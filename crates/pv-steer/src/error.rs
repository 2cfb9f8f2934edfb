//! What can be wrong with an intervention.

use pv_hooks::Layer;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
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
    /// A threshold is not a finite number.
    #[error("the threshold {value} at {layer} is not a finite number")]
    BadThreshold {
        /// Where it would act.
        layer: Layer,
        /// What was given.
        value: f32,
    },
    /// A ramp of a coefficient that has no meaning.
    #[error("impossible ramp at {layer}: {reason}")]
    BadRamp {
        /// Where it would act.
        layer: Layer,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A condition on a layer that is computed after the one where the intervention acts.
    #[error("a condition at {condition} comes too late for an intervention at {layer}")]
    LateCondition {
        /// Where the condition is.
        condition: Layer,
        /// Where the intervention acts.
        layer: Layer,
    },
    /// Increments over a range without layers.
    #[error("a range without layers has no increments")]
    NoIncrements,
    /// A persona vector cannot give what was asked of it.
    #[error(transparent)]
    Vector(#[from] pv_vectors::Error),
    /// A mixture's matrix of coefficients does not fit its directions.
    #[error("unusable mixture: {reason}")]
    BadMatrix {
        /// What is wrong with it.
        reason: String,
    },
    /// A mixture has fewer rows of coefficients than are needed.
    #[error("a mixture of {rows} rows for {needed}")]
    TooFewRows {
        /// The rows that there are.
        rows: usize,
        /// How many requests or sequences there are.
        needed: usize,
    },
    /// Answers of one request have different mixtures, but share what is computed of the prompt.
    #[error(
        "sequences {first} and {second} of request {request} have different mixtures at prompt tokens that they share; \
         give them requests of their own, or act from the first generated token on (Positions::ResponseFrom(0))"
    )]
    SharedPrompt {
        /// The request.
        request: usize,
        /// One of its sequences.
        first: usize,
        /// Another, with another mixture.
        second: usize,
    },
    /// A control without directions, or with nothing but amounts of 0.
    #[error("no projection is to be moved")]
    NothingToMove,
    /// An amount by which a projection shall move is not a finite number.
    #[error("the amount {value} for direction {index} is not a finite number")]
    BadAmount {
        /// The direction's place in the list.
        index: usize,
        /// What was given.
        value: f64,
    },
    /// Directions that must be at one layer are not.
    #[error("direction {index} is at {found}, the first one at {expected}")]
    OtherLayer {
        /// The direction's place in the list.
        index: usize,
        /// The layer of the first.
        expected: Layer,
        /// Its layer.
        found: Layer,
    },
    /// Directions that must be of one width are not.
    #[error("direction {index} is {found} wide, the first one {expected}")]
    OtherWidth {
        /// The direction's place in the list.
        index: usize,
        /// The width of the first.
        expected: usize,
        /// Its width.
        found: usize,
    },
    /// Directions of which one can hardly be moved without another.
    #[error(
        "directions {first} and {second} (cosine {cosine:.6}) depend on each other, or on the others with them: the \
         condition number {condition:.3e} is too great"
    )]
    Dependent {
        /// A direction that takes a great part in the dependence, by its place in the list.
        first: usize,
        /// Another; the same one when there is no other.
        second: usize,
        /// The cosine between the two.
        cosine: f64,
        /// The condition number of the Gram matrix of all directions.
        condition: f64,
    },
}
