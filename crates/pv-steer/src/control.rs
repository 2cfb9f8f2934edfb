//! Moving some projections and no others.

use nalgebra::{Cholesky, DMatrix, DVector, SymmetricEigen};
use pv_vectors::Direction;

use crate::{Error, Result};

/// The greatest condition number of the Gram matrix for which a change is computed. At this one it may be a thousand times
/// (the root) as long as the amounts asked for, and adding it in f32 leaks some 1e-4 of them into the other projections.
pub const MAX_CONDITION: f64 = 1e6;

/// The smallest change of the residual that moves each projection by a given amount, in activation units: an amount of 0
/// keeps that projection where it is. To be added with [`Coefficient::Raw(1.0)`](crate::Coefficient::Raw); another
/// coefficient scales all amounts.
///
/// Adding a persona vector moves the projections on all vectors that it is not orthogonal to. This change `δ = Σ cᵢ·v̂ᵢ`
/// solves `G·c = b`, where `Gᵢⱼ = v̂ᵢ·v̂ⱼ` is the Gram matrix and `b` the amounts, so that `δ·v̂ⱼ = bⱼ` for every one; of all
/// changes that do, it is the shortest, since it lies in the directions' span. Everything is computed in f64.
///
/// # Errors
/// [`Error::NothingToMove`] when there is no direction or all amounts are 0, [`Error::BadAmount`] for one that is not
/// finite, [`Error::OtherLayer`] and [`Error::OtherWidth`] for directions of more than one place, [`Error::Degenerate`] for
/// one without length, and [`Error::Dependent`] when they are so nearly dependent that no change moves one and spares the
/// others ([`MAX_CONDITION`]).
///
/// ```
/// use pv_hooks::Layer;
/// use pv_steer::control;
/// use pv_vectors::Direction;
/// let at = |values: Vec<f32>| Direction { layer: Layer::hidden_state(3), values, mean_residual_norm: None };
/// let (kind, funny) = (at(vec![2.0, 0.0]), at(vec![1.0, 1.0]));
/// // Three more of `kind`, and as `funny` as before.
/// let change = control(&[(&kind, 3.0), (&funny, 0.0)])?;
/// assert_eq!(change.values, [3.0, -3.0]);
/// # Ok::<(), pv_steer::Error>(())
/// ```
pub fn control(amounts: &[(&Direction, f64)]) -> Result<Direction> {
    let Some(((first, _), _)) = amounts.split_first() else { return Err(Error::NothingToMove) };
    let mut units = Vec::with_capacity(amounts.len());
    for (index, (direction, amount)) in amounts.iter().enumerate() {
        if direction.layer != first.layer {
            return Err(Error::OtherLayer { index, expected: first.layer, found: direction.layer });
        }
        let (expected, found) = (first.values.len(), direction.values.len());
        if found != expected {
            return Err(Error::OtherWidth { index, expected, found });
        }
        if !amount.is_finite() {
            return Err(Error::BadAmount { index, value: *amount });
        }
        let norm = direction.norm();
        if norm == 0.0 || !norm.is_finite() {
            return Err(Error::Degenerate { layer: direction.layer });
        }
        units.push(direction.values.iter().map(|value| f64::from(*value) / norm).collect::<Vec<f64>>());
    }
    if amounts.iter().all(|(_, amount)| *amount == 0.0) {
        return Err(Error::NothingToMove);
    }
    let n = units.len();
    let dot = |a: usize, b: usize| units[a].iter().zip(&units[b]).map(|(a, b)| a * b).sum::<f64>();
    let gram = DMatrix::from_fn(n, n, |i, j| if i == j { 1.0 } else { dot(i.max(j), i.min(j)) });
    let dependent = |condition: f64, weights: &[f64]| {
        // Those that take the greatest part in the combination that is almost nothing.
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| weights[*b].abs().total_cmp(&weights[*a].abs()));
        let (first, second) = (order[0].min(order[n.min(2) - 1]), order[0].max(order[n.min(2) - 1]));
        Error::Dependent { first, second, cosine: gram[(first, second)], condition }
    };
    let eigen = SymmetricEigen::try_new(gram.clone(), f64::EPSILON, 100 * n);
    let Some(eigen) = eigen else { return Err(dependent(f64::INFINITY, &vec![1.0; n])) };
    let (least, greatest) = (eigen.eigenvalues.imin(), eigen.eigenvalues.max());
    // Rounding may leave the least eigenvalue of dependent directions below zero.
    let condition = greatest / eigen.eigenvalues[least].max(0.0);
    let weights: Vec<f64> = eigen.eigenvectors.column(least).iter().copied().collect();
    if condition.is_nan() || condition > MAX_CONDITION {
        return Err(dependent(condition, &weights));
    }
    let Some(cholesky) = Cholesky::new(gram.clone()) else { return Err(dependent(condition, &weights)) };
    let coefficients = cholesky.solve(&DVector::from_iterator(n, amounts.iter().map(|(_, amount)| *amount)));
    let mut change = vec![0f64; first.values.len()];
    for (unit, coefficient) in units.iter().zip(coefficients.iter()) {
        change.iter_mut().zip(unit).for_each(|(sum, value)| *sum += coefficient * value);
    }
    let values: Vec<f32> = change.into_iter().map(|value| value as f32).collect();
    let change = Direction { layer: first.layer, values, mean_residual_norm: first.mean_residual_norm };
    let norm = change.norm();
    if norm == 0.0 || !norm.is_finite() {
        return Err(Error::Degenerate { layer: first.layer });
    }
    Ok(change)
}
