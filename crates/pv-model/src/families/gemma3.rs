//! Gemma 3: Gemma 2 without bounded scores, with normalised queries and keys, and with another base of the rotary
//! embedding in blocks with a window. Of models with images, the decoder is read.

use serde_json::{Map, Value, json};

use super::{Absent, Family, common, gemma2};
use crate::config::{
    ConfigError, DecoderConfig, Fields, MAX_BLOCKS, QkNorm, RopeConfig, RopeFamily, Softcaps, TensorNames, shortened,
};

pub(super) const FAMILY: Family = Family { model_type: TEXT, architecture: "Gemma3ForCausalLM", read, write };
/// It is saved as a model without images.
pub(super) const WITH_IMAGES: Family =
    Family { model_type: "gemma3", architecture: "Gemma3ForCausalLM", read: read_text, write };

const TEXT: &str = "gemma3_text";
const GLOBAL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";

/// The keys of a model with images that its text part may lack.
const OUTER: [&str; 7] = [
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "torch_dtype",
    "quantization_config",
];

fn read_text(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let text = fields.object("text_config")?.ok_or_else(|| fields.missing("text_config"))?;
    let mut map: Map<String, Value> = text.entries().map(|(key, value)| (key.clone(), value.clone())).collect();
    for key in OUTER {
        if let (None | Some(Value::Null), Some(value)) = (map.get(key), fields.get(key)) {
            map.insert(key.into(), value.clone());
        }
    }
    map.insert("model_type".into(), TEXT.into());
    super::read_with(&FAMILY, &Fields::under(fields.path(), "text_config", &map))
}

fn read(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let absent = Absent {
        heads: Some(8),
        vocab: Some(262_208),
        max_positions: 131_072,
        rope: RopeFamily { theta: Some(1e6), ..RopeFamily::default() },
        ..gemma2::ABSENT
    };
    let settings = fields.object("rope_parameters")?;
    let per_type = |kind| settings.map(|settings| settings.object(kind)).transpose().map(Option::flatten);
    let (global, local) = (per_type(GLOBAL)?, per_type(LOCAL)?);
    let config = match settings.filter(|_| global.is_none() && local.is_none()) {
        // The settings of both kinds of blocks are read below.
        None => common(&fields.without("rope_parameters"), absent)?,
        Some(settings) => {
            let all = settings.entries().map(|(key, value)| (key.clone(), value.clone())).collect();
            return Err(fields.unsupported(
                "rope_parameters",
                shortened(&Value::Object(all)),
                format!("{GLOBAL}, {LOCAL}"),
            ));
        }
    };
    let rope = match global.filter(|_| fields.object("rope_scaling").is_ok_and(|old| old.is_none())) {
        Some(settings) => RopeConfig::of_blocks(&settings, config.rope.theta, config.max_positions)?,
        None => config.rope.clone(),
    };
    let theta = fields.number("rope_local_base_freq", Some(1e4))?;
    let local_rope = match local {
        Some(settings) => RopeConfig::of_blocks(&settings, theta, config.max_positions)?,
        None => RopeConfig::new(theta),
    };
    let period =
        ["sliding_window_pattern", "_sliding_window_pattern"].into_iter().find(|key| fields.get(key).is_some());
    let period = period.map_or(Ok(6), |key| fields.size(key, None, MAX_BLOCKS))?;
    let config = gemma2::gemma(fields, config, period)?;
    let logits = fields.optional_number("final_logit_softcapping")?;
    if let Some(cap) = fields.get("attn_logit_softcapping").filter(|cap| !cap.is_null()) {
        // transformers reads this key and does not use it.
        return Err(fields.unsupported("attn_logit_softcapping", shortened(cap), "null for Gemma 3"));
    }
    Ok(DecoderConfig {
        rope,
        local_rope: Some(local_rope),
        qk_norm: QkNorm::PerHead,
        softcaps: Softcaps { attention: None, logits },
        names: TensorNames {
            aliases: &[
                ("language_model.lm_head.", "lm_head."),
                ("language_model.model.", "model."),
                ("model.language_model.", "model."),
            ],
            ignored: &[
                "vision_tower.",
                "model.vision_tower.",
                "multi_modal_projector.",
                "model.multi_modal_projector.",
            ],
            ..config.names
        },
        ..config
    })
}

fn write(config: &DecoderConfig, map: &mut Map<String, Value>) {
    gemma2::write_gemma(config, map);
    let global = map.remove("rope_parameters").unwrap_or_default();
    let local = config.local_rope.as_ref().map(super::json::rope_parameters);
    // Both spellings: versions of transformers before 5 read the old one.
    map.insert("rope_local_base_freq".into(), json!(config.local_rope.as_ref().map(|rope| rope.theta)));
    map.insert("rope_parameters".into(), json!({ GLOBAL: global, LOCAL: local }));
}
