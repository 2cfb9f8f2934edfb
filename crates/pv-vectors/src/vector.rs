//! A persona vector: a direction for a trait at every layer of a model.

use std::collections::BTreeMap;

use pv_hooks::{Layer, ModelShape};
use pv_model::ModelId;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which tokens' activations a vector is the difference of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over the response's tokens: the persona vector proper.
    #[default]
    ResponseMean,
    /// The mean over the prompt's tokens.
    PromptMean,
    /// The prompt's last token.
    PromptLast,
}

impl Pooling {
    /// All of them.
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

/// Where a vector comes from. Kept in its file, so that a result can be traced and repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The trait's name.
    pub trait_name: String,
    /// The model's name.
    pub model: String,
    /// SHA-256 of the model's architecture, in hex.
    pub config_hash: String,
    /// SHA-256 of the chat template that rendered the prompts, in hex.
    pub template_hash: Option<String>,
    /// Who scored the answers; `None` when all answers were taken as they are.
    pub judge: Option<String>,
    /// How many answers went into the mean under eliciting instructions.
    pub kept_positive: usize,
    /// How many went into it under suppressing instructions.
    pub kept_negative: usize,
    /// How many answers were generated in all.
    pub total: usize,
    /// The seed of the first answer.
    pub seed: u64,
    /// The layer at which the vector steers best, where that has been found out.
    pub best_layer: Option<Layer>,
}

/// One `[layers, d_model]` table of f32, one row per layer `0..=N`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRows {
    pub(crate) values: Vec<f32>,
    pub(crate) d_model: usize,
}

impl LayerRows {
    /// The table with these values, row after row; `None` when they do not fill rows of `d_model`.
    pub fn new(values: Vec<f32>, d_model: usize) -> Option<Self> {
        let whole = d_model > 0 && !values.is_empty() && values.len().is_multiple_of(d_model);
        whole.then_some(Self { values, d_model })
    }

    /// The number of layers, embeddings included: blocks + 1.
    pub fn layers(&self) -> usize {
        self.values.len() / self.d_model
    }

    /// The row of a layer.
    pub fn get(&self, layer: Layer) -> Option<&[f32]> {
        self.values.chunks(self.d_model).nth(layer.index())
    }
}

/// The mean differences of a trait at every layer of a model, in activation units, not normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct PersonaVector {
    pub(crate) provenance: Provenance,
    pub(crate) tables: BTreeMap<Pooling, LayerRows>,
    pub(crate) residual_norms: Option<Vec<f32>>,
}

/// A persona vector at one layer: what interventions and projections take.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// Where it was measured, and where it acts.
    pub layer: Layer,
    /// The raw difference, `[d_model]`.
    pub values: Vec<f32>,
    /// The mean norm of the residual at the layer over response tokens, where it is known.
    pub mean_residual_norm: Option<f32>,
}

impl Direction {
    /// The Euclidean length, accumulated in f64.
    pub fn norm(&self) -> f64 {
        dot(&self.values, &self.values).sqrt()
    }
}

impl PersonaVector {
    /// A vector from its tables. `residual_norms` holds the mean residual norm of each layer over response tokens.
    ///
    /// # Errors
    /// [`Error::BadContrast`] when there is no table or the tables differ in shape.
    pub fn new(
        provenance: Provenance,
        tables: BTreeMap<Pooling, LayerRows>,
        residual_norms: Option<Vec<f32>>,
    ) -> Result<Self> {
        let bad = |reason: &str| Err(Error::BadContrast { reason: reason.to_owned() });
        let mut shapes = tables.values().map(|table| (table.layers(), table.d_model));
        let Some(shape) = shapes.next() else { return bad("a vector needs at least one table") };
        if shapes.any(|other| other != shape) {
            return bad("a vector's tables differ in shape");
        }
        if residual_norms.as_ref().is_some_and(|norms| norms.len() != shape.0) {
            return bad("a vector needs one residual norm per layer");
        }
        Ok(Self { provenance, tables, residual_norms })
    }

    /// Where the vector comes from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// The table of a pooling, where it was kept.
    pub fn table(&self, pooling: Pooling) -> Option<&LayerRows> {
        self.tables.get(&pooling)
    }

    /// The number of layers, embeddings included, and the width.
    pub fn shape(&self) -> (usize, usize) {
        self.tables.values().next().map_or((0, 0), |table| (table.layers(), table.d_model))
    }

    /// The mean norm of the residual over response tokens at a layer, where it is known.
    pub fn mean_residual_norm(&self, layer: Layer) -> Option<f32> {
        self.residual_norms.as_ref()?.get(layer.index()).copied()
    }

    /// The persona vector at a layer, from the response means.
    ///
    /// # Errors
    /// As [`direction_of`](Self::direction_of).
    pub fn direction(&self, layer: Layer) -> Result<Direction> {
        self.direction_of(Pooling::ResponseMean, layer)
    }

    /// The vector of a pooling at a layer.
    ///
    /// # Errors
    /// A pooling or layer that the vector lacks, or [`Error::Degenerate`] when it has no direction there.
    pub fn direction_of(&self, pooling: Pooling, layer: Layer) -> Result<Direction> {
        let trait_name = || self.provenance.trait_name.clone();
        let table = self
            .tables
            .get(&pooling)
            .ok_or_else(|| Error::NoSuchPooling { trait_name: trait_name(), pooling: pooling.name() })?;
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

    /// Refuses a model that the vector was not made on: another width, depth or architecture.
    ///
    /// # Errors
    /// [`Error::ModelMismatch`].
    pub fn check_model(&self, id: &ModelId, shape: &ModelShape) -> Result<()> {
        let (layers, d_model) = self.shape();
        let mismatch = |what, vector: String, model: String| {
            Err(Error::ModelMismatch { trait_name: self.provenance.trait_name.clone(), what, vector, model })
        };
        if d_model != shape.d_model {
            return mismatch("width", d_model.to_string(), shape.d_model.to_string());
        }
        if layers != shape.blocks + 1 {
            return mismatch("number of blocks", (layers - 1).to_string(), shape.blocks.to_string());
        }
        if self.provenance.config_hash != id.config_hash {
            return mismatch("architecture hash", self.provenance.config_hash.clone(), id.config_hash.clone());
        }
        Ok(())
    }
}

/// A dot product accumulated in f64.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
