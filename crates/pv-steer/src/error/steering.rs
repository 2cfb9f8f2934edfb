//! The errors of interventions.

use std::path::PathBuf;

use pv_hooks::Layer;

/// An error of an intervention, a mixture, a control or their descriptions.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SteeringError {
    /// A coefficient is in residual norms, but the direction does not know that norm.
    #[error("the mean residual norm at {layer} is unknown; give a raw coefficient")]
    NoResidualNorm {
        /// The direction's layer.
        layer: Layer,
    },
    /// A coefficient is not a finite number.
    #[error("the coefficient {value} at {layer} is not a finite number")]
    BadCoefficient {
        /// The layer of the intervention.
        layer: Layer,
        /// The given value.
        value: f32,
    },
    /// A direction with length zero, or with values that are not finite.
    #[error("the direction at {layer} is zero or not finite")]
    Degenerate {
        /// The layer of the intervention.
        layer: Layer,
    },
    /// A threshold is not a finite number.
    #[error("the threshold {value} at {layer} is not a finite number")]
    BadThreshold {
        /// The layer of the intervention.
        layer: Layer,
        /// The given value.
        value: f32,
    },
    /// A ramp over no tokens.
    #[error("the ramp at {layer} covers no tokens; it must cover at least one")]
    EmptyRamp {
        /// The layer of the intervention.
        layer: Layer,
    },
    /// A ramp at prompt tokens. Ramps count response tokens.
    #[error("the ramp at {layer} acts on prompt tokens, but a ramp counts response tokens")]
    RampInPrompt {
        /// The layer of the intervention.
        layer: Layer,
    },
    /// A condition at a layer above that of the intervention.
    #[error("the condition at {condition} is above the intervention at {layer}; it must be at the same layer or below")]
    LateCondition {
        /// The condition's layer.
        condition: Layer,
        /// The intervention's layer.
        layer: Layer,
    },
    /// Increments over a range without layers.
    #[error("the range of layers is empty")]
    NoIncrements,
    /// A mixture's matrix of coefficients does not fit its directions.
    #[error(
        "the mixture has {rows} rows of {columns} coefficients for {directions} directions; it needs at least one row, and a column for each direction"
    )]
    BadMatrix {
        /// The number of rows.
        rows: usize,
        /// The number of coefficients in a row.
        columns: usize,
        /// The number of directions.
        directions: usize,
    },
    /// A mixture has fewer rows of coefficients than needed.
    #[error("the mixture has {rows} rows, but {needed} are needed")]
    TooFewRows {
        /// The number of rows.
        rows: usize,
        /// The number of requests or sequences.
        needed: usize,
    },
    /// Answers of one request have different mixtures, but share the computation of the prompt.
    #[error(
        "sequences {first} and {second} of request {request} have different mixtures at prompt tokens that they share; \
         give them requests of their own, or act from the first generated token on (Positions::ResponseFrom(0))"
    )]
    SharedPrompt {
        /// The request.
        request: usize,
        /// One of its sequences.
        first: usize,
        /// Another sequence, with another mixture.
        second: usize,
    },
    /// A control without directions, or whose amounts are all 0.
    #[error("there is no projection to change; give a direction with an amount other than 0")]
    NothingToMove,
    /// The amount for a projection is not a finite number.
    #[error("the amount {value} for direction {index} is not a finite number")]
    BadAmount {
        /// The direction's index.
        index: usize,
        /// The given value.
        value: f64,
    },
    /// Directions that must have one layer have several.
    #[error("direction {index} is at {found}, but the first is at {expected}")]
    OtherLayer {
        /// The direction's index.
        index: usize,
        /// The layer of the first.
        expected: Layer,
        /// Its layer.
        found: Layer,
    },
    /// Directions that must have one width have several.
    #[error("direction {index} has width {found}, but the first has {expected}")]
    OtherWidth {
        /// The direction's index.
        index: usize,
        /// The width of the first.
        expected: usize,
        /// Its width.
        found: usize,
    },
    /// The number of projections is not the number of directions.
    #[error("there are {found} projections for {directions} directions")]
    ProjectionCount {
        /// The number of directions.
        directions: usize,
        /// The number of projections.
        found: usize,
    },
    /// Directions of which one can hardly be moved without another.
    #[error(
        "directions {first} and {second} (cosine {cosine:.6}) depend on each other, or on the others with them: the \
         condition number {condition:.3e} is too large"
    )]
    Dependent {
        /// The index of a direction with a large share in the dependence.
        first: usize,
        /// The index of another; the same if there is no other.
        second: usize,
        /// The cosine between the two.
        cosine: f64,
        /// The condition number of the Gram matrix of all directions.
        condition: f64,
    },
    /// A vector without a best layer, where no layer was given.
    #[error("{} names no best layer; give a layer", path.display())]
    NoBestLayer {
        /// The vector's file.
        path: PathBuf,
    },
}
