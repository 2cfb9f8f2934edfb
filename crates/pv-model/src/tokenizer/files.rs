//! Special tokens and stop tokens in a folder's JSON files.

use std::path::Path;

use serde_json::{Map, Value};

use super::TokenizerError;
use crate::config::{shortened, wrong};
use crate::folder::{Files, FolderError, with_files};

/// The names of special tokens, in the order of transformers.
pub(super) const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The ids that end generation: `eos_token_id` (a number or a list) of `generation_config.json`, of `config.json` and
/// of its `text_config`, each id once. Empty if no file contains one.
///
/// # Errors
/// [`FileError::Read`](pv_data::FileError::Read) and [`FolderError::Json`](crate::folder::FolderError::Json) with the
/// file; [`ConfigError::Value`](crate::config::ConfigError::Value) for an invalid id. A negative id is an old notation
/// for none.
pub fn eos_ids(folder: &Path) -> Result<Vec<u32>, TokenizerError> {
    with_files(folder, eos_ids_of)
}

pub(super) fn eos_ids_of(files: &Files<'_>) -> Result<Vec<u32>, TokenizerError> {
    const KEY: &str = "eos_token_id";
    let mut found = Vec::new();
    for file in ["generation_config.json", "config.json"] {
        let config = files.object(file)?.unwrap_or_default();
        let text = config.get("text_config").and_then(Value::as_object);
        for value in [Some(&config), text].into_iter().flatten().filter_map(|object| object.get(KEY)) {
            let ids = match value {
                Value::Null => &[],
                Value::Array(list) => list.as_slice(),
                one => std::slice::from_ref(one),
            };
            for id in ids.iter().filter(|id| id.as_i64().is_none_or(|id| id >= 0)) {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let expected = "a token id or a list of token ids";
                found.push(id.ok_or_else(|| wrong(&files.path().join(file), KEY, shortened(value), expected))?);
            }
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|id| seen.insert(*id));
    Ok(found)
}

/// The special tokens that are set, by name (`bos_token`, …), with their text.
///
/// They are read from `tokenizer_config.json` and, if it lacks one, from the older `special_tokens_map.json`, which has
/// priority if the folder has no `added_tokens_decoder`, as in transformers.
pub(crate) fn special_tokens(files: &Files<'_>) -> Result<Map<String, Value>, FolderError> {
    let config = files.object("tokenizer_config.json")?.unwrap_or_default();
    let map = files.object("special_tokens_map.json")?.unwrap_or_default();
    let legacy = config.get("added_tokens_decoder").is_none_or(Value::is_null);
    let order = if legacy { [&map, &config] } else { [&config, &map] };
    let text = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned);
    let token = |name: &str| order.into_iter().find_map(|file| file.get(name).and_then(text));
    Ok(NAMED.into_iter().filter_map(|name| Some((name.to_owned(), token(name)?.into()))).collect())
}
