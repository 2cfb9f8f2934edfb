//! Phi-3, Phi-3.5 and Phi-4-mini: stacked projections on disk, heads of which a part is rotated, LongRoPE.

use serde_json::{Map, Value, json};

use super::{Absent, Family, common, mistral};
use crate::config::{ConfigError, DecoderConfig, Fields, RopeFamily, RopeScaling, TensorNames};

pub(super) const FAMILY: Family = Family { model_type: "phi3", architecture: "Phi3ForCausalLM", read, write };

const NAMES: TensorNames = TensorNames {
    query: "self_attn.qkv_proj",
    key: "self_attn.qkv_proj",
    value: "self_attn.qkv_proj",
    gate: "mlp.gate_up_proj",
    up: "mlp.gate_up_proj",
    ..TensorNames::HUGGING_FACE
};

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let absent = Absent {
        max_positions: 4096,
        norm_eps: 1e-5,
        rope: RopeFamily { rotated: Some(1.0), longrope: true, ..RopeFamily::default() },
        eos: Some(32_000),
        ..Absent::LLAMA
    };
    let config = mistral::one_window(fields, common(fields, absent)?, None)?;
    Ok(DecoderConfig { names: NAMES, ..config })
}

fn write(config: &DecoderConfig, map: &mut Map<String, Value>) {
    mistral::write_window(config, map);
    if let RopeScaling::LongRope { original_max_positions, .. } = config.rope.scaling {
        map.insert("original_max_position_embeddings".into(), json!(original_max_positions));
    }
}
