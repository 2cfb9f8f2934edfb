//! Sums, differences and angles of directions and of whole persona vectors, all accumulated in f64.

use std::collections::BTreeMap;

use ndarray::{Array2, Array3, ArrayView1, ArrayView2};
use pv_hooks::Layer;
use pv_model::RenderOptions;

use crate::error::SettingError;
use crate::vector::{LayerRows, Pooling, RowMark, dot};
use crate::{Direction, Error, PersonaVector, Result};

/// A remainder that is shorter than this fraction of the original counts as rounding, not as a direction. It is about
/// ten times what rounding to f32 leaves of a vector in the span of the others.
const ROUNDING: f64 = 1e-6;

impl Direction {
    /// The sum of two directions at the same layer.
    ///
    /// # Errors
    /// [`Error::Unlike`] for directions of different layers or widths, [`Error::NoDirection`] if the sum is zero.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        self.fits(other)?;
        self.with("adding", sum(&[(1.0, &self.values), (1.0, &other.values)]))
    }

    /// The difference of two directions at the same layer.
    ///
    /// # Errors
    /// Those of [`plus`](Self::plus).
    pub fn minus(&self, other: &Self) -> Result<Self> {
        self.fits(other)?;
        self.with("subtracting", sum(&[(1.0, &self.values), (-1.0, &other.values)]))
    }

    /// The direction times a number.
    ///
    /// # Errors
    /// [`Error::NoDirection`] if the result is zero, or if values are outside the range of f32.
    pub fn scaled(&self, factor: f64) -> Result<Self> {
        self.with("scaling", sum(&[(factor, &self.values)]))
    }

    /// The component of the direction that is orthogonal to all of `others`, which may be linearly dependent.
    ///
    /// # Errors
    /// [`Error::Unlike`] for directions of different layers or widths, [`Error::NoDirection`] if only rounding remains.
    pub fn orthogonal_to(&self, others: &[Self]) -> Result<Self> {
        others.iter().try_for_each(|other| self.fits(other))?;
        let basis = basis(others.iter().map(|other| other.values.as_slice()));
        let rest = rest(&self.values, &basis);
        self.with("orthogonalising", rest.unwrap_or_default())
    }

    fn fits(&self, other: &Self) -> Result<()> {
        let unlike = |what, left: String, right: String| Err(Error::Unlike { what, left, right });
        if self.layer != other.layer {
            return unlike("layer", self.layer.to_string(), other.layer.to_string());
        }
        if self.values.len() != other.values.len() {
            return unlike("width", self.values.len().to_string(), other.values.len().to_string());
        }
        Ok(())
    }

    /// A direction with other values at the same layer. The mean residual norm belongs to the layer, so it is kept.
    fn with(&self, operation: &'static str, values: Vec<f64>) -> Result<Self> {
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        let norm = dot(&values, &values);
        if !(norm > 0.0 && norm.is_finite()) {
            return Err(Error::NoDirection { operation, layer: self.layer });
        }
        Ok(Self { values, ..self.clone() })
    }
}

impl PersonaVector {
    /// The linear combination of vectors of one model at every layer, for the poolings that all of them have. A row
    /// that is missing in one vector, or was taken after the final norm, is so in the result. Rows that cancel become
    /// zeros, which [`direction`](Self::direction) refuses.
    ///
    /// The counts of the result are sums. Its judge, chat template and other provenance are kept if all vectors agree.
    ///
    /// # Errors
    /// [`Error::Setting`] without terms, [`Error::Unlike`] for vectors of different models or shapes or without a
    /// common pooling, [`Error::NoDirection`] for values outside the range of f32.
    pub fn combined(name: &str, terms: &[(f64, &Self)]) -> Result<Self> {
        let vectors: Vec<&Self> = terms.iter().map(|(_, vector)| *vector).collect();
        Self::rowwise(name, &vectors, |rows| {
            sum(&rows.iter().zip(terms).map(|(row, (factor, _))| (*factor, *row)).collect::<Vec<_>>())
        })
    }

    /// The component that is orthogonal to all of `others`, for each layer and pooling. A row that lies in their span
    /// becomes zeros, which [`direction`](Self::direction) refuses.
    ///
    /// # Errors
    /// Those of [`combined`](Self::combined).
    pub fn orthogonal_to(&self, name: &str, others: &[&Self]) -> Result<Self> {
        let vectors: Vec<&Self> = [self].into_iter().chain(others.iter().copied()).collect();
        Self::rowwise(name, &vectors, |rows| {
            rest(rows[0], &basis(rows[1..].iter().copied())).unwrap_or_else(|| vec![0.0; rows[0].len()])
        })
    }

