//! The steering hook.

use std::ops::RangeInclusive;

use burn::tensor::Tensor;
use pv_hooks::{Hook, HookError, Layer, LayerSet, ModelShape, ResidualContext};
use pv_vectors::vector::Pooling;
use pv_vectors::{Direction, PersonaVector};

use crate::condition::Condition;
use crate::condition::Side;
use crate::error::SteeringError;
use crate::intervention::{Action, Intervention};
use crate::{Coefficient, Positions, Result, Strength};

/// Changes the residual stream along directions.
///
/// At one layer, interventions act in the order in which they were added, each on the result of the one before.
/// Consecutive ablations at the same layer and positions act as one that removes the span of all their directions
/// ([`ablate`](Self::ablate)). A coefficient of 0 leaves the residual unchanged, bit for bit; so does a threshold at
/// tokens that do not pass it. Projections and norms are computed in f32, whatever the model's type.
#[derive(Debug, Default)]
pub struct Steerer {
    interventions: Vec<Intervention>,
}

impl Steerer {
    /// A steerer without interventions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the direction at its layer: `h ← h + α·v` (paper, section 3.2). `α` is a [`Coefficient`], or a
    /// [`Ramp`](crate::Ramp) of one.
    ///
    /// # Errors
    /// A coefficient that is not finite or whose unit the direction does not know; a direction with length zero;
    /// [`SteeringError::EmptyRamp`], [`SteeringError::RampInPrompt`].
    pub fn add(self, direction: &Direction, strength: impl Into<Strength>, positions: Positions) -> Result<Self> {
        let action = Action::Add(strength.into().schedule(direction, positions)?);
        self.with(direction, action, positions, None)
    }

    /// Adds the direction and restores the norm of every token's residual: `h ← (h + α·v) · ‖h‖ / ‖h + α·v‖`. A sum of
    /// zero stays zero.
    ///
    /// # Errors
    /// Those of [`add`](Self::add).
    pub fn add_keeping_norm(
        self,
        direction: &Direction,
        strength: impl Into<Strength>,
        positions: Positions,
    ) -> Result<Self> {
        let action = Action::AddKeepingNorm(strength.into().schedule(direction, positions)?);
        self.with(direction, action, positions, None)
    }

