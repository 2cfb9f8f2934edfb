//! How often something happens, and how far that can be trusted.

use serde::{Deserialize, Serialize};

/// The standard normal distribution's point for 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// The part of ordinary answers that raised an alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FalseAlarms {
    /// How many ordinary answers there were.
    pub answers: u64,
    /// How many of them raised it, once or more often.
    pub raised: u64,
}

impl FalseAlarms {
    /// The part; `None` without answers.
    pub fn rate(&self) -> Option<f64> {
        (self.answers > 0).then(|| self.raised as f64 / self.answers as f64)
    }

    /// The 95 % interval of the true part, by Wilson's score; from 0 to 1 without answers.
    pub fn interval(&self) -> (f64, f64) {
        let Some(rate) = self.rate() else { return (0.0, 1.0) };
        let n = self.answers as f64;
        let z2 = Z * Z / n;
        let middle = (rate + z2 / 2.0) / (1.0 + z2);
        let reach = Z / (1.0 + z2) * (rate * (1.0 - rate) / n + z2 / (4.0 * n)).sqrt();
        // At the ends the interval reaches them, but for rounding.
        let low = if self.raised == 0 { 0.0 } else { (middle - reach).max(0.0) };
        let high = if self.raised == self.answers { 1.0 } else { (middle + reach).min(1.0) };
        (low, high)
    }

    /// Takes an answer in.
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

    /// From Wilson's formula in tables (Newcombe 1998, table I, method 3): 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    #[test]
    fn the_interval_is_wilson_s() {
        for (raised, answers, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let found = FalseAlarms { answers, raised }.interval();
            assert!((found.0 - low).abs() < 5e-5 && (found.1 - high).abs() < 5e-5, "{raised} of {answers}: {found:?}");
        }
        assert_eq!(FalseAlarms::default().interval(), (0.0, 1.0));
        assert_eq!(FalseAlarms { answers: 5, raised: 5 }.interval().1, 1.0);
        assert_eq!((FalseAlarms::default().rate(), FalseAlarms { answers: 4, raised: 1 }.rate()), (None, Some(0.25)));
    }
}