    /// The increment `u_l = v_l − v_{l−1}` at a layer (`u_0 = v_0`), `[d_model]`. Steering at every layer adds
    /// increments, so that the same vector is not added many times. The increments up to a layer sum to the vector
    /// there.
    ///
    /// # Errors
    /// Those of [`direction_of`](Self::direction_of) for both layers, and [`Error::NoDirection`] if the two vectors are
    /// equal.
    pub fn increment(&self, pooling: Pooling, layer: Layer) -> Result<Direction> {
        let here = self.direction_of(pooling, layer)?;
        let Some(below) = layer.index().checked_sub(1).map(Layer::hidden_state) else { return Ok(here) };
        let values = match self.direction_of(pooling, below) {
            Ok(below) => below.values,
            // A row of zeros is not a direction, but it can be subtracted.
            Err(Error::Degenerate { .. }) => self.row(pooling, below).unwrap_or_default().to_vec(),
            Err(error) => return Err(error),
        };
        here.with("the increment over the layer below", sum(&[(1.0, &here.values), (-1.0, &values)]))
    }

    fn row(&self, pooling: Pooling, layer: Layer) -> Option<&[f32]> {
        self.table(pooling).filter(|table| table.mark(layer).is_none())?.get(layer)
    }

    fn rowwise(name: &str, vectors: &[&Self], row: impl Fn(&[&[f32]]) -> Vec<f64>) -> Result<Self> {
        let Some((first, others)) = vectors.split_first() else {
            return Err(SettingError::NoVectors.into());
        };
        for other in others {
            first.same_model(other)?;
        }
        let mut tables = BTreeMap::new();
        for pooling in Pooling::ALL {
            let all: Option<Vec<&LayerRows>> = vectors.iter().map(|vector| vector.table(pooling)).collect();
            let Some(all) = all else { continue };
            let mut values = Vec::with_capacity(all[0].layers() * all[0].d_model());
            let mut marks = BTreeMap::new();
            for layer in (0..all[0].layers()).map(Layer::hidden_state) {
                let mark = |mark| all.iter().any(|table| table.mark(layer) == Some(mark)).then_some(mark);
                let mark = mark(RowMark::Absent).or_else(|| mark(RowMark::AfterFinalNorm));
                marks.extend(mark.map(|mark| (layer, mark)));
                let rows: Option<Vec<&[f32]>> = all.iter().map(|table| table.get(layer)).collect();
                let result = rows.map_or_else(|| vec![0.0; all[0].d_model()], |rows| row(&rows));
                values.extend(result.into_iter().map(|value| value as f32));
                if values.iter().rev().take(all[0].d_model()).any(|value| !value.is_finite()) {
                    return Err(Error::NoDirection { operation: "combining vectors", layer });
                }
            }
            let table = LayerRows::of_rows(values, all[0].d_model()).and_then(|table| table.with_marks(marks));
            tables.extend(table.map(|table| (pooling, table)));
        }
        if tables.is_empty() {
            let poolings = |vector: &Self| format!("{:?}", vector.tables.keys().collect::<Vec<_>>());
            let right = others.last().map_or_else(String::new, |other| poolings(other));
            return Err(Error::Unlike { what: "all poolings", left: poolings(first), right });
        }
        Self::new(first.shared_provenance(name, others), tables, first.mean_norms(others))
    }

    fn same_model(&self, other: &Self) -> Result<()> {
        let unlike = |what, left: String, right: String| Err(Error::Unlike { what, left, right });
        let (left, right) = (&self.provenance, &other.provenance);
        if self.shape() != other.shape() {
            return unlike("shape", format!("{:?}", self.shape()), format!("{:?}", other.shape()));
        }
        if !(left.model.is_empty() || right.model.is_empty() || left.model == right.model) {
            return unlike("model", left.model.clone(), right.model.clone());
        }
        match (&left.config_hash, &right.config_hash) {
            (Some(a), Some(b)) if a != b => unlike("architecture", a.clone(), b.clone()),
            _ => Ok(()),
        }
    }

