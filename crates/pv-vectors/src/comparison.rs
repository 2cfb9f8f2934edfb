//! Directions to compare with the mean difference: the first principal component of the pairs' differences, and a
//! linear probe.

mod logistic;

use nalgebra::{DMatrix, DVector, SymmetricEigen};
use rayon::prelude::*;

use crate::activations::{Activations, Units, alike};
use crate::error::SettingError;
use crate::{Error, Result, UnitDirection};

/// The number of columns that one task multiplies.
const BLOCK: usize = 64;

/// The point from which the spread of the pairs' differences is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Centring {
    /// The origin, as if each pair existed in both orders: the difference that all pairs share counts as spread, so
    /// that the component can be the mean difference.
    #[default]
    Origin,
    /// The mean difference: how the pairs differ from each other, without what they share.
    Mean,
}

/// The first principal component of the pairs' differences.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PrincipalComponent {
    /// The component, with the sign of the mean difference.
    pub direction: UnitDirection,
    /// The fraction of the spread along the component, between 0 and 1.
    pub explained: f64,
}

/// The first principal component of the differences between paired rollouts: row `i` of `pos` minus row `i` of `neg`.
/// The time grows with the cube of the smaller of the number of pairs and the width.
///
/// # Errors
/// [`Error::Unlike`] for activations of different layers, widths or numbers of rows, and [`Error::NoDirection`] if all
/// differences are zero (or equal, with [`Centring::Mean`]).
pub fn principal_component(
    pos: &Activations<'_>,
    neg: &Activations<'_>,
    centring: Centring,
) -> Result<PrincipalComponent> {
    alike(pos, neg)?;
    if pos.len() != neg.len() {
        let (left, right) = (pos.len().to_string(), neg.len().to_string());
        return Err(Error::Unlike { what: "the number of rows, which are to be pairs", left, right });
    }
    let operation = "the first principal component";
    let none = Error::NoDirection { operation, layer: pos.layer() };
    // One column per pair.
    let pairs = pos.rows().zip(neg.rows());
    let values = pairs.flat_map(|(p, n)| p.into_iter().zip(n).map(|(p, n)| f64::from(*p) - f64::from(*n)));
    let mut differences = DMatrix::from_iterator(pos.d_model(), pos.len(), values);
    let mean = differences.column_mean();
    let size = differences.amax();
    if centring == Centring::Mean {
        differences.column_iter_mut().for_each(|mut column| column -= &mean);
    }
    // Centring equal differences leaves only rounding.
    if differences.amax() <= size * 1e-12 {
        return Err(none);
    }
    let few = differences.ncols() <= differences.nrows();
    let products = if few { gram(&differences) } else { gram(&differences.transpose()) };
    let spread = products.trace();
    let (values, vectors) = eigen(products, operation)?;
    let (first, greatest) = values.argmax();
    let axis = vectors.column(first);
    let axis = if few { &differences * axis } else { axis.into_owned() };
    let sign = if axis.dot(&mean) < 0.0 { -1.0 } else { 1.0 };
    let direction = UnitDirection::new(pos.layer(), (axis * sign).as_slice()).map_err(|_| none)?;
    Ok(PrincipalComponent { direction, explained: (greatest / spread).clamp(0.0, 1.0) })
}

/// The regularisation of a probe: smaller values regularise more. The unit is part of the type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Regularisation {
    /// scikit-learn's `C` on the raw activations: the probe minimises `‖w‖²/2 + C·Σ log(1 + exp(−y·(w·a + b)))`.
    C(f64),
    /// The same on activations divided by their root mean square distance from their mean. It has the same meaning at
    /// every layer and in every model.
    RelativeC(f64),
}

/// Options for fitting a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeOptions {
    /// The regularisation.
    pub regularisation: Regularisation,
    /// The number of folds for measuring the accuracy.
    pub folds: usize,
    /// The seed of the assignment of questions to folds.
    pub seed: u64,
}

impl Default for ProbeOptions {
    /// A relative `C` of 1, five folds.
    fn default() -> Self {
        Self { regularisation: Regularisation::RelativeC(1.0), folds: 5, seed: 0 }
    }
}

/// A linear probe: logistic regression with an L2 penalty on its weights, but not on its intercept.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Probe {
    /// The direction of the weights, toward `pos`.
    pub direction: UnitDirection,
    /// The norm of the weights.
    pub weight: f64,
    /// The intercept.
    pub intercept: f64,
    /// The fraction of rollouts that are classified correctly by probes fitted without their folds.
    pub held_out_accuracy: f64,
    /// The ROC-AUC of those probes' logits.
    pub held_out_auc: f64,
    /// The accuracy of always predicting the larger side.
    pub baseline: f64,
}

impl Probe {
    /// The log odds that an activation, `[d_model]`, belongs to `pos`; `None` if the widths differ.
    pub fn logit(&self, activation: &[f32]) -> Option<f64> {
        Some(self.direction.projection(activation)? * self.weight + self.intercept)
    }
}

