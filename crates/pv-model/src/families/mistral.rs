//! Mistral: Llama without biases, with one sliding window for all blocks or none.

use serde_json::{Map, Value, json};

use super::{Absent, Family, common, refuse_other_layer_types};
use crate::config::{ConfigError, DecoderConfig, Fields, MAX_POSITIONS};

pub(super) const FAMILY: Family =
    Family { model_type: "mistral", architecture: "MistralForCausalLM", read, write: write_window };

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let config = common(fields, Absent { kv_heads: Some(8), max_positions: 131_072, ..Absent::LLAMA })?;
    one_window(fields, config, Some(4096))
}

/// The configuration with the window of `sliding_window` in every block.
pub(super) fn one_window(
    fields: &Fields<'_>,
    config: DecoderConfig,
    absent: Option<usize>,
) -> Result<DecoderConfig, ConfigError> {
    let window = fields.optional_size("sliding_window", absent, MAX_POSITIONS)?;
    let config = DecoderConfig { windows: vec![window; config.layers], ..config };
    refuse_other_layer_types(fields, &config)?;
    Ok(config)
}

pub(super) fn write_window(config: &DecoderConfig, map: &mut Map<String, Value>) {
    map.insert("sliding_window".into(), json!(config.windows.iter().flatten().next()));
}
