//! The settings of Gemma that its files do not state: llama.cpp knows them by the architecture and the number of blocks.

use pv_data::gguf::Value;
use serde_json::{Map, Value as Json};

use super::{GgufModelError, Model};

/// Which blocks have the window.
pub(super) const PATTERN: &str = "attention.sliding_window_pattern";

/// The numbers of blocks of the models whose scores are not scaled by the width of a head.
const BLOCKS_OF_27B: [(&str, u64); 2] = [("gemma2", 46), ("gemma3", 62)];

pub(super) fn gemma2(model: &Model<'_>, config: &mut Map<String, Json>) -> Result<(), GgufModelError> {
    let blocks = model.size("block_count")?.unwrap_or(0);
    let key = match BLOCKS_OF_27B.contains(&(model.architecture.name, blocks)) {
        true => model.size("embedding_length")?.zip(model.size("attention.head_count")?),
        false => None,
    };
    let scalar = match key.and_then(|(width, heads)| width.checked_div(heads)) {
        Some(width) => width.into(),
        None => config.get("head_dim").cloned().unwrap_or_default(),
    };
    config.insert("query_pre_attn_scalar".to_owned(), scalar);
    Ok(())
}

pub(super) fn gemma3(model: &Model<'_>, config: &mut Map<String, Json>) -> Result<(), GgufModelError> {
    gemma2(model, config)?;
    // Without a window, all blocks are alike.
    config.entry("sliding_window").or_insert(Json::Null);
    let pattern = model.key(PATTERN);
    match model.metadata().get(&pattern) {
        None => {}
        Some(Value::Array(list)) => {
            let kind = |value| match value {
                Value::Bool(true) => Some(Json::from("sliding_attention")),
                Value::Bool(false) => Some("full_attention".into()),
                _ => None,
            };
            let kinds: Option<Vec<Json>> = list.values().map(kind).collect();
            let kinds = kinds.ok_or_else(|| GgufModelError::value(pattern, "a list", "booleans or a number"))?;
            config.insert("layer_types".to_owned(), kinds.into());
        }
        Some(_) => {
            let period = model.size(PATTERN)?;
            config.insert("sliding_window_pattern".to_owned(), period.into());
        }
    }
    Ok(())
}
