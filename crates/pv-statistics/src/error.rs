//! Errors in the settings and values of a statistic.

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A confidence level that is not between 0 and 1.
    #[error("an interval that covers {level} of the repetitions: give a level between 0 and 1, both excluded")]
    Level {
        /// The given level.
        level: f64,
    },
    /// A number of resamples that is 0 or too large.
    #[error("a bootstrap of {resamples} resamples: give 1 to {most}")]
    Resamples {
        /// The given number.
        resamples: usize,
        /// The maximum number.
        most: usize,
    },
    /// Too few values.
    #[error("{what} needs at least {needed} values, there are {found}")]
    TooFew {
        /// What was computed.
        what: &'static str,
        /// The required number of values.
        needed: usize,
        /// The number of values found.
        found: usize,
    },
    /// A value that is NaN, or not finite where it must be.
    #[error("{what} of values among which is {value}, at {index}")]
    NotFinite {
        /// What was computed.
        what: &'static str,
        /// The value's index.
        index: usize,
        /// The value.
        value: f64,
    },
    /// A share that is not from 0 to 1.
    #[error("the quantile {share}: give a number from 0 to 1")]
    Share {
        /// The given share.
        share: f64,
    },
    /// A histogram without bins.
    #[error("a histogram without bins")]
    NoBins,
}

/// Refuses values of which one does not satisfy `holds`.
pub(crate) fn check_values(what: &'static str, values: &[f64], holds: impl Fn(f64) -> bool) -> Result<()> {
    match values.iter().enumerate().find(|(_, value)| !holds(**value)) {
        Some((index, &value)) => Err(Error::NotFinite { what, index, value }),
        None => Ok(()),
    }
}

/// Refuses a level that is not between 0 and 1.
pub(crate) fn check_level(level: f64) -> Result<()> {
    if level > 0.0 && level < 1.0 { Ok(()) } else { Err(Error::Level { level }) }
}
