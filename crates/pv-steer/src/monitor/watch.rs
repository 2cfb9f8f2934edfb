//! Watched directions and their names.

use pv_hooks::Layer;
use pv_vectors::{PersonaVector, UnitDirection};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::error::MonitorError;

/// A direction with the name of its trait.
#[derive(Clone, Debug, PartialEq)]
pub struct Watch {
    /// The trait's name, which alarms and results use.
    pub trait_name: String,
    /// The direction, at its layer.
    pub direction: UnitDirection,
}

impl Watch {
    /// A direction with a name.
    pub fn new(trait_name: impl Into<String>, direction: UnitDirection) -> Self {
        Self { trait_name: trait_name.into(), direction }
    }

    /// The persona vector (of the response means) at a layer, with the name of its trait.
    ///
    /// # Errors
    /// A layer that the vector lacks or at which it has no direction.
    pub fn of(vector: &PersonaVector, layer: Layer) -> Result<Self> {
        Ok(Self::new(vector.provenance().trait_name.clone(), vector.direction(layer)?.unit()?))
    }

    /// The layer at which it is watched.
    pub fn layer(&self) -> Layer {
        self.direction.layer()
    }

    /// Its identity in files.
    pub fn id(&self) -> WatchId {
        let bytes: Vec<u8> = self.direction.values().iter().flat_map(|value| value.to_le_bytes()).collect();
        WatchId {
            trait_name: self.trait_name.clone(),
            layer: self.layer(),
            direction_sha256: hex::encode(Sha256::digest(bytes)),
        }
    }
}

/// The identity of a watched direction in files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WatchId {
    /// The trait's name.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// The layer.
    pub layer: Layer,
    /// SHA-256 of the unit direction's values, f32 in little-endian order, in hex.
    pub direction_sha256: String,
}

/// Refuses an empty list, and two directions with the same name and layer.
pub(super) fn check(watches: &[Watch]) -> Result<()> {
    if watches.is_empty() {
        return Err(MonitorError::NoWatches.into());
    }
    for (i, watch) in watches.iter().enumerate() {
        if watches[..i].iter().any(|other| other.trait_name == watch.trait_name && other.layer() == watch.layer()) {
            let (trait_name, layer) = (watch.trait_name.clone(), watch.layer());
            return Err(MonitorError::WatchedTwice { trait_name, layer }.into());
        }
    }
    Ok(())
}
