//! gpt-oss: experts with biases and a clamped activation in every block, sinks of attention, and a sliding window in every
//! second block from the first on.

use serde_json::{Map, Value, json};

use super::{Absent, Family, common, expert_count, layer_types, written_layer_types};
use crate::config::{
    Activation, AttentionBias, ConfigError, DecoderConfig, ExpertConfig, Fields, MAX_EXPERTS, MAX_POSITIONS, MlpBias,
    RopeConfig, RopeFamily, RopeScaling, TensorNames,
};

pub(super) const FAMILY: Family = Family { model_type: "gpt_oss", architecture: "GptOssForCausalLM", read, write };

const NAMES: TensorNames = TensorNames { router: "mlp.router", stacked_experts: true, ..TensorNames::HUGGING_FACE };

/// Numbers of the activation, which have no other value in any model.
const CLAMP: [(&str, f64); 2] = [("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)];

/// Whether `quantization_config` says that experts are in MXFP4, which the files say themselves.
pub(super) fn is_mxfp4(family: &Family, value: &Value) -> bool {
    family.model_type == FAMILY.model_type && value.get("quant_method").and_then(Value::as_str) == Some("mxfp4")
}

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let rope = RopeFamily { theta: Some(150_000.0), ..RopeFamily::default() };
    let absent = Absent {
        heads: Some(64),
        kv_heads: Some(8),
        head_dim: Some(64),
        vocab: Some(201_088),
        max_positions: 131_072,
        norm_eps: 1e-5,
        rope,
        bos: None,
        eos: None,
        ..Absent::LLAMA
    };
    let config = common(fields, absent)?;
    let activation = fields.text("hidden_act", Some("silu"))?;
    if config.activation != Activation::Silu {
        return Err(fields.unsupported("hidden_act", format!("{activation:?}"), "silu"));
    }
    for (key, value) in CLAMP {
        if let Some(other) = fields.optional_number(key)?.filter(|other| *other != value) {
            return Err(fields.unsupported(key, other, value));
        }
    }
    let scaled = fields.object("rope_scaling")?.or(fields.object("rope_parameters")?).is_some();
    let rope =
        if scaled { config.rope.clone() } else { RopeConfig { scaling: usual_scaling(), ..config.rope.clone() } };
    let window = fields.optional_size("sliding_window", Some(128), MAX_POSITIONS)?;
    let windows = match layer_types(fields, window)? {
        Some(windows) => windows,
        None => (0..config.layers).map(|block| window.filter(|_| block.is_multiple_of(2))).collect(),
    };
    let bias = fields.flag("attention_bias", true)?;
    let experts = ExpertConfig {
        count: expert_count(fields, ["num_local_experts", "num_experts"], 1)?,
        per_token: fields.size("num_experts_per_tok", Some(4), MAX_EXPERTS)?,
        d_ff: config.d_ff,
        // A softmax of the chosen logits only.
        normalised: true,
        dense_blocks: Vec::new(),
    };
    Ok(DecoderConfig {
        experts: Some(experts),
        activation: Activation::ClampedSwiGlu,
        rope,
        windows,
        attention_bias: if bias { AttentionBias::QkvAndOutput } else { AttentionBias::None },
        attention_sinks: true,
        mlp_bias: MlpBias::All,
        names: NAMES,
        ..config
    })
}

/// The scaling where a file has none.
fn usual_scaling() -> RopeScaling {
    RopeScaling::Yarn {
        factor: 32.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_max_positions: 4096,
        attention_factor: None,
        mscale: None,
        mscale_all_dim: None,
        truncate: false,
    }
}

fn write(config: &DecoderConfig, map: &mut Map<String, Value>) {
    let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
    set("sliding_window", json!(config.windows.iter().flatten().next()));
    set("layer_types", written_layer_types(config));
    set("attention_bias", json!(config.attention_bias == AttentionBias::QkvAndOutput));
    CLAMP.into_iter().for_each(|(key, value)| {
        set(key, json!(value));
    });
    if let Some(experts) = &config.experts {
        set("num_local_experts", json!(experts.count));
        set("num_experts_per_tok", json!(experts.per_token));
    }
}
