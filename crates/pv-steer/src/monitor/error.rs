//! What can be wrong with monitoring.

use std::path::PathBuf;

use pv_hooks::Layer;

/// The result of this module's fallible functions.
pub type Result<T, E = MonitorError> = std::result::Result<T, E>;

/// Every error of monitoring.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// A monitor without directions.
    #[error("there is no direction to watch")]
    NoWatches,
    /// Two directions that nothing tells apart.
    #[error("{trait_name} is watched twice at {layer}; give one of them another name")]
    WatchedTwice {
        /// The trait.
        trait_name: String,
        /// The layer.
        layer: Layer,
    },
    /// Something was asked about a direction that is not watched.
    #[error("{trait_name} is not watched at {}", layer.map_or("any layer".to_owned(), |layer| layer.to_string()))]
    NotWatched {
        /// The trait.
        trait_name: String,
        /// The layer; `None` for any.
        layer: Option<Layer>,
    },
    /// Readings of other directions than those at hand.
    #[error("a reading has {found} values, but {expected} directions are watched")]
    OtherReadings {
        /// How many directions are watched.
        expected: usize,
        /// How many values the reading has.
        found: usize,
    },
    /// A projection is a NaN or an infinity.
    #[error("a projection on {trait_name} at {layer} is not finite")]
    NotFinite {
        /// The trait.
        trait_name: String,
        /// The layer.
        layer: Layer,
    },
    /// A setting that makes no sense.
    #[error("{reason}")]
    BadSetting {
        /// What is wrong.
        reason: String,
    },
    /// A calibration on too few readings for what is asked of it.
    #[error("the calibration of {trait_name} at {layer} has {found} readings of the kind {kind}, too few for {what}")]
    TooFewReadings {
        /// The trait.
        trait_name: String,
        /// The layer.
        layer: Layer,
        /// The kind of reading.
        kind: &'static str,
        /// How many there are.
        found: u64,
        /// What was asked.
        what: String,
    },
    /// A calibration that was made on something else.
    #[error("the calibration does not fit: its {what} is {found}, but {expected} is needed")]
    Misfit {
        /// What differs.
        what: String,
        /// What the calibration has.
        found: String,
        /// What is at hand.
        expected: String,
    },
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that cannot be written.
    #[error("{} cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that does not hold what it should.
    #[error("{} is not {what}: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A direction that cannot be had from a vector.
    #[error(transparent)]
    Vector(#[from] pv_vectors::Error),
    /// The model.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// The judge.
    #[error(transparent)]
    Judge(#[from] pv_judge::Error),
}
