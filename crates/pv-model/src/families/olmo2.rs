//! OLMo 2: norms after attention and after the feed-forward part, and over all queries and over all keys.

use serde_json::{Map, Value, json};

use super::{Absent, Family, attention_bias, common};
use crate::config::{AttentionBias, ConfigError, DecoderConfig, Fields, NormPlacement, QkNorm};

pub(super) const FAMILY: Family = Family { model_type: "olmo2", architecture: "Olmo2ForCausalLM", read, write };

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    Ok(DecoderConfig {
        attention_bias: attention_bias(fields)?,
        norms: NormPlacement::After,
        qk_norm: QkNorm::Whole,
        ..common(fields, Absent { norm_eps: 1e-5, bos: None, eos: Some(50_279), ..Absent::LLAMA })?
    })
}

fn write(config: &DecoderConfig, map: &mut Map<String, Value>) {
    map.insert("attention_bias".into(), json!(config.attention_bias == AttentionBias::QkvAndOutput));
}
