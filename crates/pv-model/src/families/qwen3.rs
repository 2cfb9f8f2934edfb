//! Dense Qwen3: normalised queries and keys, and a head width that is independent of the residual stream.

use serde_json::{Map, Value, json};

use super::{Absent, Family, attention_bias, common, qwen_windows, qwen2};
use crate::config::{AttentionBias, ConfigError, DecoderConfig, Fields, QkNorm};

pub(super) const FAMILY: Family = Family { model_type: "qwen3", architecture: "Qwen3ForCausalLM", read, write };

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    // A missing head_dim is 128 here, not hidden_size / num_attention_heads.
    let config = common(fields, Absent { head_dim: Some(128), ..qwen2::ABSENT })?;
    Ok(DecoderConfig {
        attention_bias: attention_bias(fields)?,
        qk_norm: QkNorm::PerHead,
        windows: qwen_windows(fields, config.layers)?,
        ..config
    })
}

fn write(config: &DecoderConfig, map: &mut Map<String, Value>) {
    qwen2::write_windows(config, map);
    map.insert("attention_bias".into(), json!(config.attention_bias == AttentionBias::QkvAndOutput));
}
