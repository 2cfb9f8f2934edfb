//! `adapter_config.json`: what is read, what is written, and what is refused.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{LoraConfig, LoraTarget};
use crate::{Error, Result};

/// What an `adapter_config.json` says that matters here. The projections and blocks are those of the file's tensors.
pub(super) struct Settings {
    pub(super) rank: usize,
    pub(super) alpha: f64,
    pub(super) rslora: bool,
    pub(super) dropout: f64,
    pub(super) base: Option<String>,
}

/// Keys that change the arithmetic when they are set: an adapter with one of them is refused rather than run wrongly.
const UNSUPPORTED: [&str; 21] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "target_parameters",
    "megatron_config",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "lora_ga_config",
    "corda_config",
    "eva_config",
    "loftq_config",
];

/// Initialisations after which the base's weights are as they were; others (PiSSA, OLoRA, LoftQ, CorDA) change them.
const INITIALISATIONS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

impl Settings {
    pub(super) fn parse(path: &Path, json: &Map<String, Value>) -> Result<Self> {
        let unsupported = |key: &str, value: &Value, supported: &str| Error::ConfigUnsupported {
            path: path.to_owned(),
            key: key.to_owned(),
            value: value.to_string(),
            supported: supported.to_owned(),
        };
        let wrong = |key: &str, value: &Value, expected: &str| Error::ConfigValue {
            path: path.to_owned(),
            key: key.to_owned(),
            value: value.to_string(),
            expected: expected.to_owned(),
        };
        let get = |key: &str| json.get(key).unwrap_or(&Value::Null);
        let missing = |key: &str| Error::ConfigMissing { path: path.to_owned(), key: key.to_owned() };
        match get("peft_type") {
            Value::Null => return Err(missing("peft_type")),
            Value::String(kind) if kind == "LORA" => {}
            other => return Err(unsupported("peft_type", other, "LORA")),
        }
        for key in UNSUPPORTED {
            let value = get(key);
            let unset = match value {
                Value::Null | Value::Bool(false) => true,
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
                return Err(unsupported("init_lora_weights", other, "those that leave the base's weights as they are"));
            }
        }
        let rank = match get("r") {
            Value::Null => return Err(missing("r")),
            value => {
                value.as_u64().filter(|rank| *rank > 0).ok_or_else(|| wrong("r", value, "a whole number from 1"))?
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

/// What is written: PEFT fills in the rest.
pub(super) fn to_json(config: &LoraConfig, base: Option<&str>) -> Value {
    let targets: Vec<&str> = config.targets.iter().copied().map(LoraTarget::name).collect();
    // PEFT writes whole numbers as integers.
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
        "layers_to_transform": config.blocks.as_ref().map(|blocks: &BTreeSet<usize>| blocks.iter().collect::<Vec<_>>()),
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
