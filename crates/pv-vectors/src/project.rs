//! How much of a direction an activation holds.

use pv_hooks::Layer;

use crate::vector::dot;
use crate::{Direction, Error, Result};

/// A direction of length one: what projections are taken on, and nothing that an intervention could mistake for a raw
/// difference. Made from a raw [`Direction`] by [`Direction::unit`].
#[derive(Clone, Debug, PartialEq)]
pub struct UnitDirection {
    layer: Layer,
    values: Vec<f32>,
}

impl UnitDirection {
    /// The direction of these values at a layer.
    ///
    /// # Errors
    /// [`Error::NoDirection`] when they have no length or are not finite.
    pub fn new(layer: Layer, values: &[f64]) -> Result<Self> {
        // Divided by the greatest value first, so that no square overflows or vanishes.
        let greatest = values.iter().fold(0.0, |greatest: f64, value| greatest.max(value.abs()));
        let norm = values.iter().map(|value| (value / greatest).powi(2)).sum::<f64>().sqrt();
        if !(greatest > 0.0 && greatest.is_finite() && norm.is_finite()) {
            return Err(Error::NoDirection { operation: "normalising", layer });
        }
        Ok(Self { layer, values: values.iter().map(|value| (value / greatest / norm) as f32).collect() })
    }

    /// Where it was measured.
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// The values, `[d_model]`, of length one up to their rounding.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The projection `a · v̂` of an activation, in activation units; `None` when its width is another.
    pub fn projection(&self, activation: &[f32]) -> Option<f64> {
        (activation.len() == self.values.len()).then(|| dot(activation, &self.values))
    }

    /// The cosine of the angle to an activation; `None` when its width is another or it has no length.
    pub fn cosine(&self, activation: &[f32]) -> Option<f64> {
        let length = dot(activation, activation).sqrt();
        (length > 0.0).then(|| self.projection(activation).map(|p| p / length)).flatten()
    }

    /// The raw direction of a length, in activation units, for an intervention.
    ///
    /// # Errors
    /// [`Error::NoDirection`] for a length that is zero, negative or not finite.
    pub fn with_norm(&self, norm: f64) -> Result<Direction> {
        if !(norm > 0.0 && norm.is_finite()) {
            return Err(Error::NoDirection { operation: "giving a length", layer: self.layer });
        }
        let values = self.values.iter().map(|value| (f64::from(*value) * norm) as f32).collect();
        Ok(Direction { layer: self.layer, values, mean_residual_norm: None })
    }
}

impl Direction {
    /// The same direction at length one.
    ///
    /// # Errors
    /// [`Error::NoDirection`] when it has no length or is not finite.
    pub fn unit(&self) -> Result<UnitDirection> {
        UnitDirection::new(self.layer, &self.values.iter().copied().map(f64::from).collect::<Vec<_>>())
    }
}

/// The projection `a · v / ‖v‖` of an activation on a direction, in activation units: that on [`Direction::unit`], for
/// one activation.
///
/// Both must have the same width; `None` otherwise, or when the direction has no length.
///
/// ```
/// use pv_hooks::Layer;
/// use pv_vectors::{Direction, cosine, projection};
/// let v = Direction { layer: Layer::hidden_state(3), values: vec![0.0, 2.0], mean_residual_norm: None };
/// assert_eq!(projection(&[3.0, 4.0], &v), Some(4.0));
/// assert_eq!(cosine(&[3.0, 4.0], &v), Some(0.8));
/// ```
pub fn projection(activation: &[f32], direction: &Direction) -> Option<f64> {
    let norm = direction.norm();
    let fits = activation.len() == direction.values.len() && norm > 0.0;
    fits.then(|| dot(activation, &direction.values) / norm)
}

/// The cosine of the angle between an activation and a direction; `None` as for [`projection`], or when the activation
/// has no length.
pub fn cosine(activation: &[f32], direction: &Direction) -> Option<f64> {
    let length = dot(activation, activation).sqrt();
    (length > 0.0).then(|| projection(activation, direction).map(|p| p / length)).flatten()
}

/// A column of projections in a table of rollouts; what [`column_name`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProjectionColumn {
    /// The projection of the response's mean.
    Projection,
    /// The projection of the prompt's last token.
    PromptLastProjection,
    /// The cosine between the response's mean and the direction.
    CosineSimilarity,
}

/// The name of a column of projections: `{model}_{vector file stem}_{proj|prompt_last_proj|cos_sim}_layer{l}`, with the
/// model's bare name.
///
/// ```
/// use pv_hooks::Layer;
/// use pv_vectors::{ProjectionColumn, column_name};
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
