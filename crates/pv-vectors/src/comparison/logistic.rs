//! Logistic regression by Newton's method.

use nalgebra::{DMatrix, DVector};

use super::gram;
use crate::{Error, Result};

const ITERATIONS: usize = 100;

/// The weights and intercept of a fit.
pub(super) struct Fit {
    pub(super) weights: DVector<f64>,
    pub(super) intercept: f64,
}

/// Minimises `‖w‖²/2 + c·Σ log(1 + exp(−y·(w·x + b)))` over the rows `x` and their signs `y`.
///
/// The objective is convex and the dimensions are few. Newton's steps, shortened if they overshoot, converge to
/// rounding in about ten iterations, whatever the scale of the columns.
pub(super) fn fit(rows: &DMatrix<f64>, signs: &DVector<f64>, c: f64) -> Result<Fit> {
    let not_converged = || Error::NotConverged { what: "the probe", iterations: ITERATIONS };
    let width = rows.ncols();
    // A last column of ones for the intercept.
    let rows = rows.clone().insert_column(width, 1.0);
    let objective = |point: &DVector<f64>| {
        let losses =
            (&rows * point).component_mul(signs).map(|margin| (-margin).max(0.0) + (-margin.abs()).exp().ln_1p());
        point.rows(0, width).norm_squared() / 2.0 + c * losses.sum()
    };
    let mut point = DVector::zeros(width + 1);
    let mut value = objective(&point);
    for _ in 0..ITERATIONS {
        // The probability of the wrong side for each row.
        let wrong = (&rows * &point).component_mul(signs).map(|margin| 1.0 / (1.0 + margin.exp()));
        let mut gradient = rows.tr_mul(&wrong.component_mul(signs)) * -c;
        let mut weighted = rows.clone();
        for (mut row, p) in weighted.row_iter_mut().zip(wrong.iter()) {
            row *= (c * p * (1.0 - p)).sqrt();
        }
        let mut hessian = gram(&weighted);
        for i in 0..width {
            gradient[i] += point[i];
            hessian[(i, i)] += 1.0;
        }
        let step = hessian.cholesky().ok_or_else(not_converged)?.solve(&gradient);
        // Twice the expected gain of the step.
        let gain = gradient.dot(&step);
        let mut length = 1.0;
        let next = loop {
            let next = &point - &step * length;
            let reached = objective(&next);
            if reached <= value - 1e-4 * length * gain {
                break Some((next, reached));
            }
            length /= 2.0;
            if length < 1e-9 {
                break None;
            }
        };
        let finished = gain <= 1e-15 * (1.0 + value);
        match next {
            Some((next, reached)) => (point, value) = (next, reached),
            // Below rounding no step shows a gain.
            None if gain <= 1e-9 * (1.0 + value) => return Ok(split(&point, width)),
            None => return Err(not_converged()),
        }
        if finished {
            return Ok(split(&point, width));
        }
    }
    Err(not_converged())
}

fn split(point: &DVector<f64>, width: usize) -> Fit {
    Fit { weights: point.rows(0, width).into_owned(), intercept: point[width] }
}
