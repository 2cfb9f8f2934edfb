//! A persona vector: a direction for a trait at every layer of a model.

mod model_check;
mod rows;

use std::collections::BTreeMap;

use ndarray::ArrayView2;
use pv_hooks::Layer;
use serde::{Deserialize, Serialize};

use crate::error::TablesError;
use crate::{Error, Result};

pub use rows::{LayerRows, RowMark};

pub use crate::provenance::Provenance;

/// The tokens over which a vector's activations are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over the response tokens: the persona vector proper.
    #[default]
    ResponseMean,
    /// The mean over the prompt tokens.
    PromptMean,
    /// The prompt's last token.
    PromptLast,
}

impl Pooling {
    /// All poolings.
    pub const ALL: [Self; 3] = [Self::ResponseMean, Self::PromptMean, Self::PromptLast];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResponseMean => "response_mean",
            Self::PromptMean => "prompt_mean",
            Self::PromptLast => "prompt_last",
        }
    }
}

/// The mean differences of a trait at every layer of a model, in activation units, not normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct PersonaVector {
    pub(crate) provenance: Provenance,
    pub(crate) tables: BTreeMap<Pooling, LayerRows>,
    pub(crate) residual_norms: Option<Vec<f32>>,
}

/// A persona vector at one layer: the argument of interventions and projections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Direction {
    /// The layer at which it was measured and acts.
    pub layer: Layer,
    /// The raw difference, `[d_model]`, in activation units.
    pub values: Vec<f32>,
    /// The mean norm of the residual at the layer over response tokens, in activation units, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_residual_norm: Option<f32>,
}

impl Direction {
    /// The Euclidean norm, accumulated in f64.
    pub fn norm(&self) -> f64 {
        dot(&self.values, &self.values).sqrt()
    }
}

impl PersonaVector {
    /// A vector from its tables. `residual_norms` contains the mean residual norm of each layer over response tokens,
    /// `[layers]`.
    ///
    /// # Errors
    /// [`Error::BadTables`] if there is no table or the tables differ in shape.
    pub fn new(
        provenance: Provenance,
        tables: BTreeMap<Pooling, LayerRows>,
        residual_norms: Option<Vec<f32>>,
    ) -> Result<Self> {
        Ok(Self::of_tables(provenance, tables, residual_norms)?)
    }

    /// Like [`new`](Self::new), with the error of the tables only.
    pub(crate) fn of_tables(
        provenance: Provenance,
        tables: BTreeMap<Pooling, LayerRows>,
        residual_norms: Option<Vec<f32>>,
    ) -> Result<Self, TablesError> {
        let mut shapes = tables.values().map(|table| (table.layers(), table.d_model()));
        let first = shapes.next().ok_or(TablesError::None)?;
        if let Some(other) = shapes.find(|other| *other != first) {
            return Err(TablesError::Shapes { first, other });
        }
        if let Some(norms) = residual_norms.as_ref().filter(|norms| norms.len() != first.0) {
            return Err(TablesError::Norms { layers: first.0, norms: norms.len() });
        }
        Ok(Self { provenance, tables, residual_norms })
    }

    /// The provenance of the vector.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// The table of a pooling, if the vector has it.
    pub fn table(&self, pooling: Pooling) -> Option<&LayerRows> {
        self.tables.get(&pooling)
    }

    /// The vectors of a pooling at all layers, `[layers, d_model]`, if the vector has them. Row ℓ belongs to layer ℓ;
    /// rows that are missing in an imported file are zeros.
    pub fn values(&self, pooling: Pooling) -> Option<ArrayView2<'_, f32>> {
        self.table(pooling).map(LayerRows::view)
    }

    /// The number of layers, the embeddings included, and `d_model`.
    pub fn shape(&self) -> (usize, usize) {
        self.tables.values().next().map_or((0, 0), |table| (table.layers(), table.d_model()))
    }

    /// The mean norm of the residual over response tokens at a layer, in activation units, if known.
    pub fn mean_residual_norm(&self, layer: Layer) -> Option<f32> {
        self.residual_norms.as_ref()?.get(layer.index()).copied()
    }

    /// The persona vector at a layer, from the response means.
    ///
    /// # Errors
    /// Those of [`direction_of`](Self::direction_of).
    pub fn direction(&self, layer: Layer) -> Result<Direction> {
        self.direction_of(Pooling::ResponseMean, layer)
    }

    /// The vector of a pooling at a layer.
    ///
    /// # Errors
    /// A pooling or layer that the vector lacks; [`Error::AfterFinalNorm`] for a row that was taken after the final
    /// norm, where no intervention acts; [`Error::Degenerate`] for a row without a direction.
    pub fn direction_of(&self, pooling: Pooling, layer: Layer) -> Result<Direction> {
        let trait_name = || self.provenance.trait_name.clone();
        let table = self
            .tables
            .get(&pooling)
            .ok_or_else(|| Error::NoSuchPooling { trait_name: trait_name(), pooling: pooling.name() })?;
        match table.mark(layer) {
            Some(RowMark::Absent) => return Err(Error::AbsentLayer { trait_name: trait_name(), layer }),
            Some(RowMark::AfterFinalNorm) => return Err(Error::AfterFinalNorm { trait_name: trait_name(), layer }),
            None => {}
        }
        let row = table.get(layer).ok_or_else(|| Error::NoSuchLayer {
            trait_name: trait_name(),
            layer,
            last: table.layers() - 1,
        })?;
        let direction = Direction { layer, values: row.to_vec(), mean_residual_norm: self.mean_residual_norm(layer) };
        let norm = direction.norm();
        if norm == 0.0 || !norm.is_finite() {
            return Err(Error::Degenerate { trait_name: trait_name(), layer });
        }
        Ok(direction)
    }

    /// The layer at which the vector steers best, if a sweep has determined it.
    pub fn best_layer(&self) -> Option<Layer> {
        self.provenance.best_layer
    }

    /// The persona vector at its best layer.
    ///
    /// # Errors
    /// [`Error::NoBestLayer`] if it is unknown; those of [`direction`](Self::direction).
    pub fn best_direction(&self) -> Result<Direction> {
        let layer = self.best_layer();
        self.direction(layer.ok_or_else(|| Error::NoBestLayer { trait_name: self.provenance.trait_name.clone() })?)
    }

    /// Sets the best layer, which [`save`](Self::save) stores.
    ///
    /// # Errors
    /// Those of [`direction`](Self::direction): a layer at which the vector cannot steer is not accepted.
    pub fn with_best_layer(mut self, layer: Layer) -> Result<Self> {
        self.direction(layer)?;
        self.provenance.best_layer = Some(layer);
        Ok(self)
    }
}

/// A dot product accumulated in f64.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
