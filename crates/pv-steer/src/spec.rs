//! Steering settings: interventions that can be written to a file and applied again.

use std::path::{Path, PathBuf};

use pv_data::FileError;
use pv_hooks::Layer;
use pv_model::DecoderConfig;
use pv_vectors::vector::Pooling;
use pv_vectors::{Direction, PersonaVector};
use serde::{Deserialize, Serialize};

use crate::error::SteeringError;
use crate::{Coefficient, Condition, Error, Positions, Result, Steerer, Strength};

/// A list of interventions, in the order in which they act at one layer.
///
/// ```
/// use pv_steer::SteeringSpec;
///
/// let spec: SteeringSpec = serde_json::from_str(
///     r#"{"interventions": [
///         {"action": "add", "direction": {"vector": "evil.safetensors", "layer": 20},
///          "strength": {"constant": {"raw": -1.5}}},
///         {"action": "cap", "direction": {"vector": "sycophancy.safetensors", "layer": 18},
///          "threshold": 2.0, "positions": "all"}
///     ]}"#,
/// )?;
/// assert_eq!(spec.interventions.len(), 2);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SteeringSpec {
    /// The interventions.
    pub interventions: Vec<InterventionSpec>,
}

/// One intervention; see the method of [`Steerer`] with the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum InterventionSpec {
    /// [`Steerer::add`], or [`Steerer::add_keeping_norm`].
    Add {
        /// The added direction.
        direction: DirectionSource,
        /// The strength.
        strength: Strength,
        /// The tokens.
        #[serde(default)]
        positions: Positions,
        /// Whether the residual keeps its norm.
        #[serde(default)]
        keep_norm: bool,
    },
    /// [`Steerer::add_increments`].
    AddIncrements {
        /// The vector's file.
        vector: PathBuf,
        /// The first and the last layer.
        layers: [Layer; 2],
        /// The coefficient of their sum.
        coefficient: Coefficient,
        /// The pooling of the vector's table.
        #[serde(default)]
        pooling: Pooling,
        /// The tokens.
        #[serde(default)]
        positions: Positions,
    },
    /// [`Steerer::ablate`].
    Ablate {
        /// The removed direction.
        direction: DirectionSource,
        /// The tokens.
        #[serde(default)]
        positions: Positions,
    },
    /// [`Steerer::cap`], or [`Steerer::inhibit_when`].
    Cap {
        /// The direction of the projection.
        direction: DirectionSource,
        /// The highest projection, in activation units.
        threshold: f32,
        /// The tokens.
        #[serde(default)]
        positions: Positions,
        /// The condition, if the cap is conditional.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        when: Option<Condition>,
    },
    /// [`Steerer::floor`].
    Floor {
        /// The direction of the projection.
        direction: DirectionSource,
        /// The lowest projection, in activation units.
        threshold: f32,
        /// The tokens.
        #[serde(default)]
        positions: Positions,
    },
}

/// The source of a direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DirectionSource {
    /// A vector's file.
    File(VectorFile),
    /// The direction itself.
    Direction(Direction),
}

/// A direction of a vector in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorFile {
    /// The file, as loaded by [`PersonaVector::load`].
    pub vector: PathBuf,
    /// The layer; `None` for the vector's best layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Layer>,
    /// The pooling of the vector's table.
    #[serde(default)]
    pub pooling: Pooling,
}

impl SteeringSpec {
    /// Loads a specification from a JSON file. Paths in it are relative to the file's folder.
    ///
    /// # Errors
    /// [`FileError::Read`], [`Error::BadFile`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = pv_data::files::read_file(path).map_err(FileError::read(path))?;
        let mut spec: Self = serde_json::from_slice(&bytes).map_err(|error| Error::BadFile {
            path: path.to_owned(),
            what: "a steering specification",
            source: error.into(),
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for intervention in &mut spec.interventions {
            if let Some(file) = intervention.file() {
                *file = folder.join(&file);
            }
        }
        Ok(spec)
    }

    /// The steerer for this specification and model.
    ///
    /// # Errors
    /// Vectors that cannot be loaded or belong to another model; [`SteeringError::NoBestLayer`]; those of [`Steerer`]'s
    /// methods.
    pub fn steerer(&self, model: &DecoderConfig) -> Result<Steerer> {
        self.interventions.iter().try_fold(Steerer::new(), |steerer, intervention| intervention.apply(steerer, model))
    }
}

impl InterventionSpec {
    fn file(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::AddIncrements { vector, .. } => Some(vector),
            Self::Add { direction, .. }
            | Self::Ablate { direction, .. }
            | Self::Cap { direction, .. }
            | Self::Floor { direction, .. } => match direction {
                DirectionSource::File(file) => Some(&mut file.vector),
                DirectionSource::Direction(_) => None,
            },
        }
    }

