//! The hook that intervenes.

use std::ops::RangeInclusive;

use burn::tensor::Tensor;
use pv_hooks::{Hook, HookError, Layer, LayerSet, ModelShape, ResidualContext};
use pv_vectors::{Direction, PersonaVector, Pooling};

use crate::condition::Condition;
use crate::intervention::{Action, Intervention, Side};
use crate::{Coefficient, Positions, Result, Strength};

/// Acts on the residual stream along directions.
///
/// At one layer, interventions act in the order in which they were put in, each on the result of the one before. Ablations
/// that follow one another there, at the same positions, act as one that removes all that their directions span
/// ([`ablate`](Self::ablate)). A
/// coefficient of 0 leaves the residual as it is, bit for bit; so does a threshold at tokens that do not pass it.
/// Projections and lengths are computed in f32 whatever the model computes in.
#[derive(Debug, Default)]
pub struct Steerer {
    interventions: Vec<Intervention>,
}

impl Steerer {
    /// A steerer that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the direction at its layer: `h ← h + α·v` (paper, section 3.2). `α` is a [`Coefficient`], or a
    /// [`Ramp`](crate::Ramp) of one.
    ///
    /// # Errors
    /// A coefficient that is not finite or whose unit the direction does not know; a direction without length;
    /// [`Error::BadRamp`](crate::Error::BadRamp).
    pub fn add(self, direction: &Direction, strength: impl Into<Strength>, positions: Positions) -> Result<Self> {
        let action = Action::Add(strength.into().schedule(direction, positions)?);
        self.with(direction, action, positions, None)
    }

    /// Adds the direction and gives every token's residual its former length: `h ← (h + α·v) · ‖h‖ / ‖h + α·v‖`. A sum of
    /// no length stays zero.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_keeping_norm(
        self,
        direction: &Direction,
        strength: impl Into<Strength>,
        positions: Positions,
    ) -> Result<Self> {
        let action = Action::AddKeepingNorm(strength.into().schedule(direction, positions)?);
        self.with(direction, action, positions, None)
    }

    /// Adds the increments `u_l = v_l − v_{l−1}` of a vector at every layer of a range (`u_0 = v_0`), so that steering at
    /// every layer does not add the same thing many times (the paper's steering at all layers).
    /// Together they are `v_last − v_{first−1}`.
    ///
    /// A coefficient in residual norms measures that sum against the residual at the last layer; the same factor then
    /// multiplies every increment.
    ///
    /// # Errors
    /// An empty range, layers that the vector lacks or that are equal to the one below
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
        let Some(last) = increments.last() else { return Err(crate::Error::NoIncrements) };
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

    /// Removes the residual's part along the direction at its layer: `h ← h − (h·v̂)·v̂`.
    ///
    /// Taken out one after the other, directions that are not orthogonal would come back in part: of `v̂`, cos²-fold, what
    /// removing the second puts in. So ablations at one layer and the same positions, with no other intervention put in
    /// between them at that layer, are one projection out of the span of all their directions, in whatever order they were
    /// put in. A direction that lies in the span of the others to one part in a million adds nothing.
    ///
    /// What stands between two ablations keeps them apart: an addition after the first is not removed by it, and the second
    /// removes its own direction from the sum, which may bring back some of the first's. Put ablations last, and beside one
    /// another, for nothing of them to be left. The same holds for ablations at other positions, where both act, and for those
    /// of another steerer.
    ///
    /// # Errors
    /// A direction without length.
    pub fn ablate(self, direction: &Direction, positions: Positions) -> Result<Self> {
        self.with(direction, Action::Ablate, positions, None)
    }

    /// Moves the residual along the direction so that its projection is at most the threshold, in activation units:
    /// `h ← h − max(h·v̂ − τ, 0)·v̂`. Tokens below it stay as they are, bit for bit.
    ///
    /// Caps and floors act one after the other, unlike ablations: one along `w` that moves a token by `x` moves its
    /// projection on `v` by `x·cos(v, w)`, and so may lift it above `v`'s cap again. Only the last one's threshold holds for
    /// certain. Where directions resemble each other and all thresholds must hold, put the same caps in again: each round
    /// brings the residual nearer to where all hold, if there is such a place (two of cosine 0.7 to a hundredth of the first
    /// excess in seven rounds).
    ///
    /// What is ordinary at prompt tokens is not what is ordinary in answers: give each a cap with a threshold of its own
    /// ([`Positions::Prompt`] and [`Positions::ResponseFrom(0)`](Positions::ResponseFrom);
    /// [`Kind::PromptToken`](crate::monitor::Kind::PromptToken) and [`Kind::Token`](crate::monitor::Kind::Token) of a
    /// calibration), and the prompt's also along the vector's directions for prompts.
    ///
    /// # Errors
    /// A direction without length; [`Error::BadThreshold`](crate::Error::BadThreshold).
    pub fn cap(self, direction: &Direction, threshold: f32, positions: Positions) -> Result<Self> {
        self.with(direction, Action::Bound(Side::Above, threshold), positions, None)
    }

    /// Moves the residual along the direction so that its projection is at least the threshold, in activation units:
    /// `h ← h + max(τ − h·v̂, 0)·v̂`. Tokens above it stay as they are, bit for bit.
    ///
    /// # Errors
    /// As [`cap`](Self::cap).
    pub fn floor(self, direction: &Direction, threshold: f32, positions: Positions) -> Result<Self> {
        self.with(direction, Action::Bound(Side::Below, threshold), positions, None)
    }

    /// Conditional inhibition: acts only where the projection on the direction exceeds the threshold, and takes away what
    /// exceeds it, no more. This is [`cap`](Self::cap) under its other name; a constant vector subtracted wherever a trait
    /// shows would overshoot where it shows little.
    ///
    /// # Errors
    /// As [`cap`](Self::cap).
    pub fn inhibit(self, direction: &Direction, threshold: f32, positions: Positions) -> Result<Self> {
        self.cap(direction, threshold, positions)
    }

    /// As [`inhibit`](Self::inhibit), at tokens where a condition holds too: on another direction, or on a layer below,
    /// where the trait shows first.
    ///
    /// At a layer below, the condition is on the residual that the next block sees, with all that this steerer does there;
    /// at the same layer, on the residual as the interventions put in before have left it. It is a condition on the same
    /// token of the same pass.
    ///
    /// # Errors
    /// As [`cap`](Self::cap), and [`Error::LateCondition`](crate::Error::LateCondition) for a condition above the
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
