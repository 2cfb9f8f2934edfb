//! A trait's direction with its name.

use pv_hooks::{Layer, LayerSet};

use crate::{PersonaVector, Result, UnitDirection};

/// A trait's direction at one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct TraitDirection {
    /// The trait.
    pub trait_name: String,
    /// Its unit vector and layer.
    pub direction: UnitDirection,
}

impl TraitDirection {
    /// A vector's unit direction at a layer, from its response means.
    ///
    /// # Errors
    /// Those of [`PersonaVector::direction`].
    pub fn of(vector: &PersonaVector, layer: Layer) -> Result<Self> {
        let direction = vector.direction(layer)?.unit()?;
        Ok(Self { trait_name: vector.provenance().trait_name.clone(), direction })
    }

    /// The unit directions of a vector (from its response means) at layers; with [`LayerSet::All`], at those that have
    /// a direction.
    ///
    /// # Errors
    /// A named layer without a direction.
    pub fn of_vector(vector: &PersonaVector, layers: &LayerSet) -> Result<Vec<Self>> {
        let trait_name = &vector.provenance().trait_name;
        let mut found = Vec::new();
        for layer in layers.resolve(vector.shape().0.saturating_sub(1)) {
            match vector.direction(layer).and_then(|direction| direction.unit()) {
                Ok(direction) => found.push(Self { trait_name: trait_name.clone(), direction }),
                Err(_) if *layers == LayerSet::All => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The label in tables: `evil@20`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.trait_name, self.direction.layer().index())
    }
}
