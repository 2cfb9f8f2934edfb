//! Capping configurations of the assistant axis.

use std::collections::BTreeMap;
use std::path::Path;

use pv_hooks::Layer;

use super::pt::{PtFile, Value};
use crate::{Direction, Result};

/// Directions, and experiments that cap projections on them, from a `capping_config.pt`.
///
/// A cap moves the residual along the direction so that its projection is at most the cap.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CappingConfig {
    /// The directions by name, each with its layer.
    pub vectors: BTreeMap<String, Direction>,
    /// The experiments, in the order of the file.
    pub experiments: Vec<CappingExperiment>,
}

/// Several directions with their caps.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CappingExperiment {
    /// The experiment's name.
    pub id: String,
    /// The caps, in the order in which they act.
    pub caps: Vec<Cap>,
}

/// The cap of one direction.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Cap {
    /// The direction's name, which is a key of [`CappingConfig::vectors`].
    pub vector: String,
    /// The largest projection that remains, in activation units; `None` if the file gives none. The tool that writes
    /// these files ignores such entries.
    pub cap: Option<f64>,
}

impl CappingConfig {
    /// Loads a `capping_config.pt`: `vectors[name] = {layer, vector}`, where `layer` is the number of the block whose
    /// output the vector belongs to, and `experiments[] = {id, interventions[{vector, cap}]}`.
    ///
    /// # Errors
    /// Those of [`import`](crate::files::import), a file of another structure, or experiments that name missing
    /// vectors.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let file = PtFile::open(path.as_ref())?;
        let mut vectors = BTreeMap::new();
        let mut numbers = 0;
        for (name, entry) in field(&file, file.root(), "vectors", Value::entries)? {
            let Some(name) = name.text() else {
                return Err(file.error(format!("one of its vectors is named by {}", name.kind())));
            };
            let place = |what: &str| format!("{what} of its vector {name:?}");
            let block = required(&file, entry, "layer", Value::int, &place("the layer"))?;
            let block = usize::try_from(block).ok().filter(|block| *block < MAX_BLOCKS);
            let Some(block) = block else {
                return Err(file.error(format!("{} is no block's number", place("the layer"))));
            };
            let tensor = required(&file, entry, "vector", Value::tensor, &place("the vector"))?;
            if tensor.shape.len() != 1 || tensor.shape[0] == 0 {
                return Err(file.error(format!("its vector {name:?} has the shape {:?}", tensor.shape)));
            }
            numbers += tensor.shape[0];
            if numbers > MAX_NUMBERS {
                return Err(file.error(format!("its vectors contain more than {MAX_NUMBERS} values")));
            }
            let (layer, values) = (Layer::after_block(block), file.floats(tensor)?);
            vectors.insert(name.to_owned(), Direction { layer, values, mean_residual_norm: None });
        }
        let experiments = field(&file, file.root(), "experiments", Value::items)?
            .enumerate()
            .map(|(i, experiment)| read_experiment(&file, experiment, i, &vectors))
            .collect::<Result<_>>()?;
        Ok(Self { vectors, experiments })
    }

    /// The experiment with this id.
    pub fn experiment(&self, id: &str) -> Option<&CappingExperiment> {
        self.experiments.iter().find(|experiment| experiment.id == id)
    }
}

/// Far more blocks than any model has.
pub(super) const MAX_BLOCKS: usize = 1 << 10;
/// The maximum number of values of all vectors of a file, since names may share a tensor.
pub(super) const MAX_NUMBERS: usize = 1 << 25;

fn read_experiment(
    file: &PtFile,
    experiment: Value<'_>,
    index: usize,
    vectors: &BTreeMap<String, Direction>,
) -> Result<CappingExperiment> {
    let id = required(file, experiment, "id", Value::text, &format!("the id of its experiment {index}"))?;
    let place = format!("the interventions of its experiment {id:?}");
    let mut caps = Vec::new();
    for intervention in required(file, experiment, "interventions", Value::items, &place)? {
        let vector = required(file, intervention, "vector", Value::text, &format!("a vector's name in {place}"))?;
        if !vectors.contains_key(vector) {
            return Err(
                file.error(format!("its experiment {id:?} names the vector {vector:?}, which it does not contain"))
            );
        }
        let cap = match intervention.get("cap") {
            None => None,
            Some(cap) => {
                let number = cap.number().filter(|number| number.is_finite());
                let wrong = || file.error(format!("the cap of {vector:?} in its experiment {id:?} is no number"));
                Some(number.ok_or_else(wrong)?)
            }
        };
        caps.push(Cap { vector: vector.to_owned(), cap });
    }
    Ok(CappingExperiment { id: id.to_owned(), caps })
}

/// A field of the file's dictionary.
fn field<'a, T>(file: &PtFile, root: Value<'a>, key: &str, read: impl Fn(Value<'a>) -> Option<T>) -> Result<T> {
    required(file, root, key, read, &format!("the entry {key:?} of a capping configuration"))
}

/// A field of a dictionary, or an error that names the field.
fn required<'a, T>(
    file: &PtFile,
    value: Value<'a>,
    key: &str,
    read: impl Fn(Value<'a>) -> Option<T>,
    place: &str,
) -> Result<T> {
    let found = value.get(key);
    let missing = || match found {
        None => file.error(format!("{place} is missing")),
        Some(other) => file.error(format!("{place} is {}", other.kind())),
    };
    found.and_then(&read).ok_or_else(missing)
}
