//! How much of a direction an activation holds.

use crate::Direction;
use crate::vector::dot;

/// The projection `a · v / ‖v‖` of an activation on a direction, in activation units.
///
/// Both must have the same width; `None` otherwise, or when the direction has no length.
///
/// ```
/// use pv_hooks::Layer;
/// use pv_vectors::{Direction, cosine, projection};
/// let v = Direction { layer: Layer::hidden_state(3), values: vec![0.0, 2.0], mean_residual_norm: None };
/// assert_eq!(projection(&[3.0, 4.0], &v), Some(4.0));
/// assert_eq!(cosine(&[3.0, 4.0], &v), Some(0.8));
/// ```
pub fn projection(activation: &[f32], direction: &Direction) -> Option<f64> {
    let norm = direction.norm();
    let fits = activation.len() == direction.values.len() && norm > 0.0;
    fits.then(|| dot(activation, &direction.values) / norm)
}

/// The cosine of the angle between an activation and a direction; `None` as for [`projection`], or when the activation
/// has no length.
pub fn cosine(activation: &[f32], direction: &Direction) -> Option<f64> {
    let length = dot(activation, activation).sqrt();
    (length > 0.0).then(|| projection(activation, direction).map(|p| p / length)).flatten()
}
