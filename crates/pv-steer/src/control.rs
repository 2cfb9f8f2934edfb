//! Changes that move some projections and leave others unchanged.

use nalgebra::{Cholesky, DMatrix, DVector, SymmetricEigen};
use pv_vectors::Direction;

use crate::Result;
use crate::error::SteeringError;

/// The largest condition number of the Gram matrix for which a change is computed. At this value the change may be a
/// thousand times (the root) as long as the requested amounts, and adding it in f32 leaks about 1e-4 of them into the
/// other projections.
pub const MAX_CONDITION: f64 = 1e6;

/// The smallest change of the residual, `[d_model]`, that moves each projection by a given amount in activation units.
/// An amount of 0 leaves that projection unchanged. Add the change with
/// [`Coefficient::Raw(1.0)`](crate::Coefficient::Raw); another coefficient scales all amounts.
///
/// Adding a persona vector moves the projections on all vectors that it is not orthogonal to. This change `δ = Σ
/// cᵢ·v̂ᵢ` solves `G·c = b`, where `Gᵢⱼ = v̂ᵢ·v̂ⱼ` is the Gram matrix and `b` the amounts, so that `δ·v̂ⱼ = bⱼ` for
/// every `j`. It is the shortest such change, since it lies in the span of the directions. Everything is computed in
/// f64.
///
/// # Errors
/// [`SteeringError::NothingToMove`] if there is no direction or all amounts are 0, [`SteeringError::BadAmount`] for an amount that is
/// not finite, [`SteeringError::OtherLayer`] and [`SteeringError::OtherWidth`] for directions of different layers or widths,
/// [`SteeringError::Degenerate`] for a direction with length zero, and [`SteeringError::Dependent`] if the directions are so nearly
/// dependent that no change moves one and leaves the others ([`MAX_CONDITION`]).
///
/// ```
/// use pv_hooks::Layer;
/// use pv_steer::control::control;
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
            return Err(SteeringError::BadAmount { index, value: *amount }.into());
        }
    }
    let directions: Vec<&Direction> = amounts.iter().map(|(direction, _)| *direction).collect();
    let (first, units) = units(&directions)?;
    if amounts.iter().all(|(_, amount)| *amount == 0.0) {
        return Err(SteeringError::NothingToMove.into());
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
        return Err(SteeringError::Degenerate { layer: first.layer }.into());
    }
    Ok(change)
}

/// Decomposes a change of the residual, `[d_model]`, along several directions: the multiples of each whose sum is
/// nearest to the change (least squares). If the projections on similar vectors all rise together, the parts show which
/// of them the change consists of. This is the inverse of [`control`].
///
/// # Errors
/// Those of [`control`] for the directions, and [`SteeringError::OtherWidth`] for a change of another width.
///
/// ```
/// use pv_hooks::Layer;
/// use pv_steer::control::decompose;
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
        return Err(SteeringError::OtherWidth { index: directions.len(), expected, found }.into());
    }
    let projection = |unit: &Unit| unit.values.iter().zip(change).map(|(a, b)| a * f64::from(*b)).sum::<f64>();
    parts(&units, units.iter().map(projection))
}

/// Like [`decompose`], from the projections of the change on the directions, in activation units: a finetuning shift,
/// or a data set's projection difference. The parts depend on nothing else.
///
/// # Errors
/// Those of [`decompose`]; [`SteeringError::BadAmount`] for a projection that is not finite, [`SteeringError::ProjectionCount`] if the
/// number of projections is not the number of directions.
///
/// ```
/// use pv_hooks::Layer;
/// use pv_steer::control::decompose_projections;
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
        return Err(SteeringError::ProjectionCount { directions: directions.len(), found: projections.len() }.into());
    }
    if let Some(index) = projections.iter().position(|projection| !projection.is_finite()) {
        return Err(SteeringError::BadAmount { index, value: projections[index] }.into());
    }
    parts(&units, projections.iter().copied())
}

/// The coefficients of the directions, from the projections on their unit vectors.
fn parts(units: &[Unit], projections: impl Iterator<Item = f64>) -> Result<Vec<f64>> {
    let coefficients = solve(units, projections)?;
    Ok(coefficients.into_iter().zip(units).map(|(coefficient, unit)| coefficient / unit.norm).collect())
}

/// A unit vector, with the norm of its direction.
struct Unit {
    values: Vec<f64>,
    norm: f64,
}

/// The unit vectors of directions that must have one layer and width, and the first direction.
fn units<'a>(directions: &[&'a Direction]) -> Result<(&'a Direction, Vec<Unit>)> {
    let Some((first, _)) = directions.split_first() else { return Err(SteeringError::NothingToMove.into()) };
    let mut units = Vec::with_capacity(directions.len());
    for (index, direction) in directions.iter().enumerate() {
        if direction.layer != first.layer {
            return Err(SteeringError::OtherLayer { index, expected: first.layer, found: direction.layer }.into());
        }
        let (expected, found) = (first.values.len(), direction.values.len());
        if found != expected {
            return Err(SteeringError::OtherWidth { index, expected, found }.into());
        }
        let norm = direction.norm();
        if norm == 0.0 || !norm.is_finite() {
            return Err(SteeringError::Degenerate { layer: direction.layer }.into());
        }
        units.push(Unit { values: direction.values.iter().map(|value| f64::from(*value) / norm).collect(), norm });
    }
    Ok((first, units))
}

/// Solves `G·c = b` for the unit vectors' Gram matrix.
fn solve(units: &[Unit], amounts: impl Iterator<Item = f64>) -> Result<Vec<f64>> {
    let n = units.len();
    let dot = |a: usize, b: usize| units[a].values.iter().zip(&units[b].values).map(|(a, b)| a * b).sum::<f64>();
    let gram = DMatrix::from_fn(n, n, |i, j| if i == j { 1.0 } else { dot(i.max(j), i.min(j)) });
    let dependent = |condition: f64, weights: &[f64]| {
        // The directions with the largest shares in the combination that almost vanishes.
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| weights[*b].abs().total_cmp(&weights[*a].abs()));
        let (first, second) = (order[0].min(order[n.min(2) - 1]), order[0].max(order[n.min(2) - 1]));
        SteeringError::Dependent { first, second, cosine: gram[(first, second)], condition }
    };
    let eigen = SymmetricEigen::try_new(gram.clone(), f64::EPSILON, 100 * n);
    let Some(eigen) = eigen else { return Err(dependent(f64::INFINITY, &vec![1.0; n]).into()) };
    let (least, greatest) = (eigen.eigenvalues.imin(), eigen.eigenvalues.max());
    // Rounding may move the smallest eigenvalue of dependent directions below zero.
    let condition = greatest / eigen.eigenvalues[least].max(0.0);
    let weights: Vec<f64> = eigen.eigenvectors.column(least).iter().copied().collect();
    if condition.is_nan() || condition > MAX_CONDITION {
        return Err(dependent(condition, &weights).into());
    }
    let Some(cholesky) = Cholesky::new(gram.clone()) else { return Err(dependent(condition, &weights).into()) };
    Ok(cholesky.solve(&DVector::from_iterator(n, amounts)).iter().copied().collect())
}
