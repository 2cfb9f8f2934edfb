//! Qwen2 and Qwen2.5: biases on query, key and value, whatever the configuration says.

use serde_json::{Map, Value, json};

use super::{Absent, Family, common, qwen_windows, written_layer_types};
use crate::config::{AttentionBias, ConfigError, DecoderConfig, Fields};

pub(super) const FAMILY: Family =
    Family { model_type: "qwen2", architecture: "Qwen2ForCausalLM", read, write: write_windows };

/// What Qwen2 and Qwen3 share.
pub(super) const ABSENT: Absent =
    Absent { kv_heads: Some(32), max_positions: 32_768, bos: None, eos: None, ..Absent::LLAMA };

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let config = common(fields, ABSENT)?;
    let windows = qwen_windows(fields, config.layers)?;
    Ok(DecoderConfig { attention_bias: AttentionBias::Qkv, windows, ..config })
}

pub(super) fn write_windows(config: &DecoderConfig, map: &mut Map<String, Value>) {
    let window = config.windows.iter().flatten().next();
    let full = config.windows.iter().take_while(|window| window.is_none()).count();
    map.insert("use_sliding_window".into(), json!(window.is_some()));
    map.insert("sliding_window".into(), json!(window));
    map.insert("max_window_layers".into(), json!(full));
    map.insert("layer_types".into(), written_layer_types(config));
}
