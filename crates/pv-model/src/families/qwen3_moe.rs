//! Qwen3 with experts, in all blocks or in some of them; one sliding window for all blocks or none.

use serde_json::{Map, Value, json};

use super::{Absent, Family, attention_bias, common, expert_count, mistral, qwen2, refuse_other_layer_types};
use crate::config::{
    AttentionBias, ConfigError, DecoderConfig, ExpertConfig, Fields, MAX_BLOCKS, MAX_EXPERTS, MAX_POSITIONS, MAX_WIDTH,
    QkNorm, shortened,
};

pub(super) const FAMILY: Family = Family { model_type: "qwen3_moe", architecture: "Qwen3MoeForCausalLM", read, write };

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let config = common(fields, Absent { kv_heads: Some(4), ..qwen2::ABSENT })?;
    // Unlike in the dense models, `max_window_layers` has no effect.
    let window = match fields.flag("use_sliding_window", false)? {
        true => fields.optional_size("sliding_window", Some(4096), MAX_POSITIONS)?,
        false => None,
    };
    let config = DecoderConfig {
        attention_bias: attention_bias(fields)?,
        qk_norm: QkNorm::PerHead,
        windows: vec![window; config.layers],
        experts: experts(fields, config.layers)?,
        ..config
    };
    refuse_other_layer_types(fields, &config)?;
    Ok(config)
}

/// `None` if no block has experts.
fn experts(fields: &Fields<'_>, layers: usize) -> Result<Option<ExpertConfig>, ConfigError> {
    let count = expert_count(fields, ["num_experts", "num_local_experts"], 0)?;
    let step = fields.size("decoder_sparse_step", Some(1), MAX_BLOCKS)?;
    let dense = match fields.get("mlp_only_layers") {
        None | Some(Value::Null) => Vec::new(),
        Some(value) => {
            let blocks = value.as_array().filter(|all| all.len() <= MAX_BLOCKS);
            let blocks = blocks.and_then(|all| all.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
            blocks.ok_or_else(|| fields.wrong("mlp_only_layers", shortened(value), "a list of blocks, or null"))?
        }
    };
    let is_dense = |block: &usize| !(block + 1).is_multiple_of(step) || dense.contains(&(*block as u64));
    let dense_blocks: Vec<usize> = (0..layers).filter(is_dense).collect();
    if count == 0 || dense_blocks.len() == layers {
        return Ok(None);
    }
    Ok(Some(ExpertConfig {
        count,
        per_token: fields.size("num_experts_per_tok", None, MAX_EXPERTS)?,
        d_ff: fields.size("moe_intermediate_size", None, MAX_WIDTH)?,
        normalised: fields.flag("norm_topk_prob", false)?,
        dense_blocks,
    }))
}

fn write(config: &DecoderConfig, map: &mut Map<String, Value>) {
    mistral::write_window(config, map);
    let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
    set("use_sliding_window", json!(config.windows.iter().any(Option::is_some)));
    set("attention_bias", json!(config.attention_bias == AttentionBias::QkvAndOutput));
    set("decoder_sparse_step", json!(1));
    set("num_experts", json!(config.experts.as_ref().map_or(0, |experts| experts.count)));
    if let Some(ExpertConfig { per_token, d_ff, normalised, dense_blocks, .. }) = &config.experts {
        set("num_experts_per_tok", json!(per_token));
        set("moe_intermediate_size", json!(d_ff));
        set("norm_topk_prob", json!(normalised));
        set("mlp_only_layers", json!(dense_blocks));
    }
}
