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
    for (index, (_, amount)) in amounts.iter().enumerate() {
        if !amount.is_finite() {
            return Err(Error::BadAmount { index, value: *amount });
        }
    }
    let directions: Vec<&Direction> = amounts.iter().map(|(direction, _)| *direction).collect();
    let (first, units) = units(&directions)?;
    if amounts.iter().all(|(_, amount)| *amount == 0.0) {
        return Err(Error::NothingToMove);
    }
    let coefficients = solve(&units, amounts.iter().map(|(_, amount)| *amount))?;
    let mut change = vec![0f64; first.values.len()];
    for (unit, coefficient) in units.iter().zip(coefficients) {
        change.iter_mut().zip(&unit.values).for_each(|(sum, value)| *sum += coefficient * value);
    }
    let values: Vec<f32> = change.into_iter().map(|value| value as f32).collect();
    let change = Direction { layer: first.layer, values, mean_residual_norm: first.mean_residual_norm };
    let norm = change.norm();
    if norm == 0.0 || !norm.is_finite() {
        return Err(Error::Degenerate { layer: first.layer });
    }
    Ok(change)
}

/// The parts that a change of the residual has along several directions, in multiples of each: those whose sum comes
/// nearest to the change (least squares). Where projections on vectors that resemble one another all rise together, the parts
/// tell which of them the change is made of; it is [`control`] read backwards.
///
/// # Errors
/// Those of [`control`] for the directions, and [`Error::OtherWidth`] for a change of another width.
///
/// ```
/// use pv_hooks::Layer;
/// use pv_steer::decompose;
/// use pv_vectors::Direction;
/// let at = |values: Vec<f32>| Direction { layer: Layer::hidden_state(3), values, mean_residual_norm: None };
/// let (kind, funny) = (at(vec![2.0, 0.0]), at(vec![1.0, 1.0]));
/// // Once `kind` and half of `funny`, though its projection on `funny` is the greater one.
/// let parts = decompose(&[2.5, 0.5], &[&kind, &funny])?;
/// assert!((parts[0] - 1.0).abs() < 1e-12 && (parts[1] - 0.5).abs() < 1e-12);
/// # Ok::<(), pv_steer::Error>(())
/// ```
pub fn decompose(change: &[f32], directions: &[&Direction]) -> Result<Vec<f64>> {
    let (first, units) = units(directions)?;
    let (expected, found) = (first.values.len(), change.len());
    if found != expected {
        return Err(Error::OtherWidth { index: directions.len(), expected, found });
    }
    let projection = |unit: &Unit| unit.values.iter().zip(change).map(|(a, b)| a * f64::from(*b)).sum::<f64>();
    parts(&units, units.iter().map(projection))
}

/// As [`decompose`], of a change of which only the projections on the directions are known, in activation units: a finetuning shift,
/// or a data set's projection difference. They say all that the parts depend on.
///
/// # Errors
/// Those of [`decompose`]; [`Error::BadAmount`] for a projection that is not finite, [`Error::ProjectionCount`] for more or fewer
/// projections than directions.
///
/// ```
/// use pv_hooks::Layer;
/// use pv_steer::decompose_projections;
/// use pv_vectors::Direction;
/// let at = |values: Vec<f32>| Direction { layer: Layer::hidden_state(3), values, mean_residual_norm: None };
/// let (evil, rude) = (at(vec![2.0, 0.0]), at(vec![3.0, 4.0]));
/// // Those of `evil` itself, which lies along `rude` too.
/// let parts = decompose_projections(&[2.0, 1.2], &[&evil, &rude])?;
/// assert!((parts[0] - 1.0).abs() < 1e-6 && parts[1].abs() < 1e-6);
/// # Ok::<(), pv_steer::Error>(())
/// ```
pub fn decompose_projections(projections: &[f64], directions: &[&Direction]) -> Result<Vec<f64>> {
    let (_, units) = units(directions)?;
    if projections.len() != directions.len() {
        return Err(Error::ProjectionCount { directions: directions.len(), found: projections.len() });
    }
    if let Some(index) = projections.iter().position(|projection| !projection.is_finite()) {
        return Err(Error::BadAmount { index, value: projections[index] });
    }
    parts(&units, projections.iter().copied())
}

/// Coefficients of the directions, from the projections on their units.
fn parts(units: &[Unit], projections: impl Iterator<Item = f64>) -> Result<Vec<f64>> {
    let coefficients = solve(units, projections)?;
    Ok(coefficients.into_iter().zip(units).map(|(coefficient, unit)| coefficient / unit.norm).collect())
}

/// A direction of length 1, and how long it was.
struct Unit {
    values: Vec<f64>,
    norm: f64,
}

/// The directions made units, and the first of them; all must be of one place.
fn units<'a>(directions: &[&'a Direction]) -> Result<(&'a Direction, Vec<Unit>)> {
    let Some((first, _)) = directions.split_first() else { return Err(Error::NothingToMove) };
    let mut units = Vec::with_capacity(directions.len());
    for (index, direction) in directions.iter().enumerate() {
        if direction.layer != first.layer {
            return Err(Error::OtherLayer { index, expected: first.layer, found: direction.layer });
        }
        let (expected, found) = (first.values.len(), direction.values.len());
        if found != expected {
            return Err(Error::OtherWidth { index, expected, found });
        }
        let norm = direction.norm();
        if norm == 0.0 || !norm.is_finite() {
            return Err(Error::Degenerate { layer: direction.layer });
        }
        units.push(Unit { values: direction.values.iter().map(|value| f64::from(*value) / norm).collect(), norm });
    }
    Ok((first, units))
}

/// Solves `G·c = b` for the units' Gram matrix.
fn solve(units: &[Unit], amounts: impl Iterator<Item = f64>) -> Result<Vec<f64>> {
    let n = units.len();
    let dot = |a: usize, b: usize| units[a].values.iter().zip(&units[b].values).map(|(a, b)| a * b).sum::<f64>();
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
    Ok(cholesky.solve(&DVector::from_iterator(n, amounts)).iter().copied().collect())
}
