//! The hook that intervenes.

use burn::tensor::Tensor;
use pv_hooks::{Coverage, Hook, HookError, Layer, LayerSet, ModelShape, ResidualContext};
use pv_vectors::Direction;

use crate::intervention::{Action, Intervention};
use crate::{Coefficient, Positions, Result};

/// Acts on the residual stream along directions.
///
/// At one layer, interventions act in the order in which they were put in, each on the result of the one before. A
/// coefficient of 0 leaves the residual as it is, bit for bit.
#[derive(Debug, Default)]
pub struct Steerer {
    interventions: Vec<Intervention>,
}

impl Steerer {
    /// A steerer that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the direction at its layer: `h ← h + α·v` (paper, section 3.2).
    ///
    /// # Errors
    /// A coefficient that is not finite or whose unit the direction does not know; a direction without length.
    pub fn add(mut self, direction: &Direction, coefficient: Coefficient, positions: Positions) -> Result<Self> {
        let action = Action::Add { raw: coefficient.raw(direction)? };
        self.interventions.push(Intervention::new(direction, action, positions)?);
        Ok(self)
    }

    /// Removes the residual's part along the direction at its layer: `h ← h − (h·v̂)·v̂`.
    ///
    /// # Errors
    /// A direction without length.
    pub fn ablate(mut self, direction: &Direction, positions: Positions) -> Result<Self> {
        self.interventions.push(Intervention::new(direction, Action::Ablate, positions)?);
        Ok(self)
    }
}

impl Hook for Steerer {
    fn name(&self) -> String {
        "steerer".to_owned()
    }

    fn layers(&self) -> LayerSet {
        self.interventions.iter().map(|intervention| intervention.layer).collect()
    }

    fn wants(&self, layer: Layer) -> bool {
        self.interventions.iter().any(|intervention| intervention.layer == layer)
    }

    fn validate(&self, shape: &ModelShape) -> Result<(), HookError> {
        if self.interventions.is_empty() {
            return Err(HookError::NoLayers { hook: self.name() });
        }
        for intervention in &self.interventions {
            let layer = intervention.layer;
            if intervention.width() != shape.d_model {
                let (expected, found) = (shape.d_model, intervention.width());
                return Err(HookError::WidthMismatch { hook: self.name(), layer, expected, found });
            }
            if !intervention.in_range() {
                return Err(HookError::BadVector { hook: self.name(), layer, reason: "its square overflows f32" });
            }
        }
        Ok(())
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, mut residual: Tensor<3>) -> Tensor<3> {
        for intervention in self.interventions.iter_mut().filter(|i| i.layer == context.layer) {
            let tokens = intervention.positions.tokens();
            let coverage = context.spans.coverage(tokens);
            if coverage == Coverage::Nothing {
                continue;
            }
            intervention.fired = true;
            let Some(change) = intervention.change(&residual) else { continue };
            residual = match coverage {
                Coverage::Everything => residual + change,
                _ => {
                    let mask = context.spans.mask(tokens, &residual.device()).cast(residual.dtype());
                    residual + change * mask
                }
            };
        }
        residual
    }

    fn finish(&mut self) -> Result<(), HookError> {
        let idle = self.interventions.iter().find(|intervention| !intervention.fired);
        let idle = idle.map(|i| format!("{} ({:?} tokens at {})", self.name(), i.positions, i.layer));
        self.interventions.iter_mut().for_each(|intervention| intervention.fired = false);
        match idle {
            Some(hook) => Err(HookError::NeverFired { hook }),
            None => Ok(()),
        }
    }
}
