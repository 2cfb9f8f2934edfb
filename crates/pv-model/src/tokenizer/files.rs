//! What a folder's JSON files say about special tokens and the ends of answers.

use std::path::Path;

use pv_data::FileError;
use serde_json::{Map, Value};

use crate::config::{shortened, wrong};
use crate::error::{Error, Result};
use crate::weights::read_limited;

/// The names of special tokens in the order of transformers.
pub(super) const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// No configuration is longer; a longer file is not one.
const MAX_BYTES: u64 = 64 << 20;

/// The ids that end generation: `eos_token_id` (a number or a list) of `generation_config.json`, of `config.json` and of its
/// `text_config`, all of them, each once. Empty when no file says any.
///
/// # Errors
/// [`FileError::Read`](pv_data::FileError::Read) and [`Error::Json`] name the file; [`Error::ConfigValue`] for what is no id. A negative id is an old way of
/// saying that there is none.
pub fn eos_ids(folder: &Path) -> Result<Vec<u32>> {
    const KEY: &str = "eos_token_id";
    let mut found = Vec::new();
    for file in ["generation_config.json", "config.json"] {
        let path = folder.join(file);
        let config = read_object(&path)?.unwrap_or_default();
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
                found.push(id.ok_or_else(|| wrong(&path, KEY, shortened(value), expected))?);
            }
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|id| seen.insert(*id));
    Ok(found)
}

/// The special tokens by name (`bos_token`, …) with their text. Only those that are set.
///
/// From `tokenizer_config.json` or, where that is silent, from the older `special_tokens_map.json`, which comes first where the
/// folder has no `added_tokens_decoder`, as in transformers.
pub(crate) fn special_tokens(folder: &Path) -> Result<Map<String, Value>> {
    let config = read_object(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let map = read_object(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
    let legacy = config.get("added_tokens_decoder").is_none_or(Value::is_null);
    let order = if legacy { [&map, &config] } else { [&config, &map] };
    let text = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned);
    let token = |name: &str| order.into_iter().find_map(|file| file.get(name).and_then(text));
    Ok(NAMED.into_iter().filter_map(|name| Some((name.to_owned(), token(name)?.into()))).collect())
}

/// A JSON object from a file; `None` when there is no such file.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let bytes = match read_limited(path, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(Error::File(FileError::Read { source, .. })) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Json { path: path.to_owned(), source })
}