    fn shared_provenance(&self, name: &str, others: &[&Self]) -> crate::vector::Provenance {
        let mut shared = self.provenance.clone();
        for other in others.iter().map(|other| &other.provenance) {
            fn keep<T: PartialEq>(kept: &mut Option<T>, other: &Option<T>) {
                if kept != other {
                    *kept = None;
                }
            }
            if shared.model.is_empty() {
                shared.model.clone_from(&other.model);
            }
            shared.config_hash = shared.config_hash.or_else(|| other.config_hash.clone());
            keep(&mut shared.template_hash, &other.template_hash);
            keep(&mut shared.weights, &other.weights);
            if shared.render != other.render {
                shared.render = RenderOptions::default();
            }
            keep(&mut shared.judge, &other.judge);
            shared.verdicts.merge(&other.verdicts);
            keep(&mut shared.filter, &other.filter);
            keep(&mut shared.seed, &other.seed);
            keep(&mut shared.sampling, &other.sampling);
            keep(&mut shared.max_new_tokens, &other.max_new_tokens);
            let add = |a: Option<usize>, b: Option<usize>| a.zip(b).map(|(a, b)| a.saturating_add(b));
            shared.kept_positive = add(shared.kept_positive, other.kept_positive);
            shared.kept_negative = add(shared.kept_negative, other.kept_negative);
            shared.total = add(shared.total, other.total);
            shared.imported = shared.imported.or_else(|| other.imported.clone());
        }
        name.clone_into(&mut shared.trait_name);
        shared.best_layer = None;
        shared
    }

    /// The mean residual norms over the vectors that have them, `[layers]`.
    fn mean_norms(&self, others: &[&Self]) -> Option<Vec<f32>> {
        let known: Vec<&Vec<f32>> = [self]
            .into_iter()
            .chain(others.iter().copied())
            .filter_map(|vector| vector.residual_norms.as_ref())
            .collect();
        let layers = known.first()?.len();
        let mean = |layer: usize| known.iter().map(|norms| f64::from(norms[layer])).sum::<f64>() / known.len() as f64;
        Some((0..layers).map(|layer| mean(layer) as f32).collect())
    }
}

/// The dot products between rows of `[rows, d_model]`: `[rows, rows]`.
pub fn gram(rows: ArrayView2<'_, f32>) -> Array2<f64> {
    between(rows, |a, b| Some(dot_of(a, b)))
}

/// The cosines between rows of `[rows, d_model]`: `[rows, rows]`. NaN for a row of zeros.
///
/// ```
/// use ndarray::array;
/// let cosines = pv_vectors::algebra::cosines(array![[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]].view());
/// assert!((cosines[[0, 1]] - 0.5f64.sqrt()).abs() < 1e-12);
/// assert!(cosines[[0, 2]].is_nan());
/// ```
pub fn cosines(rows: ArrayView2<'_, f32>) -> Array2<f64> {
    between(rows, cosine_of)
}

/// The cosines between traits at a layer, `[traits, traits]`.
///
/// # Errors
/// Those of [`PersonaVector::direction_of`], and [`Error::Unlike`] for vectors of different widths.
pub fn trait_cosines(vectors: &[&PersonaVector], pooling: Pooling, layer: Layer) -> Result<Array2<f64>> {
    Ok(cosines(directions(vectors, pooling, layer)?.view()))
}

/// The dot products between traits at a layer, `[traits, traits]`.
///
/// # Errors
/// Those of [`trait_cosines`].
pub fn trait_gram(vectors: &[&PersonaVector], pooling: Pooling, layer: Layer) -> Result<Array2<f64>> {
    Ok(gram(directions(vectors, pooling, layer)?.view()))
}

/// The cosines between the layers of one trait, `[layers, layers]`. NaN for a row that is missing, zero or taken after
/// the final norm.
///
/// # Errors
/// [`Error::NoSuchPooling`].
pub fn layer_cosines(vector: &PersonaVector, pooling: Pooling) -> Result<Array2<f64>> {
    has_pooling(vector, pooling)?;
    let row = |layer: usize| vector.row(pooling, Layer::hidden_state(layer)).map(ArrayView1::from);
    let (layers, _) = vector.shape();
    let cosine = |(a, b): (usize, usize)| cosine_of(row(a)?, row(b)?);
    Ok(Array2::from_shape_fn((layers, layers), |at| cosine(at).unwrap_or(f64::NAN)))
}

