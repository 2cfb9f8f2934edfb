//! A table with one row per layer.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2};
use pv_hooks::Layer;
use serde::{Deserialize, Serialize};

/// A mark on one row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowMark {
    /// The row is missing in the file that the table came from.
    Absent,
    /// The row was taken after the model's final norm. Interventions act before it.
    AfterFinalNorm,
}

/// One `[layers, d_model]` table of f32, one row per layer `0..=N`. Rows of imported tables may be missing.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRows {
    /// In standard layout; missing rows are zeros.
    values: Array2<f32>,
    pub(crate) marks: BTreeMap<Layer, RowMark>,
}

impl LayerRows {
    /// The table with these values, `[layers, d_model]`; `None` without rows or columns.
    pub fn new(values: Array2<f32>) -> Option<Self> {
        let values = if values.is_standard_layout() { values } else { values.as_standard_layout().into_owned() };
        (!values.is_empty()).then_some(Self { values, marks: BTreeMap::new() })
    }

    /// The table with these values, given row by row; `None` if they do not fill rows of `d_model`.
    pub(crate) fn of_rows(values: Vec<f32>, d_model: usize) -> Option<Self> {
        let layers = values.len().checked_div(d_model)?;
        Self::new(Array2::from_shape_vec((layers, d_model), values).ok()?)
    }

    /// All rows, `[layers, d_model]`; missing rows are zeros.
    pub fn view(&self) -> ArrayView2<'_, f32> {
        self.values.view()
    }

    /// The width of a row.
    pub fn d_model(&self) -> usize {
        self.values.ncols()
    }

    /// The values, row by row.
    pub(crate) fn as_slice(&self) -> &[f32] {
        self.values.as_slice().unwrap_or_default()
    }

    /// Adds marks to rows; the values of missing rows become zeros. `None` if a mark is outside the table, or if no row
    /// remains.
    #[must_use]
    pub fn with_marks(mut self, marks: BTreeMap<Layer, RowMark>) -> Option<Self> {
        let layers = self.layers();
        let absent = marks.iter().filter(|(_, mark)| **mark == RowMark::Absent).map(|(layer, _)| layer.index());
        let absent: Vec<usize> = absent.collect();
        if marks.keys().any(|layer| layer.index() >= layers) || absent.len() == layers {
            return None;
        }
        for index in absent {
            self.values.row_mut(index).fill(0.0);
        }
        self.marks = marks;
        Some(self)
    }

    /// The number of layers, the embeddings included: blocks + 1.
    pub fn layers(&self) -> usize {
        self.values.nrows()
    }

    /// The row of a layer, `[d_model]`; `None` if it is missing or outside the table.
    pub fn get(&self, layer: Layer) -> Option<&[f32]> {
        let absent = self.mark(layer) == Some(RowMark::Absent);
        self.as_slice().chunks_exact(self.d_model()).nth(layer.index()).filter(|_| !absent)
    }

    /// The mark on the row of a layer, if any.
    pub fn mark(&self, layer: Layer) -> Option<RowMark> {
        self.marks.get(&layer).copied()
    }
}
