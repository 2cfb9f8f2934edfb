//! Llama, and models stored as Llama, such as SmolLM2.

use serde_json::{Map, Value, json};

use super::{Absent, Family, attention_bias, common, refuse_other_layer_types};
use crate::config::{AttentionBias, ConfigError, DecoderConfig, Fields, MlpBias, shortened};

pub(super) const FAMILY: Family =
    Family { model_type: "llama", architecture: "LlamaForCausalLM", read, write: write_biases };

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let config = DecoderConfig {
        attention_bias: attention_bias(fields)?,
        mlp_bias: mlp_bias(fields)?,
        ..common(fields, Absent::LLAMA)?
    };
    // Hugging Face's Llama attends to all tokens but caches only the window; such a file means neither.
    if let Some(window) = fields.get("sliding_window").filter(|window| !matches!(window, Value::Null)) {
        return Err(fields.unsupported("sliding_window", shortened(window), "null for model_type llama"));
    }
    refuse_other_layer_types(fields, &config)?;
    Ok(config)
}

pub(super) fn mlp_bias(fields: &Fields<'_>) -> Result<MlpBias, ConfigError> {
    Ok(if fields.flag("mlp_bias", false)? { MlpBias::All } else { MlpBias::None })
}

pub(super) fn write_biases(config: &DecoderConfig, map: &mut Map<String, Value>) {
    map.insert("attention_bias".into(), json!(config.attention_bias == AttentionBias::QkvAndOutput));
    map.insert("mlp_bias".into(), json!(config.mlp_bias == MlpBias::All));
}