    fn apply(&self, steerer: Steerer, model: &DecoderConfig) -> Result<Steerer> {
        match self {
            Self::Add { direction, strength, positions, keep_norm } => {
                let direction = direction.read(model)?;
                match keep_norm {
                    true => steerer.add_keeping_norm(&direction, *strength, *positions),
                    false => steerer.add(&direction, *strength, *positions),
                }
            }
            Self::AddIncrements { vector, layers: [first, last], coefficient, pooling, positions } => {
                let vector = load(vector, model)?;
                steerer.add_increments(&vector, *pooling, *first..=*last, *coefficient, *positions)
            }
            Self::Ablate { direction, positions } => steerer.ablate(&direction.read(model)?, *positions),
            Self::Cap { direction, threshold, positions, when: None } => {
                steerer.cap(&direction.read(model)?, *threshold, *positions)
            }
            Self::Cap { direction, threshold, positions, when: Some(condition) } => {
                steerer.inhibit_when(&direction.read(model)?, *threshold, condition.clone(), *positions)
            }
            Self::Floor { direction, threshold, positions } => {
                steerer.floor(&direction.read(model)?, *threshold, *positions)
            }
        }
    }
}

impl DirectionSource {
    fn read(&self, model: &DecoderConfig) -> Result<Direction> {
        let VectorFile { vector, layer, pooling } = match self {
            Self::Direction(direction) => return Ok(direction.clone()),
            Self::File(file) => file,
        };
        let loaded = load(vector, model)?;
        let layer = layer.or(loaded.provenance().best_layer);
        let layer = layer.ok_or_else(|| SteeringError::NoBestLayer { path: vector.clone() })?;
        Ok(loaded.direction_of(*pooling, layer)?)
    }
}

fn load(path: &Path, model: &DecoderConfig) -> Result<PersonaVector> {
    let vector = PersonaVector::load(path)?;
    vector.check_model(model)?;
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_is_read_as_it_was_written() {
        let direction = Direction { layer: Layer::hidden_state(2), values: vec![3.0, 4.0], mean_residual_norm: None };
        let file = VectorFile { vector: "v.safetensors".into(), layer: None, pooling: Pooling::default() };
        let spec = SteeringSpec {
            interventions: vec![
                InterventionSpec::Add {
                    direction: DirectionSource::Direction(direction.clone()),
                    strength: Coefficient::Raw(0.1).into(),
                    positions: Positions::All,
                    keep_norm: true,
                },
                InterventionSpec::AddIncrements {
                    vector: "v.safetensors".into(),
                    layers: [Layer::hidden_state(1), Layer::hidden_state(3)],
                    coefficient: Coefficient::ResidualNorms(0.5),
                    pooling: Pooling::PromptLast,
                    positions: Positions::ResponseFrom(2),
                },
                InterventionSpec::Ablate { direction: DirectionSource::File(file), positions: Positions::Response },
                InterventionSpec::Cap {
                    direction: DirectionSource::Direction(direction.clone()),
                    threshold: 1.5,
                    positions: Positions::Prompt,
                    when: Some(Condition::above(&direction, 0.5).expect("a condition")),
                },
            ],
        };
        let text = serde_json::to_string(&spec).expect("JSON");
        assert_eq!(serde_json::from_str::<SteeringSpec>(&text).expect("a specification"), spec);
        for (wrong, said) in [
            (r#"{"interventions": [{"action": "bend"}]}"#, "bend"),
            (r#"{"interventions": [], "more": 1}"#, "more"),
            (
                r#"{"interventions": [{"action": "ablate", "direction": {"vector": "v", "layr": 1}}]}"#,
                "DirectionSource",
            ),
        ] {
            let error = serde_json::from_str::<SteeringSpec>(wrong).expect_err("refused").to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