/// Fits a linear probe that separates `pos` from `neg`, and measures it fold by fold. Whole questions are held out if
/// they are known. The time per fold grows with rows × the square of the smaller of the number of rows and the width.
///
/// # Errors
/// [`Error::Unlike`] for activations of different layers or widths, [`Error::TooFewUnits`] for too few questions,
/// [`Error::Setting`], [`Error::NotConverged`], and [`Error::NoDirection`] if all activations are equal.
pub fn probe(pos: &Activations<'_>, neg: &Activations<'_>, options: &ProbeOptions) -> Result<Probe> {
    let units = Units::new(pos, neg)?;
    let parts = units.folds(options.folds, options.seed, "the probe")?;
    let part: Vec<usize> = units.of.iter().flatten().map(|unit| parts[*unit]).collect();
    let operation = "the probe";
    let none = Error::NoDirection { operation, layer: pos.layer() };

    // One column per row, centred and scaled: the intercept absorbs any shift, and the penalty the scale.
    let rows = pos.rows().chain(neg.rows());
    let mut columns = DMatrix::from_iterator(pos.d_model(), part.len(), rows.flatten().map(|value| f64::from(*value)));
    let mean = columns.column_mean();
    columns.column_iter_mut().for_each(|mut column| column -= &mean);
    let scale = (columns.norm_squared() / part.len() as f64).sqrt();
    if scale <= mean.amax() * 1e-12 {
        return Err(none);
    }
    columns /= scale;
    let (given, c) = match options.regularisation {
        Regularisation::C(c) => (c, c * scale * scale),
        Regularisation::RelativeC(c) => (c, c),
    };
    if !(c > 0.0 && c.is_finite()) {
        return Err(SettingError::Regularisation { c: given }.into());
    }

    // The weights are in the span of the rows: with fewer rows than dimensions, it has fewer coordinates.
    let span = (columns.ncols() < columns.nrows()).then(|| span(&columns, operation)).transpose()?;
    let coordinates = match &span {
        Some(span) => columns.tr_mul(span),
        None => columns.transpose(),
    };
    let signs = DVector::from_fn(part.len(), |row, _| if row < pos.len() { 1.0 } else { -1.0 });
    let fit = logistic::fit(&coordinates, &signs, c)?;

    let held_out = (0..options.folds)
        .into_par_iter()
        .map(|fold| {
            let (inside, outside): (Vec<usize>, Vec<usize>) = (0..part.len()).partition(|row| part[*row] == fold);
            let fit = logistic::fit(&coordinates.select_rows(&outside), &signs.select_rows(&outside), c)?;
            let logits = coordinates.select_rows(&inside) * &fit.weights;
            Ok(inside.into_iter().zip(logits.iter().map(|logit| logit + fit.intercept)).collect())
        })
        .collect::<Result<Vec<Vec<(usize, f64)>>>>()?;
    let held_out: Vec<(usize, f64)> = held_out.into_iter().flatten().collect();
    let right = held_out.iter().filter(|(row, logit)| (*logit > 0.0) == (*row < pos.len())).count();
    let side = |of_pos: bool| -> Vec<f64> {
        held_out.iter().filter(|(row, _)| (*row < pos.len()) == of_pos).map(|(_, logit)| *logit).collect()
    };

    let weights = match &span {
        Some(span) => span * fit.weights,
        None => fit.weights,
    } / scale;
    Ok(Probe {
        direction: UnitDirection::new(pos.layer(), weights.as_slice()).map_err(|_| none)?,
        weight: weights.norm(),
        intercept: fit.intercept - mean.dot(&weights),
        held_out_accuracy: right as f64 / part.len() as f64,
        held_out_auc: pv_statistics::separation::roc_auc(&side(true), &side(false)).unwrap_or(f64::NAN),
        baseline: pos.len().max(neg.len()) as f64 / part.len() as f64,
    })
}

/// An orthonormal basis of the span of the columns, as columns.
fn span(columns: &DMatrix<f64>, what: &'static str) -> Result<DMatrix<f64>> {
    let (values, vectors) = eigen(gram(columns), what)?;
    let least = values.max() * 1e-12;
    let kept: Vec<usize> = (0..values.len()).filter(|i| values[*i] > least).collect();
    let mut basis = columns * vectors.select_columns(&kept);
    for (mut column, i) in basis.column_iter_mut().zip(kept) {
        column /= values[i].sqrt();
    }
    Ok(basis)
}

/// The eigenvalues and eigenvectors of a symmetric matrix.
fn eigen(matrix: DMatrix<f64>, what: &'static str) -> Result<(DVector<f64>, DMatrix<f64>)> {
    let iterations = 100 * matrix.nrows();
    let eigen = SymmetricEigen::try_new(matrix, f64::EPSILON, iterations);
    eigen.map(|eigen| (eigen.eigenvalues, eigen.eigenvectors)).ok_or(Error::NotConverged { what, iterations })
}

/// The dot products between all columns, `[columns, columns]`.
fn gram(columns: &DMatrix<f64>) -> DMatrix<f64> {
    let n = columns.ncols();
    let starts: Vec<usize> = (0..n).step_by(BLOCK).collect();
    // The lower triangle; the upper one is equal.
    let below = |start: &usize| {
        let width = BLOCK.min(n - start);
        columns.columns(*start, n - start).tr_mul(&columns.columns(*start, width))
    };
    let blocks: Vec<DMatrix<f64>> = starts.par_iter().map(below).collect();
    DMatrix::from_fn(n, n, |i, j| {
        let (low, high) = (i.min(j), i.max(j));
        let block = low / BLOCK;
        blocks[block][(high - block * BLOCK, low - block * BLOCK)]
    })
}

#[cfg(test)]
mod tests;
