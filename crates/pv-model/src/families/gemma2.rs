//! Gemma 2: norms on both sides with 1 + w, scaled embeddings, GELU, bounded scores and logits, windows in every other
//! block.

use serde_json::{Map, Value, json};

use super::{Absent, Family, attention_bias, common, layer_types, written_layer_types};
use crate::config::{
    AttentionBias, ConfigError, DecoderConfig, Fields, MAX_POSITIONS, NormPlacement, NormWeights, Scales, Softcaps,
    TensorNames,
};

pub(super) const FAMILY: Family = Family { model_type: "gemma2", architecture: "Gemma2ForCausalLM", read, write };

const NAMES: TensorNames = TensorNames { mlp_norm: "pre_feedforward_layernorm.weight", ..TensorNames::HUGGING_FACE };

/// What Gemma 2 and Gemma 3 share.
pub(super) const ABSENT: Absent = Absent {
    kv_heads: Some(4),
    head_dim: Some(256),
    max_positions: 8192,
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    tied: true,
    bos: Some(2),
    eos: Some(1),
    ..Absent::LLAMA
};

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let config = gemma(fields, common(fields, ABSENT)?, 2)?;
    let cap = |key: &str, absent: f64| match fields.get(key) {
        None => Ok(Some(absent)),
        Some(_) => fields.optional_number(key),
    };
    let softcaps =
        Softcaps { attention: cap("attn_logit_softcapping", 50.0)?, logits: cap("final_logit_softcapping", 30.0)? };
    Ok(DecoderConfig { softcaps, ..config })
}

/// What Gemma 2 and Gemma 3 share. Of `period` blocks, the last has no window.
pub(super) fn gemma(fields: &Fields<'_>, config: DecoderConfig, period: usize) -> Result<DecoderConfig, ConfigError> {
    if fields.get("use_bidirectional_attention").is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)))
    {
        return Err(fields.unsupported("use_bidirectional_attention", "true", "false: tokens see earlier ones only"));
    }
    let window = fields.optional_size("sliding_window", Some(4096), MAX_POSITIONS)?;
    let windows = match layer_types(fields, window)? {
        Some(windows) => windows,
        None => (1..=config.layers).map(|block| window.filter(|_| !block.is_multiple_of(period))).collect(),
    };
    let scalar = fields.number("query_pre_attn_scalar", Some(256.0))?;
    if scalar <= 0.0 {
        return Err(fields.wrong("query_pre_attn_scalar", scalar, "a number above 0"));
    }
    let scales =
        Scales { embedding: (config.d_model as f64).sqrt(), attention: Some(scalar.powf(-0.5)), ..Scales::default() };
    Ok(DecoderConfig {
        attention_bias: attention_bias(fields)?,
        norms: NormPlacement::Both,
        norm_weights: NormWeights::OnePlus,
        scales,
        windows,
        names: NAMES,
        ..config
    })
}

fn write(config: &DecoderConfig, map: &mut Map<String, Value>) {
    write_gemma(config, map);
    map.insert("attn_logit_softcapping".into(), json!(config.softcaps.attention));
}

pub(super) fn write_gemma(config: &DecoderConfig, map: &mut Map<String, Value>) {
    map.insert("hidden_activation".into(), map.get("hidden_act").cloned().unwrap_or_default());
    map.insert("attention_bias".into(), json!(config.attention_bias == AttentionBias::QkvAndOutput));
    map.insert("final_logit_softcapping".into(), json!(config.softcaps.logits));
    // transformers requires an integer.
    let scalar = config.scales.attention.map(|scale| scale.powi(-2).round() as u64);
    map.insert("query_pre_attn_scalar".into(), json!(scalar.unwrap_or(config.head_dim as u64)));
    let window = config.windows.iter().flatten().next();
    if let Some(window) = window {
        map.insert("sliding_window".into(), json!(window));
    }
    map.insert("layer_types".into(), written_layer_types(config));
}
