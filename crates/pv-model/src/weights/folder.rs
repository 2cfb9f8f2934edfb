//! What a model folder holds besides tensors.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use pv_data::{FileError, open_file};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::error::{Error, Result};

/// Far more than the largest models' indexes have.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let failed = |source| Error::read(path, source);
    let mut bytes = Vec::new();
    let file = open_file(path).map_err(failed)?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > limit {
        true => Err(Error::FileTooLarge { path: path.into(), limit }),
        false => Ok(bytes),
    }
}

/// Which shard holds each tensor, by bare file names.
pub(crate) fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: Pairs,
    }
    let bytes = read_limited(path, MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: path.into(), source })?;
    let mut weight_map = BTreeMap::new();
    for (tensor, shard) in index.weight_map.0 {
        if !is_bare_file_name(&shard) {
            return Err(Error::ShardName { path: path.into(), tensor, shard });
        }
        if weight_map.insert(tensor.clone(), shard).is_some() {
            return Err(Error::DuplicateTensor { tensor, first: path.into(), second: path.into() });
        }
    }
    Ok(weight_map)
}

/// Whether joining `name` to a folder stays in that folder, on every platform.
pub(crate) fn is_bare_file_name(name: &str) -> bool {
    let escapes = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    !name.is_empty() && name != "." && !name.contains("..") && !name.contains(escapes)
}

/// Says what a folder holds where a Hugging Face model was sought.
pub(crate) fn describe_folder(folder: &Path) -> Result<String> {
    const SHOWN: usize = 10;
    let failed = |source| FileError::Read { path: folder.into(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let with = |test: &dyn Fn(&str) -> bool| names.iter().find(|name| test(name));
    Ok(if let Some(name) = with(&|name| name == "adapter_config.json" || name == "adapter_model.safetensors") {
        format!("found {name}, so this is a PEFT adapter; open its base model's folder and load the adapter onto it")
    } else if let Some(name) = with(&|name| name.starts_with("pytorch_model") || name.ends_with(".pth")) {
        format!("found {name}; save the model again with safe_serialization=True, pickled weights are not read")
    } else if let Some(name) = with(&|name| name.ends_with(".gguf")) {
        format!("found {name}; GGUF models are not read, use the Hugging Face folder that it was made from")
    } else if let Some(name) = with(&|name| name.ends_with(".safetensors")) {
        format!("found {name}, but neither model.safetensors nor model.safetensors.index.json with config.json")
    } else if names.is_empty() {
        "the folder is empty".into()
    } else {
        let more = if names.len() > SHOWN { ", …" } else { "" };
        names.truncate(SHOWN);
        format!("found {}{more}", names.join(", "))
    })
}

/// The entries of a JSON object in order, repeated keys included, which a map would hide.
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
