//! GLM-4: norms on both sides, stacked gate and up projections on disk, and neighbouring dimensions rotated together in a
//! part of each head.

use serde_json::{Map, Value, json};

use super::{Absent, Family, common};
use crate::config::{
    AttentionBias, ConfigError, DecoderConfig, Fields, NormPlacement, RopeFamily, RotaryPairs, SpecialTokens,
    TensorNames,
};

pub(super) const FAMILY: Family = Family { model_type: "glm4", architecture: "Glm4ForCausalLM", read, write };

const NAMES: TensorNames = TensorNames {
    attention_out_norm: "post_self_attn_layernorm.weight",
    mlp_norm: "post_attention_layernorm.weight",
    mlp_out_norm: "post_mlp_layernorm.weight",
    gate: "mlp.gate_up_proj",
    up: "mlp.gate_up_proj",
    ..TensorNames::HUGGING_FACE
};

/// The end tokens of a configuration without any.
const END: [u32; 3] = [151_329, 151_336, 151_338];

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let absent = Absent {
        kv_heads: Some(2),
        head_dim: Some(128),
        max_positions: 131_072,
        norm_eps: 1.5625e-7,
        rope: RopeFamily { rotated: Some(0.5), ..RopeFamily::default() },
        bos: None,
        eos: None,
        ..Absent::LLAMA
    };
    let config = common(fields, absent)?;
    let eos = if config.tokens.eos.is_empty() { END.to_vec() } else { config.tokens.eos };
    let biased = fields.flag("attention_bias", true)?;
    Ok(DecoderConfig {
        attention_bias: if biased { AttentionBias::Qkv } else { AttentionBias::None },
        norms: NormPlacement::Both,
        rotary_pairs: RotaryPairs::Neighbours,
        tokens: SpecialTokens { eos, ..config.tokens },
        names: NAMES,
        ..config
    })
}

fn write(config: &DecoderConfig, map: &mut Map<String, Value>) {
    map.insert("attention_bias".into(), json!(config.attention_bias == AttentionBias::Qkv));
}
