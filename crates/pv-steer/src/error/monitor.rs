//! The errors of monitoring.

use pv_hooks::Layer;

/// An error of a monitor, a calibration, alarms or a study.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// A monitor without directions.
    #[error("there is no direction to watch")]
    NoWatches,
    /// Two directions with the same name and layer.
    #[error("{trait_name} is watched twice at {layer}; give one of them another name")]
    WatchedTwice {
        /// The trait.
        trait_name: String,
        /// The layer.
        layer: Layer,
    },
    /// A direction that is not watched.
    #[error("{trait_name} is not watched at {}", layer.map_or("any layer".to_owned(), |layer| layer.to_string()))]
    NotWatched {
        /// The trait.
        trait_name: String,
        /// The layer; `None` for any.
        layer: Option<Layer>,
    },
    /// Readings of other directions.
    #[error("a reading has {found} values, but {expected} directions are watched")]
    OtherReadings {
        /// The number of watched directions.
        expected: usize,
        /// The number of values in the reading.
        found: usize,
    },
    /// A projection is NaN or infinite.
    #[error("a projection on {trait_name} at {layer} is not finite")]
    NotFinite {
        /// The trait.
        trait_name: String,
        /// The layer.
        layer: Layer,
    },
    /// A calibration has too few readings for a request.
    #[error("the calibration of {trait_name} at {layer} has {found} readings of the kind {kind}, too few for {what}")]
    TooFewReadings {
        /// The trait.
        trait_name: String,
        /// The layer.
        layer: Layer,
        /// The kind of reading.
        kind: &'static str,
        /// The number of readings.
        found: u64,
        /// The request.
        what: String,
    },
    /// A calibration has too few answers for a request, however many tokens they have.
    #[error(
        "the calibration of {trait_name} at {layer} has readings of the kind {kind} of {found} whole answers, too few for {what}"
    )]
    TooFewAnswers {
        /// The trait.
        trait_name: String,
        /// The layer.
        layer: Layer,
        /// The kind of reading.
        kind: &'static str,
        /// The number of answers; also 0 if the readings were added one by one, or by an earlier version.
        found: u64,
        /// The request.
        what: String,
    },
    /// A calibration that does not match.
    #[error("the calibration does not fit: its {what} is {found}, but {expected} is needed")]
    Misfit {
        /// What differs.
        what: String,
        /// The value in the calibration.
        found: String,
        /// The expected value.
        expected: String,
    },
    /// Points that cannot be written as a table.
    #[error("the points cannot be written as a table")]
    Table {
        /// The error of the writer.
        source: Box<csv::Error>,
    },
}