    /// Adds the increments `u_l = v_l − v_{l−1}` of a vector at every layer of a range (`u_0 = v_0`), so that steering
    /// at every layer does not add the same vector many times (the paper's steering at all layers). Their sum is
    /// `v_last − v_{first−1}`.
    ///
    /// A coefficient in residual norms relates that sum to the residual norm at the last layer; the same factor
    /// multiplies every increment.
    ///
    /// # Errors
    /// An empty range, layers that the vector lacks or whose vector equals that of the layer below
    /// ([`Error::Vector`](crate::Error::Vector)), and those of [`add`](Self::add).
    pub fn add_increments(
        mut self,
        vector: &PersonaVector,
        pooling: Pooling,
        layers: RangeInclusive<Layer>,
        coefficient: Coefficient,
        positions: Positions,
    ) -> Result<Self> {
        let layers = layers.start().index()..=layers.end().index();
        let increments = layers.map(|layer| vector.increment(pooling, Layer::hidden_state(layer)));
        let increments = increments.collect::<Result<Vec<Direction>, pv_vectors::Error>>()?;
        let Some(last) = increments.last() else { return Err(SteeringError::NoIncrements.into()) };
        let mut total = vec![0f64; last.values.len()];
        for increment in &increments {
            total.iter_mut().zip(&increment.values).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let total = Direction { values: total.into_iter().map(|value| value as f32).collect(), ..last.clone() };
        let raw = Coefficient::Raw(coefficient.raw(&total)?);
        for increment in &increments {
            self = self.add(increment, raw, positions)?;
        }
        Ok(self)
    }

    /// Removes the residual's component along the direction at its layer: `h ← h − (h·v̂)·v̂`.
    ///
    /// If directions that are not orthogonal were removed one after the other, part of them would come back: removing
    /// the second restores a cos² share of the component along the first `v̂`. Ablations at one layer and the same
    /// positions, with no other intervention between them at that layer, are therefore one projection out of the span
    /// of all their directions, whatever their order. A direction that is in the span of the others to one part in a
    /// million adds nothing.
    ///
    /// An intervention between two ablations keeps them separate: an addition after the first is not removed by it, and
    /// the second removes its own direction from the sum, which may restore part of the first. To remove everything,
    /// put ablations last and next to one another. The same holds for ablations at other positions, where both act, and
    /// for those of another steerer.
    ///
    /// # Errors
    /// A direction with length zero.
    pub fn ablate(self, direction: &Direction, positions: Positions) -> Result<Self> {
        self.with(direction, Action::Ablate, positions, None)
    }

    /// Moves the residual along the direction so that its projection is at most the threshold, in activation units: `h
    /// ← h − max(h·v̂ − τ, 0)·v̂`. Tokens below it are unchanged, bit for bit.
    ///
    /// Caps and floors act one after the other, unlike ablations. A cap along `w` that moves a token by `x` moves its
    /// projection on `v` by `x·cos(v, w)`, and so may lift it above `v`'s cap again. Only the last threshold is
    /// guaranteed. If directions are similar and all thresholds must hold, add the same caps repeatedly: each round
    /// brings the residual closer to a point where all hold, if there is one (for two directions of cosine 0.7, to a
    /// hundredth of the first excess in seven rounds).
    ///
    /// Projections at prompt tokens are distributed differently from those in answers. Use separate caps with separate
    /// thresholds ([`Positions::Prompt`] and [`Positions::ResponseFrom(0)`](Positions::ResponseFrom);
    /// [`Kind::PromptToken`](crate::monitor::Kind::PromptToken) and [`Kind::Token`](crate::monitor::Kind::Token) of a
    /// calibration), and for the prompt also cap along the vector's directions for prompts.
    ///
    /// # Errors
    /// A direction with length zero; [`SteeringError::BadThreshold`].
    pub fn cap(self, direction: &Direction, threshold: f32, positions: Positions) -> Result<Self> {
        self.with(direction, Action::Bound(Side::Above, threshold), positions, None)
    }

    /// Moves the residual along the direction so that its projection is at least the threshold, in activation units: `h
    /// ← h + max(τ − h·v̂, 0)·v̂`. Tokens above it are unchanged, bit for bit.
    ///
    /// # Errors
    /// Those of [`cap`](Self::cap).
    pub fn floor(self, direction: &Direction, threshold: f32, positions: Positions) -> Result<Self> {
        self.with(direction, Action::Bound(Side::Below, threshold), positions, None)
    }

    /// Conditional inhibition: acts only where the projection on the direction exceeds the threshold, and removes only
    /// the excess. This is another name for [`cap`](Self::cap). Subtracting a constant vector wherever a trait shows
    /// would overshoot where it shows little.
    ///
    /// # Errors
    /// Those of [`cap`](Self::cap).
    pub fn inhibit(self, direction: &Direction, threshold: f32, positions: Positions) -> Result<Self> {
        self.cap(direction, threshold, positions)
    }

    /// Like [`inhibit`](Self::inhibit), but only at tokens where a condition also holds: on another direction, or on a
    /// layer below, where the trait shows first.
    ///
    /// At a layer below, the condition applies to the residual that the next block receives, with all interventions of
    /// this steerer there. At the same layer, it applies to the residual after the interventions added before. The
    /// condition is on the same token in the same pass.
    ///
    /// # Errors
    /// Those of [`cap`](Self::cap), and [`SteeringError::LateCondition`] for a condition above the
    /// direction's layer.
    pub fn inhibit_when(
        self,
        direction: &Direction,
        threshold: f32,
        condition: Condition,
        positions: Positions,
    ) -> Result<Self> {
        self.with(direction, Action::Bound(Side::Above, threshold), positions, Some(condition))
    }

    fn with(
        mut self,
        direction: &Direction,
        action: Action,
        positions: Positions,
        condition: Option<Condition>,
    ) -> Result<Self> {
        let next = Intervention::new(direction, action, positions, condition)?;
        let before = self.interventions.iter_mut().rev().find(|before| before.layer == next.layer);
        let apart = match before {
            Some(before) => before.join(next),
            None => Some(next),
        };
        self.interventions.extend(apart);
        Ok(self)
    }
}

impl Hook for Steerer {
    fn name(&self) -> String {
        "steerer".to_owned()
    }

    fn layers(&self) -> LayerSet {
        self.interventions.iter().flat_map(Intervention::layers).collect()
    }

    fn wants(&self, layer: Layer) -> bool {
        self.interventions.iter().flat_map(Intervention::layers).any(|wanted| wanted == layer)
    }

    fn validate(&self, shape: &ModelShape) -> Result<(), HookError> {
        if self.interventions.is_empty() {
            return Err(HookError::NoLayers { hook: self.name() });
        }
        self.interventions.iter().try_for_each(|intervention| intervention.fits(&self.name(), shape.d_model))
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, mut residual: Tensor<3>) -> Tensor<3> {
        for intervention in self.interventions.iter_mut().filter(|i| i.layer == context.layer) {
            residual = intervention.act(context.spans, residual);
        }
        for intervention in &mut self.interventions {
            intervention.watch(context.layer, &residual);
        }
        residual
    }

    fn shares_prefix(&self, _sequences: &[usize]) -> bool {
        true
    }

    fn finish(&mut self) -> Result<(), HookError> {
        let mut idle = None;
        for intervention in &mut self.interventions {
            if !intervention.finish() {
                idle = idle.or(Some((intervention.positions, intervention.layer)));
            }
        }
        match idle {
            Some((positions, layer)) => {
                Err(HookError::NeverFired { hook: format!("{} ({positions:?} tokens at {layer})", self.name()) })
            }
            None => Ok(()),
        }
    }
}
