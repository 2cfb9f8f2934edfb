//! Rates of false alarms, and their confidence intervals.

use pv_statistics::Interval;
use pv_statistics::proportion::wilson;
use serde::{Deserialize, Serialize};

/// The confidence level: the fraction of repetitions, with other answers, whose interval covers the true rate.
const LEVEL: f64 = 0.95;

/// The fraction of ordinary answers that raised an alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FalseAlarms {
    /// The number of ordinary answers.
    pub answers: u64,
    /// The number of answers that raised one or more alarms.
    pub raised: u64,
}

impl FalseAlarms {
    /// The rate; `None` without answers.
    pub fn rate(&self) -> Option<f64> {
        (self.answers > 0).then(|| self.raised as f64 / self.answers as f64)
    }

    /// The 95 % interval of the true rate, by Wilson's score; from 0 to 1 without answers.
    pub fn interval(&self) -> Interval {
        wilson(self.raised, self.answers, LEVEL).unwrap_or(Interval { low: 0.0, high: 1.0 })
    }

    /// Counts an answer.
    pub(super) fn count(&mut self, raised: bool) {
        self.answers += 1;
        self.raised += u64::from(raised);
    }

    pub(super) fn merged(self, other: Self) -> Self {
        let (answers, raised) = (self.answers.saturating_add(other.answers), self.raised.saturating_add(other.raised));
        Self { answers, raised }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_nothing_is_everything() {
        assert_eq!(FalseAlarms::default().interval(), Interval { low: 0.0, high: 1.0 });
        let some = FalseAlarms { answers: 4, raised: 1 };
        assert_eq!((FalseAlarms::default().rate(), some.rate()), (None, Some(0.25)));
        assert!(some.interval().contains(0.25));
    }
}
