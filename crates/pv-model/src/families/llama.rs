//! Llama, and what is stored as Llama, such as SmolLM2.

use serde_json::Value;

use super::{Absent, Family, attention_bias, common, refuse_other_layer_types};
use crate::config::{DecoderConfig, Fields, MlpBias, shortened};
use crate::error::Result;

pub(super) const FAMILY: Family = Family { model_type: "llama", read };

fn read(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let absent = Absent { kv_heads: None, head_dim: None, max_positions: 2048, bos: Some(1), eos: Some(2) };
    let config = DecoderConfig {
        attention_bias: attention_bias(fields)?,
        mlp_bias: if fields.flag("mlp_bias", false)? { MlpBias::All } else { MlpBias::None },
        ..common(fields, absent)?
    };
    // Hugging Face's Llama attends to everything but caches only the window; neither is what such a file means.
    if let Some(window) = fields.get("sliding_window").filter(|window| !matches!(window, Value::Null)) {
        return Err(fields.unsupported("sliding_window", shortened(window), "null for model_type llama"));
    }
    refuse_other_layer_types(fields, &config)?;
    Ok(config)
}
