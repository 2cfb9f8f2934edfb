//! Conditions: interventions that act only at tokens whose projection passes a threshold.

use burn::tensor::{DType, Tensor};
use pv_hooks::Layer;
use pv_vectors::Direction;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::constant::{Constant, along, to, unit_values};
use crate::error::SteeringError;

/// One of the two sides of a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Side {
    Above,
    Below,
}

/// A condition on a token's residual: its projection on a direction, at the direction's layer, is above or below a
/// threshold in activation units.
///
/// In files: `{"layer": 12, "unit": [0.6, 0.8], "side": "above", "threshold": 1.5}`, where the unit vector has the
/// shape `[d_model]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Condition {
    layer: Layer,
    unit: Vec<f32>,
    side: Side,
    threshold: f32,
}

/// The serialized form of a condition.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    layer: Layer,
    unit: Vec<f32>,
    side: Side,
    threshold: f32,
}

impl TryFrom<Written> for Condition {
    type Error = String;

    fn try_from(written: Written) -> std::result::Result<Self, String> {
        /// How far rounding may move the norm of a unit vector from one.
        const ROUNDING: f64 = 1e-4;
        let Written { layer, unit, side, threshold } = written;
        let length = unit.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        if length.is_nan() || (length - 1.0).abs() >= ROUNDING {
            return Err(format!("`unit` has the length {length}, not 1"));
        }
        if !threshold.is_finite() {
            return Err(format!("`threshold` is {threshold}"));
        }
        Ok(Self { layer, unit, side, threshold })
    }
}

impl Condition {
    /// `h · v̂ > threshold`.
    ///
    /// # Errors
    /// [`SteeringError::Degenerate`], [`SteeringError::BadThreshold`].
    pub fn above(direction: &Direction, threshold: f32) -> Result<Self> {
        Self::new(direction, Side::Above, threshold)
    }

    /// `h · v̂ < threshold`.
    ///
    /// # Errors
    /// [`SteeringError::Degenerate`], [`SteeringError::BadThreshold`].
    pub fn below(direction: &Direction, threshold: f32) -> Result<Self> {
        Self::new(direction, Side::Below, threshold)
    }

    fn new(direction: &Direction, side: Side, threshold: f32) -> Result<Self> {
        let layer = direction.layer;
        if !threshold.is_finite() {
            return Err(SteeringError::BadThreshold { layer, value: threshold }.into());
        }
        Ok(Self { layer, unit: unit_values(direction)?, side, threshold })
    }

    /// The layer of the projection.
    pub fn layer(&self) -> Layer {
        self.layer
    }
}

/// The state of a condition during passes.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) layer: Layer,
    unit: Constant,
    side: Side,
    threshold: f32,
    /// One where the condition held in this pass and zero elsewhere, `[batch, seq, 1]`.
    seen: Option<Tensor<3>>,
}

impl Watch {
    pub(crate) fn new(condition: Condition) -> Self {
        let Condition { layer, unit, side, threshold } = condition;
        let width = unit.len();
        Self { layer, unit: Constant::new(unit, width), side, threshold, seen: None }
    }

    pub(crate) fn width(&self) -> usize {
        self.unit.width
    }

    pub(crate) fn look(&mut self, residual: &Tensor<3>) {
        // Whether an intervention acts is not differentiable.
        let residual = to(residual.clone().without_autodiff(), DType::F32);
        let unit = self.unit.on(&residual.device(), DType::F32);
        let along = along(&residual, &unit);
        let holds = match self.side {
            Side::Above => along.greater_elem(self.threshold),
            Side::Below => along.lower_elem(self.threshold),
        };
        self.seen = Some(holds.float().cast(DType::F32));
    }

    /// Takes the result of this pass; `None` if the pass did not reach the layer.
    pub(crate) fn take(&mut self) -> Option<Tensor<3>> {
        self.seen.take()
    }
}
