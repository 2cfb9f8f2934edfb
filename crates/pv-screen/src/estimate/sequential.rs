//! Sequential estimation, which stops as soon as the result is clear.

use serde::{Deserialize, Serialize};

use super::{Estimate, EstimateOptions, Known, Method, estimate};
use crate::Result;

/// The rule for stopping the generation of base answers; the first condition that is met stops it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// Stop when the interval is no wider than this, in activation units.
    pub width: Option<f64>,
    /// Stop when the interval lies on one side of this threshold, in activation units.
    pub threshold: Option<f64>,
}

/// The smallest number of base answers for a look. A smaller subset may well contain none of a kind of sample that is
/// one in ten, and no interval can account for it.
pub const FIRST_LOOK: usize = 32;

/// The reason for stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The interval is narrow enough.
    Narrow,
    /// ΔP is above the threshold.
    Above,
    /// ΔP is below the threshold.
    Below,
}

/// The result of one look at the base answers so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Look {
    /// The estimate, with an interval at this look's own level.
    pub estimate: Estimate,
    /// The reason for stopping; `None` to continue.
    pub decision: Option<Decision>,
}

/// Looks at growing subsets, with a correction for the number of looks: look `j` (from 1) may be wrong with probability
/// `α / (j·(j + 1))`. By the union bound, the probability that any of the looks is wrong is at most `α = 1 − level`, so
/// that the final interval covers the true value at this level whenever one stops. With doubling sizes the cost is low:
/// at a level of 95 %, the fourth look is at 99.75 %, with an interval 1.5 times as wide.
#[derive(Clone, Debug)]
pub struct Sequential {
    stop: Stop,
    method: Method,
    options: EstimateOptions,
    looks: usize,
}

impl Sequential {
    /// The state before the first look.
    pub fn new(stop: Stop, method: Method, options: EstimateOptions) -> Self {
        Self { stop, method, options, looks: 0 }
    }

    /// The number of looks so far.
    pub fn looks(&self) -> usize {
        self.looks
    }

    /// Looks at the samples that are known so far.
    ///
    /// # Errors
    /// Those of [`estimate`].
    pub fn look(&mut self, samples: &[Known]) -> Result<Look> {
        self.looks += 1;
        let estimate = estimate(samples, self.method, &of_look(self.options, self.looks))?;
        let interval = estimate.interval;
        let decision = match self.stop {
            Stop { threshold: Some(threshold), .. } if interval.low > threshold => Some(Decision::Above),
            Stop { threshold: Some(threshold), .. } if interval.high < threshold => Some(Decision::Below),
            Stop { width: Some(width), .. } if interval.high - interval.low <= width => Some(Decision::Narrow),
            _ => None,
        };
        Ok(Look { estimate, decision })
    }
}

/// The options with the level of this look.
fn of_look(options: EstimateOptions, look: usize) -> EstimateOptions {
    let wrong = (1.0 - options.level) / (look as f64 * (look as f64 + 1.0));
    EstimateOptions { level: 1.0 - wrong, ..options }
}

/// The estimate after this many looks, any of which might have been the last: its interval covers the true value at the
/// options' level, whatever the stopping rule. Without looks, the same as [`estimate`].
pub(crate) fn after_looks(
    samples: &[Known],
    method: Method,
    options: &EstimateOptions,
    looks: usize,
) -> Result<Estimate> {
    match looks {
        0 => estimate(samples, method, options),
        _ => Ok(Estimate { level: options.level, looks, ..estimate(samples, method, &of_look(*options, looks))? }),
    }
}
