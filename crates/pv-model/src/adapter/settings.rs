//! Reads, checks and writes `adapter_config.json`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::modules::Fused;
use super::{LoraConfig, LoraTarget};
use crate::config::ConfigError;

/// The relevant content of an `adapter_config.json`. The projections and blocks are those of the file's tensors.
pub(super) struct Settings {
    pub(super) rank: usize,
    pub(super) alpha: f64,
    pub(super) rslora: bool,
    pub(super) dropout: f64,
    pub(super) base: Option<String>,
}

/// Keys that are read, or that do not change what a trained adapter computes. An adapter with any other key set is
/// rejected, since it may need other arithmetic (DoRA, rank patterns, trained biases, …).
const KNOWN: [&str; 24] = [
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "merge_weights",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
    "transformers_version",
    "unsloth_fixed",
];

/// Initialisations that leave the base model's weights unchanged; others (PiSSA, OLoRA, LoftQ, CorDA) change them.
const INITIALISATIONS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

impl Settings {
    pub(super) fn parse(path: &Path, json: &Map<String, Value>) -> Result<Self, ConfigError> {
        let unsupported = |key: &str, value: &Value, supported: &str| ConfigError::Unsupported {
            path: path.to_owned(),
            key: key.to_owned(),
            value: value.to_string(),
            supported: supported.to_owned(),
        };
        let wrong = |key: &str, value: &Value, expected: &str| ConfigError::Value {
            path: path.to_owned(),
            key: key.to_owned(),
            value: value.to_string(),
            expected: expected.to_owned(),
        };
        let get = |key: &str| json.get(key).unwrap_or(&Value::Null);
        let missing = |key: &str| ConfigError::Missing { path: path.to_owned(), key: key.to_owned() };
        match get("peft_type") {
            Value::Null => return Err(missing("peft_type")),
            Value::String(kind) if kind == "LORA" => {}
            other => return Err(unsupported("peft_type", other, "LORA")),
        }
        for (key, value) in json.iter().filter(|(key, _)| !KNOWN.contains(&key.as_str())) {
            let unset = match value {
                Value::Null | Value::Bool(false) => true,
                // Numbers alone enable nothing in PEFT.
                Value::Number(_) => {
                    tracing::warn!(path = %path.display(), key, "an unknown setting of an adapter is ignored");
                    true
                }
                Value::Array(values) => values.is_empty(),
                Value::Object(values) => values.is_empty(),
                _ => false,
            };
            if !unset {
                return Err(unsupported(key, value, "absent or empty"));
            }
        }
        match get("bias") {
            Value::Null => {}
            Value::String(kind) if kind == "none" => {}
            other => return Err(unsupported("bias", other, "\"none\"")),
        }
        match get("init_lora_weights") {
            Value::Null | Value::Bool(_) => {}
            Value::String(kind) if INITIALISATIONS.contains(&kind.as_str()) => {}
            other => {
                return Err(unsupported(
                    "init_lora_weights",
                    other,
                    "initialisations that leave the base model's weights unchanged",
                ));
            }
        }
        let rank = match get("r") {
            Value::Null => return Err(missing("r")),
            value => {
                value.as_u64().filter(|rank| *rank > 0).ok_or_else(|| wrong("r", value, "an integer of at least 1"))?
            }
        };
        let alpha = match get("lora_alpha") {
            Value::Null => return Err(missing("lora_alpha")),
            value => value
                .as_f64()
                .filter(|alpha| alpha.is_finite() && *alpha > 0.0)
                .ok_or_else(|| wrong("lora_alpha", value, "a number above 0"))?,
        };
        let dropout = match get("lora_dropout") {
            Value::Null => 0.0,
            value => value
                .as_f64()
                .filter(|dropout| (0.0..1.0).contains(dropout))
                .ok_or_else(|| wrong("lora_dropout", value, "at least 0 and below 1"))?,
        };
        let rslora = match get("use_rslora") {
            Value::Null => false,
            Value::Bool(rslora) => *rslora,
            other => return Err(wrong("use_rslora", other, "true or false")),
        };
        let base = get("base_model_name_or_path").as_str().map(str::to_owned);
        Ok(Self { rank: rank as usize, alpha, rslora, dropout, base })
    }
}

/// The settings to write: PEFT adds defaults for the others.
pub(super) fn to_json(
    config: &LoraConfig,
    base: Option<&str>,
    fused: Fused,
    updates: impl Iterator<Item = (usize, LoraTarget)>,
) -> Value {
    let last = |path: &'static str| path.rsplit('.').next().unwrap_or(path);
    let updates: BTreeSet<(usize, LoraTarget)> = updates.collect();
    let blocks: BTreeSet<usize> = updates.iter().map(|(block, _)| *block).collect();
    let kinds: BTreeSet<LoraTarget> = updates.iter().map(|(_, target)| *target).collect();
    // If blocks differ in their projections, each projection is listed.
    let (targets, blocks): (Vec<String>, _) = match updates.len() == blocks.len() * kinds.len() {
        true => {
            (kinds.into_iter().map(|target| last(fused.in_block(target)).to_owned()).collect(), config.blocks.as_ref())
        }
        false => (updates.into_iter().map(|(block, target)| fused.module(block, target)).collect(), None),
    };
    // PEFT writes integral numbers as integers.
    let alpha = match config.alpha {
        alpha if alpha.fract() == 0.0 && alpha < 1e15 => json!(alpha as u64),
        alpha => json!(alpha),
    };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": alpha,
        "use_rslora": config.rslora,
        "lora_dropout": config.dropout,
        "target_modules": targets,
        "layers_to_transform": blocks.map(|blocks: &BTreeSet<usize>| blocks.iter().collect::<Vec<_>>()),
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
        "modules_to_save": null,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": false,
        "revision": null,
    })
}
