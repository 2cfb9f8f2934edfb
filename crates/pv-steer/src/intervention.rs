//! Interventions on the residual along one direction, or on the span of several.

use burn::tensor::{DType, Tensor};
use pv_hooks::tokens::Coverage;
use pv_hooks::{HookError, Layer, TokenSpans};
use pv_vectors::Direction;

use crate::condition::{Condition, Side, Watch};
use crate::constant::{Constant, along, to, unit_values, upload};
use crate::error::SteeringError;
use crate::span::orthonormal;
use crate::strength::Schedule;
use crate::{Positions, Result};

/// The lower limit of a length in a denominator, so that a residual of zeros gives no NaN and no NaN gradient.
const SHORTEST: f64 = 1e-18;

/// The action at one layer, along `v` or the unit vector `v̂`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Action {
    /// `h + α·v`.
    Add(Schedule),
    /// `(h + α·v) · ‖h‖ / ‖h + α·v‖`.
    AddKeepingNorm(Schedule),
    /// `h − Q·Qᵀ·h` for an orthonormal basis `Q` of the directions; for one direction, `h − (h·v̂)·v̂`.
    Ablate,
    /// `h − excess·v̂`, where `excess` is how far `h·v̂` is on this side of the threshold.
    Bound(Side, f32),
}

/// One action along one direction, or the ablation of several.
#[derive(Debug)]
pub(crate) struct Intervention {
    pub(crate) layer: Layer,
    pub(crate) positions: Positions,
    action: Action,
    /// `α·v` for a constant `α`, `v` for a varying `α`, `v̂` for actions without a coefficient.
    vector: Constant,
    /// The ablated directions, and their basis without its first vector, which is `vector`.
    ablated: Vec<Direction>,
    others: Vec<Constant>,
    condition: Option<Watch>,
    pub(crate) fired: bool,
}

impl Intervention {
    pub(crate) fn new(
        direction: &Direction,
        action: Action,
        positions: Positions,
        condition: Option<Condition>,
    ) -> Result<Self> {
        let layer = direction.layer;
        let unit = unit_values(direction)?;
        let values = match action {
            Action::Add(Schedule::Constant(raw)) | Action::AddKeepingNorm(Schedule::Constant(raw)) => {
                direction.values.iter().map(|value| value * raw).collect()
            }
            Action::Add(_) | Action::AddKeepingNorm(_) => direction.values.clone(),
            Action::Ablate => unit,
            Action::Bound(_, threshold) if threshold.is_finite() => unit,
            Action::Bound(_, value) => return Err(SteeringError::BadThreshold { layer, value }.into()),
        };
        if let Some(late) = condition.as_ref().filter(|condition| condition.layer() > layer) {
            return Err(SteeringError::LateCondition { condition: late.layer(), layer }.into());
        }
        let vector = Constant::new(values, direction.values.len());
        let ablated = if action == Action::Ablate { vec![direction.clone()] } else { Vec::new() };
        let condition = condition.map(Watch::new);
        Ok(Self { layer, positions, action, vector, ablated, others: Vec::new(), condition, fired: false })
    }

    /// Joins another ablation at the same tokens into this one, if this is an ablation too: removed one after the
    /// other, directions that are not orthogonal would leave part of their span. Returns the other intervention if it
    /// cannot be joined.
    pub(crate) fn join(&mut self, other: Self) -> Option<Self> {
        let joins = [&*self, &other].iter().all(|one| one.action == Action::Ablate && one.condition.is_none())
            && (self.layer, self.positions, self.vector.width) == (other.layer, other.positions, other.vector.width);
        if !joins {
            return Some(other);
        }
        self.ablated.extend(other.ablated);
        let width = self.vector.width;
        let mut basis = orthonormal(&self.ablated).into_iter().map(|unit| Constant::new(unit, width));
        if let Some(first) = basis.next() {
            self.vector = first;
        }
        self.others = basis.collect();
        None
    }

