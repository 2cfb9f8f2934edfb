//! The index of a model whose weights are in several files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::WeightsError;
use crate::folder::{FolderError, is_bare_file_name, read_limited};

/// Far larger than the indexes of the largest models.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// The shard of each tensor, by bare file names.
pub(crate) fn read_index(path: &Path) -> Result<BTreeMap<String, String>, WeightsError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: Pairs,
    }
    let bytes = read_limited(path, MAX_INDEX_BYTES)?;
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|source| FolderError::Json { path: path.into(), source })?;
    let mut weight_map = BTreeMap::new();
    for (tensor, shard) in index.weight_map.0 {
        if !is_bare_file_name(&shard) {
            return Err(WeightsError::ShardName { path: path.into(), tensor, shard });
        }
        if weight_map.insert(tensor.clone(), shard).is_some() {
            return Err(WeightsError::DuplicateTensor { tensor, first: path.into(), second: path.into() });
        }
    }
    Ok(weight_map)
}

/// The entries of a JSON object in order, including duplicate keys, which a map would hide.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Pairs;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
