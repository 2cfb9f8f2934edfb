//! Statistics over numbers. This crate knows no models or tensors; all crates above it use its statistics.
//!
//! - [`intervals`]: [`Interval`], the quantile of values, Student's interval of a mean.
//! - [`moments`]: means and sums of squares.
//! - [`bootstrap`]: percentile intervals over values, over clusters of values, and over two crossed factors such as
//!   questions and instruction pairs.
//! - [`correlation`]: Pearson's r and Spearman's ρ, with intervals for independent pairs and for clustered ones.
//! - [`proportion`]: Wilson's interval. [`change`]: the mean change between two measurements of the same units.
//! - [`separation`]: comparison of two sets: area under the ROC curve, Cohen's d, Kolmogorov–Smirnov, histograms.
//! - [`distribution`]: moments and quantiles of a stream in bounded memory.
//!
//! A statistic that cannot be computed from the given values (too few, no variation) is `None`; invalid settings are an
//! [`Error`]. All draws are seeded, and results do not depend on the number of threads.
//!
//! ```
//! use pv_statistics::bootstrap::bootstrap_mean;
//! use pv_statistics::correlation::{Clusters, clustered_interval, pearson};
//! use pv_statistics::separation::roc_auc;
//! use pv_statistics::{BootstrapOptions, Proportion};
//!
//! # fn main() -> Result<(), pv_statistics::Error> {
//! let options = BootstrapOptions::default();
//! assert!(bootstrap_mean(&[1.0, 2.0, 3.0, 4.0], &options)?.contains(2.5));
//! assert!(Proportion::new(9, 10).is_some_and(|found| found.low > 0.5));
//! assert_eq!(roc_auc(&[2.0, 3.0], &[1.0, 2.0]), Some(0.875));
//!
//! // Two answers to each of six prompts: what is drawn for the interval are prompts.
//! let pairs: Vec<(f64, f64)> = (0..12).map(|i| (f64::from(i / 2), f64::from(i / 2 + i % 2))).collect();
//! let prompts: Vec<usize> = (0..12).map(|i| i / 2).collect();
//! let r = |rows: &[usize]| pearson(&rows.iter().map(|row| pairs[*row]).collect::<Vec<_>>()).map(|found| found.r);
//! let interval = clustered_interval(&Clusters::new(&prompts), &options, r)?;
//! assert!(interval.is_some_and(|interval| interval.low > 0.0));
//! # Ok(())
//! # }
//! ```

pub mod bootstrap;
pub mod change;
pub mod correlation;
pub mod distribution;
mod error;
pub mod intervals;
pub mod moments;
pub mod proportion;
pub mod separation;

pub use bootstrap::BootstrapOptions;
pub use change::Change;
pub use correlation::Correlation;
pub use distribution::Distribution;
pub use error::{Error, Result};
pub use intervals::Interval;
pub use proportion::Proportion;
