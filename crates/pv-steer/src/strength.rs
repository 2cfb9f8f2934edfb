//! The strength of an addition: coefficients and ramps.

use pv_hooks::{TokenSet, TokenSpans};
use pv_vectors::Direction;
use serde::{Deserialize, Serialize};

use crate::error::SteeringError;
use crate::{Positions, Result};

/// The strength with which a direction is added. The unit is part of the type, since one number has different meanings
/// in different units.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coefficient {
    /// Multiplies the raw difference vector, as in the paper.
    Raw(f32),
    /// Multiplies the unit vector times the mean residual norm at the layer. Transfers between layers and models.
    ResidualNorms(f32),
}

impl Coefficient {
    /// The corresponding factor on the raw difference vector.
    ///
    /// # Errors
    /// [`SteeringError::NoResidualNorm`], [`SteeringError::BadCoefficient`] or [`SteeringError::Degenerate`].
    pub fn raw(self, direction: &Direction) -> Result<f32> {
        let layer = direction.layer;
        let norm = direction.norm();
        if norm == 0.0 || !norm.is_finite() {
            return Err(SteeringError::Degenerate { layer }.into());
        }
        let (value, raw) = match self {
            Self::Raw(value) => (value, value),
            Self::ResidualNorms(value) => {
                let residual = direction.mean_residual_norm.ok_or(SteeringError::NoResidualNorm { layer })?;
                (value, (f64::from(value) * f64::from(residual) / norm) as f32)
            }
        };
        if raw.is_finite() { Ok(raw) } else { Err(SteeringError::BadCoefficient { layer, value }.into()) }
    }
}

/// A coefficient that changes linearly along a response, and stays at `to` afterwards.
///
/// The ramp starts at the first token in its positions that is the prompt's last or later; that token and all prompt
/// tokens before it have the coefficient `from`. The coefficient reaches `to` after `over` tokens. With
/// [`Positions::Response`] the answer's token number `n` (from 0) is therefore sampled under `from + (to − from) ·
/// min(n / over, 1)`, since the prompt's last token yields the first token of the answer. With
/// [`Positions::ResponseFrom`] the ramp starts at the first token of the positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ramp {
    /// The coefficient at the start.
    pub from: Coefficient,
    /// The coefficient at the end and afterwards.
    pub to: Coefficient,
    /// The number of tokens from start to end, at least 1.
    pub over: usize,
}

/// A constant coefficient, or a ramp.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strength {
    /// The same at every token.
    Constant(Coefficient),
    /// A linear change.
    Ramp(Ramp),
}

impl From<Coefficient> for Strength {
    fn from(coefficient: Coefficient) -> Self {
        Self::Constant(coefficient)
    }
}

impl From<Ramp> for Strength {
    fn from(ramp: Ramp) -> Self {
        Self::Ramp(ramp)
    }
}

impl Strength {
    /// The factors on the raw vector.
    pub(crate) fn schedule(self, direction: &Direction, positions: Positions) -> Result<Schedule> {
        let ramp = match self {
            Self::Constant(coefficient) => return Ok(Schedule::Constant(coefficient.raw(direction)?)),
            Self::Ramp(ramp) => ramp,
        };
        let layer = direction.layer;
        let first = match positions {
            Positions::Prompt => return Err(SteeringError::RampInPrompt { layer }.into()),
            Positions::Response | Positions::All => 0,
            Positions::ResponseFrom(token) => token.saturating_add(1),
        };
        if ramp.over == 0 {
            return Err(SteeringError::EmptyRamp { layer }.into());
        }
        let (from, to) = (ramp.from.raw(direction)?, ramp.to.raw(direction)?);
        Ok(Schedule::Ramp { from, to, over: ramp.over, first })
    }
}

/// Factors on a raw vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Schedule {
    Constant(f32),
    Ramp {
        from: f32,
        to: f32,
        over: usize,
        /// The step with `from`: 0 is the prompt's last token, `n + 1` the response token number `n`.
        first: usize,
    },
}

impl Schedule {
    /// The largest absolute factor.
    pub(crate) fn greatest(self) -> f32 {
        match self {
            Self::Constant(value) => value.abs(),
            Self::Ramp { from, to, .. } => from.abs().max(to.abs()),
        }
    }

    fn at(self, step: usize) -> f32 {
        match self {
            Self::Constant(value) => value,
            Self::Ramp { from, to, over, first } => {
                let part = (step.saturating_sub(first) as f64 / over as f64).min(1.0);
                (f64::from(from) * (1.0 - part) + f64::from(to) * part) as f32
            }
        }
    }

    /// The factor at every position of a window, `[batch × seq]`: zero outside the set.
    pub(crate) fn over_window(self, spans: &TokenSpans, tokens: TokenSet) -> Vec<f32> {
        let seq = spans.seq();
        let mut factors = vec![0.0; spans.batch() * seq];
        for (index, row) in spans.rows().iter().enumerate() {
            for position in spans.positions(index, tokens) {
                let step = position.checked_sub(row.response.start).map_or(0, |n| row.response_offset + n + 1);
                factors[index * seq + position] = self.at(step);
            }
        }
        factors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_hooks::Layer;
    use pv_hooks::tokens::RowSpans;

    fn ramp(positions: Positions) -> Schedule {
        let direction = Direction { layer: Layer::hidden_state(1), values: vec![2.0], mean_residual_norm: None };
        let ramp = Ramp { from: Coefficient::Raw(1.0), to: Coefficient::Raw(3.0), over: 2 };
        Strength::from(ramp).schedule(&direction, positions).expect("a ramp")
    }

    #[test]
    fn a_ramp_counts_from_the_first_token_acted_upon() {
        // Two tokens of padding, three of prompt, four of response, one after it.
        let spans = TokenSpans::new(vec![RowSpans::whole(0, 2, 3, 4)], 10).expect("spans");
        let over = |positions: Positions| ramp(positions).over_window(&spans, positions.tokens());
        assert_eq!(over(Positions::Response), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 3.0, 3.0, 0.0]);
        assert_eq!(over(Positions::All), [0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0]);
        assert_eq!(over(Positions::ResponseFrom(1)), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 0.0]);
    }

    #[test]
    fn decoding_continues_the_ramp() {
        let rows = (0..4).map(|n| RowSpans::generated(n, 3, n)).chain([RowSpans::unused(1)]).collect();
        let spans = TokenSpans::new(rows, 1).expect("spans");
        let over = |positions: Positions| ramp(positions).over_window(&spans, positions.tokens());
        assert_eq!(over(Positions::Response), [2.0, 3.0, 3.0, 3.0, 0.0]);
        assert_eq!(over(Positions::ResponseFrom(1)), [0.0, 1.0, 2.0, 3.0, 0.0]);
    }
}
