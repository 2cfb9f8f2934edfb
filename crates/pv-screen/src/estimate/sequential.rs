//! Stopping as soon as enough is known.

use serde::{Deserialize, Serialize};

use super::{Estimate, EstimateOptions, Known, Method, estimate};
use crate::Result;

/// When no more base answers are needed; whichever comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// The interval is no wider than this, in activation units.
    pub width: Option<f64>,
    /// The interval lies on one side of this.
    pub threshold: Option<f64>,
}

/// The fewest base answers to look at: among fewer, a kind of sample that is one in ten may well not occur, and no interval can
/// know of it.
pub const FIRST_LOOK: usize = 32;

/// Why no more base answers are needed.
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

/// What one look at the base answers so far found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// The estimate, with the interval at this look's own level.
    pub estimate: Estimate,
    /// Why it is enough; `None` to go on.
    pub decision: Option<Decision>,
}

/// Looks at growing subsets with a correction for looking more than once: look `j` (from 1) may be wrong with the probability
/// `α / (j·(j + 1))`. All looks together, however many, are then wrong with at most `α = 1 − level` (the union
/// bound), so that the final interval covers the truth whenever one stops. Looks at doubling sizes keep the price low: the
/// fourth is at 99.75 % for 95 %, an interval 1.5 times as wide.
#[derive(Clone, Debug)]
pub struct Sequential {
    stop: Stop,
    method: Method,
    options: EstimateOptions,
    looks: usize,
}

impl Sequential {
    /// Before the first look.
    pub fn new(stop: Stop, method: Method, options: EstimateOptions) -> Self {
        Self { stop, method, options, looks: 0 }
    }

    /// How often it has looked.
    pub fn looks(&self) -> usize {
        self.looks
    }

    /// Looks at what is known by now.
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

/// The options with the level of this look alone.
fn of_look(options: EstimateOptions, look: usize) -> EstimateOptions {
    let wrong = (1.0 - options.level) / (look as f64 * (look as f64 + 1.0));
    EstimateOptions { level: 1.0 - wrong, ..options }
}

/// The estimate after so many looks, any of which might have been the last: its interval covers at the options' level, whatever it
/// was that ended the looking. Without looks, as [`estimate`].
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
