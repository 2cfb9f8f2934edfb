//! The layout of one rollout's activations in a file.

use half::f16;
use pv_hooks::Layer;

use super::RolloutMeans;
use crate::Result;
use crate::error::SettingError;
use crate::rollout::Precision;
use crate::vector::Pooling;

/// The shape of a rollout's activations on disk: `[poolings, layers, d_model]` in the run's precision, then the norms,
/// `[layers]`, in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) layers: usize,
    pub(super) d_model: usize,
    pub(super) precision: Precision,
}

impl Layout {
    /// The width of a value in bytes.
    pub(super) fn width(self) -> usize {
        match self.precision {
            Precision::F32 => 4,
            Precision::F16 => 2,
        }
    }

    /// The length of a row in bytes.
    pub(super) fn row(self) -> usize {
        self.d_model * self.width()
    }

    /// The offset of a row in bytes.
    pub(super) fn offset(self, pooling: Pooling, layer: usize) -> usize {
        (pooling as usize * self.layers + layer) * self.row()
    }

    /// The offset of the norms in bytes.
    pub(super) fn norms(self) -> usize {
        Pooling::ALL.len() * self.layers * self.row()
    }

    /// The total size in bytes.
    pub(super) fn size(self) -> usize {
        self.norms() + self.layers * 4
    }

    pub(super) fn encode(self, means: &RolloutMeans) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.size());
        match self.precision {
            Precision::F32 => bytes.extend(means.values.iter().flat_map(|value| value.to_le_bytes())),
            Precision::F16 => {
                for (at, &value) in means.values.iter().enumerate() {
                    let small = f16::from_f32(value);
                    if !small.is_finite() {
                        let layer = Layer::hidden_state(at / self.d_model % self.layers);
                        return Err(SettingError::BeyondF16 { value, layer }.into());
                    }
                    bytes.extend(small.to_le_bytes());
                }
            }
        }
        bytes.extend(means.norms.iter().flat_map(|value| value.to_le_bytes()));
        Ok(bytes)
    }

    /// Decodes the values of rows.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self.precision {
            Precision::F32 => floats(bytes),
            Precision::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        }
    }
}

pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
