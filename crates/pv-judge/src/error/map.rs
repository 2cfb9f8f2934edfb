//! Faults of isotonic maps.

/// The reason why points are not those of an [`IsotonicMap`](crate::agreement::IsotonicMap).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// There are fewer than two points.
    #[error("an isotonic map needs at least two points, found {found}")]
    TooFewPoints {
        /// The number of points.
        found: usize,
    },
    /// A point is not finite.
    #[error("point {index} of an isotonic map is not finite: {point:?}")]
    NotFinite {
        /// The index of the point.
        index: usize,
        /// The point.
        point: (f64, f64),
    },
    /// The first values do not increase, or the second ones decrease.
    #[error("point {index} of an isotonic map, {point:?}, does not rise from the one before it, {before:?}")]
    NotIncreasing {
        /// The index of the point.
        index: usize,
        /// The point before it.
        before: (f64, f64),
        /// The point.
        point: (f64, f64),
    },
}
