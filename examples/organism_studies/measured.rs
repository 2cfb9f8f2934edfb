//! Measured values, their intervals, and their bounds.

use std::fmt;

use pv_examples::Result;
use pv_statistics::separation::Auc;
use pv_statistics::{BootstrapOptions, Change, Interval, Proportion};

/// A value and its 95 % interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    value: f64,
    low: f64,
    high: f64,
}

impl Measured {
    /// The mean of independent values, with the bootstrap's interval.
    pub(crate) fn mean(values: &[f64]) -> Result<Self> {
        let pairs: Vec<(f64, f64)> = values.iter().map(|value| (0.0, *value)).collect();
        let found = Change::of(&pairs, &BootstrapOptions::default())?.ok_or("a mean of nothing")?;
        let interval = found.interval.ok_or("an interval from a single value")?;
        Ok(Self { value: found.mean, low: interval.low, high: interval.high })
    }

    /// The decrease from one paired measurement to another.
    pub(crate) fn lost(before: &[f64], after: &[f64]) -> Result<Self> {
        let differences: Vec<f64> = before.iter().zip(after).map(|(before, after)| before - after).collect();
        Self::mean(&differences)
    }

    /// Values as a share of the mean of others; the error of that mean is ignored.
    pub(crate) fn share(values: &[f64], of: &[f64]) -> Result<Self> {
        let whole = of.iter().sum::<f64>() / of.len() as f64;
        let shares: Vec<f64> = values.iter().map(|value| value / whole).collect();
        Self::mean(&shares)
    }

    /// The share of successful trials, with Wilson's interval.
    pub(crate) fn proportion(successes: usize, trials: usize) -> Result<Self> {
        let found = Proportion::new(successes, trials).ok_or("a proportion of nothing")?;
        Ok(Self { value: found.value, low: found.low, high: found.high })
    }

    /// A correlation with its interval.
    pub(crate) fn correlation(r: f64, Interval { low, high }: Interval) -> Self {
        Self { value: r, low, high }
    }

    /// As a percentage.
    pub(crate) fn percent(self) -> Self {
        Self { value: 100.0 * self.value, low: 100.0 * self.low, high: 100.0 * self.high }
    }

    /// The value itself.
    pub(crate) fn value(self) -> f64 {
        self.value
    }
}

impl From<Auc> for Measured {
    fn from(found: Auc) -> Self {
        Self { value: found.value, low: found.interval.low, high: found.interval.high }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let Self { value, low, high } = self;
        write!(f, "{value:.digits$} [{low:.digits$}, {high:.digits$}]")
    }
}

/// The numbers of bounds that are met and not met.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    met: usize,
    open: usize,
    pub(crate) failed: usize,
}

impl Bounds {
    /// The bound that a value is at least this much.
    pub(crate) fn at_least(&mut self, found: Measured, bar: f64) -> &'static str {
        self.count(found.value >= bar, found.high >= bar)
    }

    /// The bound that a value is at most this much.
    pub(crate) fn at_most(&mut self, found: Measured, bar: f64) -> &'static str {
        self.count(found.value <= bar, found.low <= bar)
    }

    fn count(&mut self, kept: bool, possible: bool) -> &'static str {
        let (counter, said) = match (kept, possible) {
            (true, _) => (&mut self.met, "yes"),
            (false, true) => (&mut self.open, "within its interval"),
            (false, false) => (&mut self.failed, "**no**"),
        };
        *counter += 1;
        said
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} met, {} within their intervals, {} not met", self.met, self.open, self.failed)
    }
}
