//! The side of a threshold.

use serde::{Deserialize, Serialize};

/// The side of a threshold on which readings raise an alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Readings above the threshold.
    #[default]
    Above,
    /// Readings below the threshold.
    Below,
}