/// The cosines between traits at every layer, `[layers, traits, traits]`. NaN for a row that is missing, zero or taken
/// after the final norm.
///
/// # Errors
/// [`Error::NoSuchPooling`], and [`Error::Unlike`] for vectors of different shapes.
pub fn trait_cosines_by_layer(vectors: &[&PersonaVector], pooling: Pooling) -> Result<Array3<f64>> {
    for vector in vectors {
        has_pooling(vector, pooling)?;
        if vector.shape() != vectors[0].shape() {
            let shape = |vector: &PersonaVector| format!("{:?}", vector.shape());
            return Err(Error::Unlike { what: "shape", left: shape(vectors[0]), right: shape(vector) });
        }
    }
    let layers = vectors.first().map_or(0, |vector| vector.shape().0);
    let cosine = |(layer, a, b): (usize, usize, usize)| {
        let row = |vector: usize| vectors[vector].row(pooling, Layer::hidden_state(layer)).map(ArrayView1::from);
        cosine_of(row(a)?, row(b)?)
    };
    Ok(Array3::from_shape_fn((layers, vectors.len(), vectors.len()), |at| cosine(at).unwrap_or(f64::NAN)))
}

/// The vectors at a layer, `[traits, d_model]`.
fn directions(vectors: &[&PersonaVector], pooling: Pooling, layer: Layer) -> Result<Array2<f32>> {
    let rows = vectors.iter().map(|vector| vector.direction_of(pooling, layer)).collect::<Result<Vec<_>>>()?;
    let width = rows.first().map_or(0, |row| row.values.len());
    let mut table = Array2::zeros((rows.len(), width));
    for (mut row, Direction { values, .. }) in table.outer_iter_mut().zip(&rows) {
        if values.len() != width {
            let (left, right) = (width.to_string(), values.len().to_string());
            return Err(Error::Unlike { what: "width", left, right });
        }
        row.assign(&ArrayView1::from(values.as_slice()));
    }
    Ok(table)
}

fn has_pooling(vector: &PersonaVector, pooling: Pooling) -> Result<()> {
    let absent = || Error::NoSuchPooling { trait_name: name_of(vector).to_owned(), pooling: pooling.name() };
    vector.table(pooling).map(drop).ok_or_else(absent)
}

fn name_of(vector: &PersonaVector) -> &str {
    &vector.provenance.trait_name
}

fn between(
    rows: ArrayView2<'_, f32>,
    value: impl Fn(ArrayView1<'_, f32>, ArrayView1<'_, f32>) -> Option<f64>,
) -> Array2<f64> {
    let n = rows.nrows();
    Array2::from_shape_fn((n, n), |(a, b)| value(rows.row(a), rows.row(b)).unwrap_or(f64::NAN))
}

/// A dot product accumulated in f64.
fn dot_of(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn cosine_of(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> Option<f64> {
    let norms = (dot_of(a, a) * dot_of(b, b)).sqrt();
    // Rounding must not produce a cosine above one.
    (norms > 0.0).then(|| (dot_of(a, b) / norms).clamp(-1.0, 1.0))
}

fn sum(terms: &[(f64, &[f32])]) -> Vec<f64> {
    let width = terms.first().map_or(0, |(_, row)| row.len());
    (0..width).map(|i| terms.iter().map(|(factor, row)| factor * f64::from(row[i])).sum()).collect()
}

/// An orthonormal basis of the span of the rows.
fn basis<'a>(rows: impl Iterator<Item = &'a [f32]>) -> Vec<Vec<f64>> {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for row in rows {
        if let Some(mut rest) = rest(row, &basis) {
            let norm = rest.iter().map(|value| value * value).sum::<f64>().sqrt();
            rest.iter_mut().for_each(|value| *value /= norm);
            basis.push(rest);
        }
    }
    basis
}

/// The component of a row that is orthogonal to an orthonormal basis; `None` if only rounding remains.
fn rest(row: &[f32], basis: &[Vec<f64>]) -> Option<Vec<f64>> {
    let mut rest: Vec<f64> = row.iter().copied().map(f64::from).collect();
    let norm = |row: &[f64]| row.iter().map(|value| value * value).sum::<f64>().sqrt();
    let before = norm(&rest);
    // Twice: what the first round leaves along the basis may be large compared with a small remainder.
    for _ in 0..2 {
        for unit in basis {
            let along: f64 = rest.iter().zip(unit).map(|(a, b)| a * b).sum();
            rest.iter_mut().zip(unit).for_each(|(value, unit)| *value -= along * unit);
        }
    }
    (norm(&rest) > ROUNDING * before).then_some(rest)
}

#[cfg(test)]
mod tests;
