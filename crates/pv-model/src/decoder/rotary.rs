//! Rotary angles of the positions of a pass.

use crate::config::DecoderConfig;
use crate::rope;

/// The inverse frequencies of a model, from which a pass's tables are made.
#[derive(Clone, Debug)]
pub(crate) struct RotaryAngles {
    inverse_frequencies: Vec<f32>,
    scaling: f32,
}

/// Cosines and sines of the positions `first..first + rows`, each `[rows, head_dim / 2]`.
#[derive(Clone, Debug)]
pub(crate) struct RotaryTable {
    pub(crate) first: usize,
    pub(crate) half: usize,
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

impl RotaryAngles {
    pub(crate) fn new(config: &DecoderConfig) -> Self {
        let (inverse_frequencies, scaling) = rope::RotaryTable::inverse_frequencies(&config.rope, config.head_dim);
        Self { inverse_frequencies, scaling }
    }

    /// The table for the positions of a pass. Angles are products in f32, as transformers computes them.
    pub(crate) fn table(&self, positions: &[usize]) -> RotaryTable {
        let first = positions.iter().copied().min().unwrap_or(0);
        let last = positions.iter().copied().max().unwrap_or(0);
        let half = self.inverse_frequencies.len();
        let mut cos = Vec::with_capacity((last + 1 - first) * half);
        let mut sin = Vec::with_capacity((last + 1 - first) * half);
        for position in first..=last {
            for frequency in &self.inverse_frequencies {
                let (s, c) = (position as f32 * frequency).sin_cos();
                cos.push(c * self.scaling);
                sin.push(s * self.scaling);
            }
        }
        RotaryTable { first, half, cos, sin }
    }
}
