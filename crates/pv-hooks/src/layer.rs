//! Layer indices. No other module converts between layers and blocks.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A point of the residual stream, numbered like Hugging Face's `hidden_states`.
///
/// Layer 0 is the output of the embeddings; layer `k` is the residual *after* block `k - 1`. A model of `N` blocks has
/// the layers `0..=N`. Layer `N` is the raw residual before the final norm, because interventions act there. Hugging
/// Face's last entry is after the final norm.
///
/// ```
/// use pv_hooks::Layer;
/// assert_eq!(Layer::after_block(19), Layer::hidden_state(20));
/// assert_eq!(Layer::hidden_state(20).to_string(), "layer 20 (after block 19)");
/// assert_eq!(Layer::EMBEDDINGS.block(), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Layer(usize);

impl Layer {
    /// The output of the embeddings, before the first block.
    pub const EMBEDDINGS: Self = Self(0);

    /// The layer that Hugging Face numbers `hidden_states[index]`.
    pub const fn hidden_state(index: usize) -> Self {
        Self(index)
    }

    /// The output of the block with this zero-based index (`model.layers.{block}`).
    pub const fn after_block(block: usize) -> Self {
        Self(block + 1)
    }

    /// The index in `hidden_states`.
    pub const fn index(self) -> usize {
        self.0
    }

    /// The block whose output this is, or `None` for the embeddings.
    pub const fn block(self) -> Option<usize> {
        self.0.checked_sub(1)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.block() {
            None => write!(f, "layer 0 (embeddings)"),
            Some(block) => write!(f, "layer {} (after block {block})", self.0),
        }
    }
}

/// Some layers, or all layers of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerSet {
    /// Every layer from the embeddings to the last block.
    All,
    /// These layers.
    These(BTreeSet<Layer>),
}

impl LayerSet {
    /// No layer.
    pub const fn none() -> Self {
        Self::These(BTreeSet::new())
    }

    /// Whether the layer belongs to the set.
    pub fn contains(&self, layer: Layer) -> bool {
        match self {
            Self::All => true,
            Self::These(layers) => layers.contains(&layer),
        }
    }

    /// The layers of this set in a model with this many blocks, in ascending order. Layers that the model does not have
    /// are included; [`check`](crate::hook::check) rejects them.
    pub fn resolve(&self, blocks: usize) -> Vec<Layer> {
        match self {
            Self::All => (0..=blocks).map(Layer).collect(),
            Self::These(layers) => layers.iter().copied().collect(),
        }
    }

    /// The union of both sets.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::These(mut a), Self::These(b)) => {
                a.extend(b);
                Self::These(a)
            }
            _ => Self::All,
        }
    }
}

impl From<Layer> for LayerSet {
    fn from(layer: Layer) -> Self {
        Self::from_iter([layer])
    }
}

impl FromIterator<Layer> for LayerSet {
    fn from_iter<I: IntoIterator<Item = Layer>>(layers: I) -> Self {
        Self::These(layers.into_iter().collect())
    }
}
