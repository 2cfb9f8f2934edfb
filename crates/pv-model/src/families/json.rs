//! Writes a configuration as the `config.json` of its family.

use serde_json::{Map, Value, json};

use super::{FAMILIES, Family};
use crate::config::{
    Activation, ConfigError, DecoderConfig, OutputHead, RopeConfig, RopeScaling, RotaryPairs, StoredDtype,
};

impl DecoderConfig {
    /// The content of the `config.json` for this configuration, which [`DecoderConfig::from_json`] and `transformers`
    /// can read.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] if the family's `config.json` cannot express the configuration.
    pub fn to_json(&self) -> Result<Value, ConfigError> {
        self.validate()?;
        let value = Value::Object(self.written());
        let read = Self::from_json(&value)?;
        match self.first_difference(&read, true) {
            None => Ok(value),
            Some((key, value, read)) => Err(ConfigError::Unsupported {
                path: "config.json".into(),
                key,
                value,
                supported: format!("values of a {} model: {read}", self.model_type),
            }),
        }
    }

    fn written(&self) -> Map<String, Value> {
        // Reading it back reports unknown families.
        let family = FAMILIES.iter().find(|family| family.model_type == self.model_type);
        let architecture = family.map_or(self.model_type.as_str(), |family| family.architecture);
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
        let activation = match self.activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
            // The name is that of gpt-oss, which does not follow it.
            Activation::ClampedSwiGlu => "silu",
        };
        set("hidden_act", json!(activation));
        set("initializer_range", json!(0.02));
        set("attention_dropout", json!(0.0));
        set("tie_word_embeddings", json!(self.output_head == OutputHead::Tied));
        set("use_cache", json!(true));
        set("rope_theta", json!(self.rope.theta));
        let mut rope = rope_parameters(&self.rope);
        if self.rotary_dim.is_some() || self.rotary_pairs != RotaryPairs::Halves {
            let part = self.rotated_part();
            set("partial_rotary_factor", json!(part));
            rope.insert("partial_rotary_factor".to_owned(), json!(part));
        }
        // Versions of transformers before 5 read the old key only.
        if self.rope.scaling != RopeScaling::Default {
            let old = rope.iter().filter(|(key, _)| *key != "rope_theta" && *key != "partial_rotary_factor");
            set("rope_scaling", Value::Object(old.map(|(key, value)| (key.clone(), value.clone())).collect()));
        }
        set("rope_parameters", Value::Object(rope));
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
        if let Some(Family { write, .. }) = family {
            write(self, &mut map);
        }
        map
    }

    /// The smallest part of a head that is read as the number of rotated dimensions.
    fn rotated_part(&self) -> f64 {
        let (rotated, head_dim) = (self.rotated(), self.head_dim as f64);
        let part = rotated as f64 / head_dim;
        if (head_dim * part) as usize == rotated { part } else { part.next_up() }
    }
}

/// The rotary settings.
pub(super) fn rope_parameters(rope: &RopeConfig) -> Map<String, Value> {
    let settings = match &rope.scaling {
        RopeScaling::Default => json!({"rope_type": "default"}),
        RopeScaling::LongRope { short, long, original_max_positions, factor, attention_factor } => json!({
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": long,
            "original_max_position_embeddings": original_max_positions,
            "factor": factor,
            "attention_factor": attention_factor,
        }),
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
    settings.insert("rope_theta".to_owned(), json!(rope.theta));
    settings.retain(|_, value| !value.is_null());
    settings
}