    /// The layers whose residual the intervention needs.
    pub(crate) fn layers(&self) -> impl Iterator<Item = Layer> + '_ {
        self.condition.iter().map(|condition| condition.layer).chain([self.layer])
    }

    /// Refuses vectors of another width, and those whose squares overflow in the model's norms.
    pub(crate) fn fits(&self, hook: &str, d_model: usize) -> Result<(), HookError> {
        let widths = self.condition.iter().map(|condition| (condition.layer, condition.width()));
        for (layer, found) in widths.chain([(self.layer, self.vector.width)]) {
            if found != d_model {
                return Err(HookError::WidthMismatch { hook: hook.to_owned(), layer, expected: d_model, found });
            }
        }
        let squares: f64 = self.vector.values.iter().map(|value| f64::from(*value).powi(2)).sum();
        let square = match self.action {
            Action::Add(schedule @ Schedule::Ramp { .. })
            | Action::AddKeepingNorm(schedule @ Schedule::Ramp { .. }) => {
                squares * f64::from(schedule.greatest()).powi(2)
            }
            Action::Bound(_, threshold) => f64::from(threshold).powi(2),
            _ => squares,
        };
        if square < f64::from(f32::MAX) {
            return Ok(());
        }
        let reason = "the square of what it makes of the residual overflows f32";
        Err(HookError::BadVector { hook: hook.to_owned(), layer: self.layer, reason })
    }

    /// Evaluates the condition if it is at this layer, below the intervention's own.
    pub(crate) fn watch(&mut self, layer: Layer, residual: &Tensor<3>) {
        let own = self.layer;
        if let Some(condition) = self.condition.as_mut().filter(|c| c.layer == layer && c.layer < own) {
            condition.look(residual);
        }
    }

    /// Ends a run; returns whether the intervention acted in it.
    pub(crate) fn finish(&mut self) -> bool {
        self.condition.iter_mut().for_each(|condition| drop(condition.take()));
        std::mem::take(&mut self.fired)
    }

    /// Applies the intervention to the residual of its layer, `[batch, seq, d_model]`.
    pub(crate) fn act(&mut self, spans: &TokenSpans, residual: Tensor<3>) -> Tensor<3> {
        let tokens = self.positions.tokens();
        let coverage = spans.coverage(tokens);
        if coverage == Coverage::Nothing {
            return residual;
        }
        let device = residual.device().without_autodiff();
        let dtype = residual.dtype();
        let held = match &mut self.condition {
            None => None,
            Some(condition) => {
                if condition.layer == self.layer {
                    condition.look(&residual);
                }
                // A pass that did not reach the condition's layer gives nothing to act on, and leaves `fired`
                // unchanged.
                let Some(held) = condition.take() else { return residual };
                Some(held)
            }
        };
        self.fired = true;
        // The factor on every token's change, `[batch, seq, 1]` in f32; `None` if it is one everywhere.
        let weights = match self.action {
            Action::Add(Schedule::Constant(0.0)) | Action::AddKeepingNorm(Schedule::Constant(0.0)) => return residual,
            Action::Add(schedule @ Schedule::Ramp { .. })
            | Action::AddKeepingNorm(schedule @ Schedule::Ramp { .. }) => {
                let factors = schedule.over_window(spans, tokens);
                if factors.iter().all(|factor| *factor == 0.0) {
                    return residual;
                }
                Some(upload(factors, [spans.batch(), spans.seq(), 1], &device))
            }
            _ => (coverage != Coverage::Everything).then(|| spans.mask(tokens, &device)),
        };
        let weights = match (weights, held) {
            (Some(weights), Some(held)) => Some(weights * held),
            (weights, held) => weights.or(held),
        };
        match self.action {
            Action::Add(_) => match weights {
                None => residual + self.vector.on(&device, dtype),
                Some(weights) => residual + to(self.vector.on(&device, DType::F32) * weights, dtype),
            },
            Action::AddKeepingNorm(_) => {
                let residual = to(residual, DType::F32);
                let vector = self.vector.on(&device, DType::F32);
                // If the weight is 0, the two norms are the same number, and their ratio is exactly 1.
                let moved = residual.clone() + weights.map_or(vector.clone(), |weights| vector * weights);
                let scale = lengths(residual) / lengths(moved.clone());
                to(moved * scale, dtype)
            }
            Action::Ablate | Action::Bound(..) => {
                let mut residual = to(residual, DType::F32);
                for vector in std::iter::once(&mut self.vector).chain(&mut self.others) {
                    let unit = vector.on(&device, DType::F32);
                    let along = along(&residual, &unit);
                    let excess = match self.action {
                        Action::Bound(Side::Above, threshold) => (along - threshold).clamp_min(0.0),
                        Action::Bound(Side::Below, threshold) => (along - threshold).clamp_max(0.0),
                        _ => along,
                    };
                    let excess = match &weights {
                        Some(weights) => excess * weights.clone(),
                        None => excess,
                    };
                    residual = residual - excess * unit;
                }
                to(residual, dtype)
            }
        }
    }
}

/// The norm of every token's residual, `[batch, seq, 1]`.
fn lengths(residual: Tensor<3>) -> Tensor<3> {
    residual.square().sum_dim(2).clamp_min(SHORTEST * SHORTEST).sqrt()
}
