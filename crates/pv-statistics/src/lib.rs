#![doc = include_str!("../README.md")]
//!
//! # Overview
//! - [`intervals`]: [`Interval`], the quantile of values, Student's interval of a mean.
//! - [`moments`]: means and sums of squares.
//! - [`bootstrap`]: percentile intervals over values, over clusters of values, and over two crossed factors such as
//!   questions and instruction pairs.
//! - [`correlation`]: Pearson's r and Spearman's ρ, with intervals for independent pairs and for clustered ones.
//! - [`proportion`]: Wilson's interval. [`change`]: the mean change between two measurements of the same units.
//! - [`separation`]: comparison of two sets: area under the ROC curve, Cohen's d, Kolmogorov–Smirnov, histograms.
//! - [`distribution`]: moments and quantiles of a stream in bounded memory.

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
