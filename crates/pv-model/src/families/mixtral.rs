//! Mixtral: Mistral with experts in every block, whose weights are divided by their sum.

use serde_json::{Map, Value, json};

use super::{Absent, Family, common, expert_count, mistral};
use crate::config::{ConfigError, DecoderConfig, ExpertConfig, Fields, MAX_EXPERTS, RopeFamily, TensorNames};

pub(super) const FAMILY: Family = Family { model_type: "mixtral", architecture: "MixtralForCausalLM", read, write };

const NAMES: TensorNames = TensorNames {
    router: "block_sparse_moe.gate",
    experts: "block_sparse_moe.experts",
    expert_gate: "w1",
    expert_up: "w3",
    expert_down: "w2",
    ..TensorNames::HUGGING_FACE
};

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let rope = RopeFamily { theta: Some(1e6), ..RopeFamily::default() };
    let absent = Absent { kv_heads: Some(8), max_positions: 131_072, norm_eps: 1e-5, rope, ..Absent::LLAMA };
    let config = mistral::one_window(fields, common(fields, absent)?, None)?;
    let experts = ExpertConfig {
        count: expert_count(fields, ["num_local_experts", "num_experts"], 1)?,
        per_token: fields.size("num_experts_per_tok", None, MAX_EXPERTS)?,
        d_ff: config.d_ff,
        normalised: true,
        dense_blocks: Vec::new(),
    };
    Ok(DecoderConfig { experts: Some(experts), names: NAMES, ..config })
}

fn write(config: &DecoderConfig, map: &mut Map<String, Value>) {
    mistral::write_window(config, map);
    if let Some(experts) = &config.experts {
        map.insert("num_local_experts".into(), json!(experts.count));
        map.insert("num_experts_per_tok".into(), json!(experts.per_token));
    }
}
