//! Projections of activations on directions.

use pv_hooks::Layer;

use crate::vector::dot;
use crate::{Direction, Error, Result};

/// A direction of length one, on which projections are taken. It has its own type, so that no intervention takes it for
/// a raw difference. [`Direction::unit`] makes it from a raw [`Direction`].
#[derive(Clone, Debug, PartialEq)]
pub struct UnitDirection {
    layer: Layer,
    values: Vec<f32>,
}

impl UnitDirection {
    /// The unit direction along these values, `[d_model]`, at a layer.
    ///
    /// # Errors
    /// [`Error::NoDirection`] if the values have length zero or are not finite.
    pub fn new(layer: Layer, values: &[f64]) -> Result<Self> {
        // Divided by the largest magnitude first, so that no square overflows or underflows.
        let greatest = values.iter().fold(0.0, |greatest: f64, value| greatest.max(value.abs()));
        let norm = values.iter().map(|value| (value / greatest).powi(2)).sum::<f64>().sqrt();
        if !(greatest > 0.0 && greatest.is_finite() && norm.is_finite()) {
            return Err(Error::NoDirection { operation: "normalising", layer });
        }
        Ok(Self { layer, values: values.iter().map(|value| (value / greatest / norm) as f32).collect() })
    }

    /// The layer of the direction.
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// The values, `[d_model]`. Their length is one up to rounding.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The projection `a · v̂` of an activation, `[d_model]`, in activation units; `None` if the widths differ.
    pub fn projection(&self, activation: &[f32]) -> Option<f64> {
        (activation.len() == self.values.len()).then(|| dot(activation, &self.values))
    }

    /// The cosine of the angle to an activation, `[d_model]`; `None` if the widths differ or the activation has length
    /// zero.
    pub fn cosine(&self, activation: &[f32]) -> Option<f64> {
        let length = dot(activation, activation).sqrt();
        (length > 0.0).then(|| self.projection(activation).map(|p| p / length)).flatten()
    }

    /// The raw direction with this norm, in activation units, for an intervention.
    ///
    /// # Errors
    /// [`Error::NoDirection`] for a norm that is zero, negative or not finite.
    pub fn with_norm(&self, norm: f64) -> Result<Direction> {
        if !(norm > 0.0 && norm.is_finite()) {
            return Err(Error::NoDirection { operation: "giving a length", layer: self.layer });
        }
        let values = self.values.iter().map(|value| (f64::from(*value) * norm) as f32).collect();
        Ok(Direction { layer: self.layer, values, mean_residual_norm: None })
    }
}

impl Direction {
    /// The same direction with length one.
    ///
    /// # Errors
    /// [`Error::NoDirection`] if it has length zero or is not finite.
    pub fn unit(&self) -> Result<UnitDirection> {
        UnitDirection::new(self.layer, &self.values.iter().copied().map(f64::from).collect::<Vec<_>>())
    }
}

/// The projection `a · v / ‖v‖` of an activation, `[d_model]`, on a direction, in activation units. For many
/// activations, use [`Direction::unit`].
///
/// `None` if the widths differ or the direction has length zero.
///
/// ```
/// use pv_hooks::Layer;
/// use pv_vectors::Direction;
/// use pv_vectors::projection::{cosine, projection};
/// let v = Direction { layer: Layer::hidden_state(3), values: vec![0.0, 2.0], mean_residual_norm: None };
/// assert_eq!(projection(&[3.0, 4.0], &v), Some(4.0));
/// assert_eq!(cosine(&[3.0, 4.0], &v), Some(0.8));
/// ```
pub fn projection(activation: &[f32], direction: &Direction) -> Option<f64> {
    let norm = direction.norm();
    let fits = activation.len() == direction.values.len() && norm > 0.0;
    fits.then(|| dot(activation, &direction.values) / norm)
}

/// The cosine of the angle between an activation and a direction; `None` as for [`projection`], or if the activation
/// has length zero.
pub fn cosine(activation: &[f32], direction: &Direction) -> Option<f64> {
    let length = dot(activation, activation).sqrt();
    (length > 0.0).then(|| projection(activation, direction).map(|p| p / length)).flatten()
}

/// A column of projections in a table of rollouts, as named by [`column_name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProjectionColumn {
    /// The projection of the mean over the response tokens.
    Projection,
    /// The projection of the residual at the prompt's last token.
    PromptLastProjection,
    /// The cosine between the mean over the response tokens and the direction.
    CosineSimilarity,
}

/// The name of a column of projections: `{model}_{vector file stem}_{proj|prompt_last_proj|cos_sim}_layer{l}`, with the
/// model's bare name.
///
/// ```
/// use pv_hooks::Layer;
/// use pv_vectors::projection::{ProjectionColumn, column_name};
/// let name = column_name("Qwen/Qwen2.5-7B", "evil_response_avg_diff", ProjectionColumn::Projection, Layer::hidden_state(20));
/// assert_eq!(name, "Qwen2.5-7B_evil_response_avg_diff_proj_layer20");
/// ```
pub fn column_name(model: &str, vector_stem: &str, column: ProjectionColumn, layer: Layer) -> String {
    let model = model.trim_end_matches('/').rsplit('/').next().unwrap_or(model);
    let kind = match column {
        ProjectionColumn::Projection => "proj",
        ProjectionColumn::PromptLastProjection => "prompt_last_proj",
        ProjectionColumn::CosineSimilarity => "cos_sim",
    };
    format!("{model}_{vector_stem}_{kind}_layer{}", layer.index())
}
