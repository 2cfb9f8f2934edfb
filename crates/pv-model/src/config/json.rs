//! A configuration as the `config.json` of its family.

use serde_json::{Map, Value, json};

use super::{AttentionBias, DecoderConfig, MlpBias, OutputHead, RopeScaling};
use crate::error::{Error, Result};
use crate::weights::StoredDtype;

impl DecoderConfig {
    /// SHA-256 of the architecture, in hex: equal for every spelling of the same configuration.
    pub fn hash(&self) -> String {
        // Serialising plain numbers and strings cannot fail; an empty hash would still never equal another model's.
        pv_data::sha256(serde_json::to_vec(self).unwrap_or_default())
    }

    /// The content of the `config.json` that says this, for [`DecoderConfig::from_json`] and for `transformers`.
    ///
    /// # Errors
    /// [`Error::ConfigUnsupported`] when the family's `config.json` cannot say it: read back, it would differ.
    pub fn to_json(&self) -> Result<Value> {
        self.validate()?;
        let value = Value::Object(self.written());
        let read = Self::from_json(&value)?;
        match self.first_difference(&read, true) {
            None => Ok(value),
            Some((key, value, read)) => Err(Error::ConfigUnsupported {
                path: "config.json".into(),
                key,
                value,
                supported: format!("what a {} model has: {read}", self.model_type),
            }),
        }
    }

    /// The first key in which two architectures differ, with this one's and the other's value; `None` where they are the
    /// same. The type in which weights are stored is no part of the architecture.
    pub fn difference(&self, other: &Self) -> Option<(String, String, String)> {
        self.first_difference(other, false)
    }

    fn first_difference(&self, other: &Self, stored: bool) -> Option<(String, String, String)> {
        let entries = |config: &Self| match serde_json::to_value(config) {
            Ok(Value::Object(map)) => map,
            // A configuration is a struct of plain values, which always is an object.
            _ => Map::new(),
        };
        let (ours, theirs) = (entries(self), entries(other));
        let differs = |key: &String| (stored || key != "stored_dtype") && ours.get(key) != theirs.get(key);
        let key = ours.keys().find(|key| differs(key))?;
        let shown = |map: &Map<String, Value>| map.get(key).map(Value::to_string).unwrap_or_default();
        Some((key.clone(), shown(&ours), shown(&theirs)))
    }

    fn written(&self) -> Map<String, Value> {
        let architecture = match self.model_type.as_str() {
            "llama" => "LlamaForCausalLM",
            "mistral" => "MistralForCausalLM",
            "qwen2" => "Qwen2ForCausalLM",
            "qwen3" => "Qwen3ForCausalLM",
            // Reading it back names the families that there are.
            other => other,
        };
        let mut map = Map::new();
        let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
        set("architectures", json!([architecture]));
        set("model_type", json!(self.model_type));
        set("hidden_size", json!(self.d_model));
        set("intermediate_size", json!(self.d_ff));
        set("num_hidden_layers", json!(self.layers));
        set("num_attention_heads", json!(self.heads));
        set("num_key_value_heads", json!(self.kv_heads));
        set("head_dim", json!(self.head_dim));
        set("vocab_size", json!(self.vocab));
        set("max_position_embeddings", json!(self.max_positions));
        set("rms_norm_eps", json!(self.norm_eps));
        set("hidden_act", json!("silu"));
        set("initializer_range", json!(0.02));
        set("attention_dropout", json!(0.0));
        set("tie_word_embeddings", json!(self.output_head == OutputHead::Tied));
        set("use_cache", json!(true));
        set("rope_theta", json!(self.rope.theta));
        let mut rope = self.rope_parameters();
        // Versions of transformers before 5 know the old key alone.
        if self.rope.scaling != RopeScaling::Default {
            set("rope_scaling", Value::Object(rope.clone()));
        }
        rope.insert("rope_theta".to_owned(), json!(self.rope.theta));
        set("rope_parameters", Value::Object(rope));
        if ["llama", "qwen3"].contains(&self.model_type.as_str()) {
            set("attention_bias", json!(self.attention_bias == AttentionBias::QkvAndOutput));
        }
        if self.model_type == "llama" {
            set("mlp_bias", json!(self.mlp_bias == MlpBias::All));
        }
        let window = self.windows.iter().flatten().next();
        if self.model_type == "mistral" {
            set("sliding_window", json!(window));
        } else if self.model_type.starts_with("qwen") {
            let kind = |window: &Option<usize>| if window.is_some() { "sliding_attention" } else { "full_attention" };
            set("use_sliding_window", json!(window.is_some()));
            set("sliding_window", json!(window));
            set("max_window_layers", json!(self.windows.iter().take_while(|window| window.is_none()).count()));
            set("layer_types", json!(self.windows.iter().map(kind).collect::<Vec<_>>()));
        }
        set("bos_token_id", json!(self.tokens.bos));
        set(
            "eos_token_id",
            match self.tokens.eos.as_slice() {
                [] => Value::Null,
                [one] => json!(one),
                several => json!(several),
            },
        );
        set("pad_token_id", json!(self.tokens.pad));
        let dtype = self.stored_dtype.map(|dtype| match dtype {
            StoredDtype::F32 => "float32",
            StoredDtype::F16 => "float16",
            StoredDtype::BF16 => "bfloat16",
        });
        if let Some(dtype) = dtype {
            set("dtype", json!(dtype));
            set("torch_dtype", json!(dtype));
        }
        map
    }

    /// The rotary settings without the base.
    fn rope_parameters(&self) -> Map<String, Value> {
        let settings = match &self.rope.scaling {
            RopeScaling::Default => json!({"rope_type": "default"}),
            RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_positions,
            }),
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_positions,
                attention_factor,
                mscale,
                mscale_all_dim,
                truncate,
            } => json!({
                "rope_type": "yarn",
                "factor": factor,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "original_max_position_embeddings": original_max_positions,
                "attention_factor": attention_factor,
                "mscale": mscale,
                "mscale_all_dim": mscale_all_dim,
                "truncate": truncate,
            }),
        };
        let Value::Object(mut settings) = settings else { return Map::new() };
        settings.retain(|_, value| !value.is_null());
        settings
    }
}
