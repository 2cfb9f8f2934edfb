//! Comparing numbers with a reference.

use std::fmt;

/// The position of the greatest difference between two rows of numbers.
#[derive(Clone, Debug)]
pub struct Divergence {
    /// What was compared.
    pub what: String,
    /// The greatest absolute difference.
    pub max_abs: f32,
    /// The index at which it is.
    pub at: usize,
    /// Our value there.
    pub ours: f32,
    /// The reference's value there.
    pub reference: f32,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, max_abs, at, ours, reference } = self;
        write!(f, "{what}: differs by {max_abs:.3e} at value {at}: ours {ours}, reference {reference}")
    }
}

/// The greatest absolute difference; a NaN on either side is an infinite one.
///
/// # Panics
/// If there is nothing to compare or the lengths differ.
pub fn compare(what: impl Into<String>, ours: &[f32], reference: &[f32]) -> Divergence {
    let what = what.into();
    assert_eq!(ours.len(), reference.len(), "{what}: {} values against {}", ours.len(), reference.len());
    assert!(!ours.is_empty(), "{what}: nothing to compare");
    let gap = |a: f32, b: f32| {
        let gap = (a - b).abs();
        if gap.is_nan() { f32::INFINITY } else { gap }
    };
    let mut worst = 0;
    for i in 0..ours.len() {
        if gap(ours[i], reference[i]) > gap(ours[worst], reference[worst]) {
            worst = i;
        }
    }
    Divergence {
        what,
        max_abs: gap(ours[worst], reference[worst]),
        at: worst,
        ours: ours[worst],
        reference: reference[worst],
    }
}
