//! Granite 3: Llama with constant factors of the embeddings, the scores, the residual and the logits.

use serde_json::{Map, Value, json};

use super::{Absent, Family, attention_bias, common, llama};
use crate::config::{ConfigError, DecoderConfig, Fields, Scales};

pub(super) const FAMILY: Family = Family { model_type: "granite", architecture: "GraniteForCausalLM", read, write };

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let scale = |key: &str| fields.number(key, Some(1.0));
    Ok(DecoderConfig {
        attention_bias: attention_bias(fields)?,
        mlp_bias: llama::mlp_bias(fields)?,
        scales: Scales {
            embedding: scale("embedding_multiplier")?,
            attention: Some(scale("attention_multiplier")?),
            residual: scale("residual_multiplier")?,
            logits: scale("logits_scaling")?,
        },
        ..common(fields, Absent::LLAMA)?
    })
}

fn write(config: &DecoderConfig, map: &mut Map<String, Value>) {
    llama::write_biases(config, map);
    let Scales { embedding, attention, residual, logits } = config.scales;
    map.insert("embedding_multiplier".into(), json!(embedding));
    map.insert("attention_multiplier".into(), json!(attention.unwrap_or(1.0)));
    map.insert("residual_multiplier".into(), json!(residual));
    map.insert("logits_scaling".into(), json!(logits));
}
