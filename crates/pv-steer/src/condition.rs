//! Acting only where a projection passes a threshold.

use burn::tensor::{DType, Tensor};
use pv_hooks::Layer;
use pv_vectors::Direction;

use crate::constant::{Constant, along, to};
use crate::intervention::{Side, unit_values};
use crate::{Error, Result};

/// A condition on a token's residual: its projection on a direction, at the direction's layer, is above or below a
/// threshold in activation units.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    layer: Layer,
    unit: Vec<f32>,
    side: Side,
    threshold: f32,
}

impl Condition {
    /// `h · v̂ > threshold`.
    ///
    /// # Errors
    /// [`Error::Degenerate`], [`Error::BadThreshold`].
    pub fn above(direction: &Direction, threshold: f32) -> Result<Self> {
        Self::new(direction, Side::Above, threshold)
    }

    /// `h · v̂ < threshold`.
    ///
    /// # Errors
    /// [`Error::Degenerate`], [`Error::BadThreshold`].
    pub fn below(direction: &Direction, threshold: f32) -> Result<Self> {
        Self::new(direction, Side::Below, threshold)
    }

    fn new(direction: &Direction, side: Side, threshold: f32) -> Result<Self> {
        let layer = direction.layer;
        if !threshold.is_finite() {
            return Err(Error::BadThreshold { layer, value: threshold });
        }
        Ok(Self { layer, unit: unit_values(direction)?, side, threshold })
    }

    /// Where the projection is taken.
    pub fn layer(&self) -> Layer {
        self.layer
    }
}

/// A condition while passes run.
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
        // Whether something is done is no function with a gradient.
        let residual = to(residual.clone().without_autodiff(), DType::F32);
        let unit = self.unit.on(&residual.device(), DType::F32);
        let along = along(&residual, &unit);
        let holds = match self.side {
            Side::Above => along.greater_elem(self.threshold),
            Side::Below => along.lower_elem(self.threshold),
        };
        self.seen = Some(holds.float().cast(DType::F32));
    }

    /// What was seen in this pass; nothing when the pass did not come by.
    pub(crate) fn take(&mut self) -> Option<Tensor<3>> {
        self.seen.take()
    }
}
