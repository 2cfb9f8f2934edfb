//! The supported families: how the configuration of each, in `config.json`, maps to a [`DecoderConfig`].

mod gemma2;
mod gemma3;
mod glm4;
mod gpt_oss;
mod granite;
mod json;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::{
    Activation, AttentionBias, ConfigError, DecoderConfig, Fields, MAX_BLOCKS, MAX_EXPERTS, MAX_HEAD_DIM, MAX_HEADS,
    MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, MlpBias, NormPlacement, NormWeights, OutputHead, QkNorm, RopeConfig,
    RopeFamily, RotaryPairs, Scales, Softcaps, SpecialTokens, StoredDtype, TensorNames, shortened,
};
use crate::folder::{self, Files, FolderError, with_files};

/// The limit on the length of a configuration file.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// One family of decoders.
struct Family {
    model_type: &'static str,
    /// The class in transformers.
    architecture: &'static str,
    read: fn(&Fields<'_>) -> Result<DecoderConfig, ConfigError>,
    /// Adds the keys that not all families have to those that all have.
    write: fn(&DecoderConfig, &mut Map<String, Value>),
}

const FAMILIES: [Family; 14] = [
    gemma2::FAMILY,
    gemma3::WITH_IMAGES,
    gemma3::FAMILY,
    glm4::FAMILY,
    gpt_oss::FAMILY,
    granite::FAMILY,
    llama::FAMILY,
    mistral::FAMILY,
    mixtral::FAMILY,
    olmo2::FAMILY,
    phi3::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    qwen3_moe::FAMILY,
];

impl DecoderConfig {
    /// Reads `config.json` in a model folder.
    ///
    /// # Errors
    /// [`FolderError::NotAModel`]; those of reading the file and of
    /// [`from_json`](Self::from_json).
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self, ConfigError> {
        with_files(folder.as_ref(), Self::from_files)
    }

    /// Like [`from_folder`](Self::from_folder), for files that are open.
    pub(crate) fn from_files(files: &Files<'_>) -> Result<Self, ConfigError> {
        let name = "config.json";
        if !files.has(name) {
            let found = folder::content(files.path())?;
            return Err(FolderError::NotAModel { path: files.path().into(), wanted: name, found }.into());
        }
        let (bytes, path) = (files.read(name, MAX_CONFIG_BYTES)?, files.path().join(name));
        let value =
            serde_json::from_slice(&bytes).map_err(|source| FolderError::Json { path: path.clone(), source })?;
        decoder_config(&Fields::root(&path, &value)?)
    }

    /// Parses the content of a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError::Missing`], [`ConfigError::Value`] and [`ConfigError::Unsupported`], with the key.
    pub fn from_json(value: &Value) -> Result<Self, ConfigError> {
        decoder_config(&Fields::root(Path::new("config.json"), value)?)
    }
}

/// Reads the configuration with the family of its `model_type`, and checks it.
pub(crate) fn decoder_config(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let model_type = fields.text("model_type", None)?;
    let Some(family) = FAMILIES.iter().find(|family| family.model_type == model_type) else {
        let supported = FAMILIES.map(|family| family.model_type).join(", ");
        return Err(fields.unsupported("model_type", format!("{model_type:?}"), supported));
    };
    read_with(family, fields)
}

/// Reads the configuration of a family.
fn read_with(family: &Family, fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    for (key, supported) in
        [("quantization_config", "unquantized weights (null)"), ("per_layer_config", "equal blocks (null)")]
    {
        let allowed = |value: &Value| key == "quantization_config" && gpt_oss::is_mxfp4(family, value);
        if let Some(value) = fields.get(key).filter(|value| !value.is_null() && !allowed(value)) {
            return Err(fields.unsupported(key, shortened(value), supported));
        }
    }
    let config = (family.read)(fields)?;
    config.check(fields.path())?;
    Ok(config)
}

/// Defaults of Hugging Face's configuration classes for missing keys, where families differ, and the keys themselves.
#[derive(Clone, Copy)]
struct Absent {
    /// `None`: the key is required.
    heads: Option<usize>,
    /// `None`: as many as query heads.
    kv_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    head_dim: Option<usize>,
    /// `None`: the key is required.
    vocab: Option<usize>,
    max_positions: usize,
    norm_eps: f64,
    /// The key and the name.
    activation: (&'static str, &'static str),
    tied: bool,
    rope: RopeFamily,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Absent {
    /// Llama's.
    const LLAMA: Self = Self {
        heads: None,
        kv_heads: None,
        head_dim: None,
        vocab: None,
        max_positions: 2048,
        norm_eps: 1e-6,
        activation: ("hidden_act", "silu"),
        tied: false,
        rope: RopeFamily { theta: None, rotated: None, longrope: false },
        bos: Some(1),
        eos: Some(2),
    };
}

/// The settings that all families share: full attention in every block, no bias, no norm of queries and keys.
///
/// Unlike in Hugging Face's classes, the sizes that every saved configuration contains have no default: a file without
/// them is broken, and its weights would not match a default.
fn common(fields: &Fields<'_>, absent: Absent) -> Result<DecoderConfig, ConfigError> {
    let d_model = fields.size("hidden_size", None, MAX_WIDTH)?;
    let layers = fields.size("num_hidden_layers", None, MAX_BLOCKS)?;
    let heads = fields.size("num_attention_heads", absent.heads, MAX_HEADS)?;
    let head_dim = match fields.optional_size("head_dim", absent.head_dim, MAX_HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None if d_model.is_multiple_of(heads) => d_model / heads,
        None => {
            let expected = format!("a multiple of num_attention_heads, which is {heads}, where head_dim is absent");
            return Err(fields.wrong("hidden_size", d_model, expected));
        }
    };
    let max_positions = fields.size("max_position_embeddings", Some(absent.max_positions), MAX_POSITIONS)?;
    let tied = fields.flag("tie_word_embeddings", absent.tied)?;
    let (activation, default) = absent.activation;
    let (rope, rotated) = RopeConfig::read(fields, max_positions, absent.rope)?;
    Ok(DecoderConfig {
        model_type: fields.text("model_type", None)?.into(),
        d_model,
        layers,
        heads,
        kv_heads: fields.optional_size("num_key_value_heads", absent.kv_heads, MAX_HEADS)?.unwrap_or(heads),
        head_dim,
        d_ff: fields.size("intermediate_size", None, MAX_WIDTH)?,
        experts: None,
        vocab: fields.size("vocab_size", absent.vocab, MAX_VOCAB)?,
        max_positions,
        norm_eps: fields.number("rms_norm_eps", Some(absent.norm_eps))?,
        activation: match fields.text(activation, Some(default))? {
            "silu" | "swish" => Activation::Silu,
            "gelu_pytorch_tanh" => Activation::GeluTanh,
            other => return Err(fields.unsupported(activation, format!("{other:?}"), "silu, gelu_pytorch_tanh")),
        },
        rope,
        local_rope: None,
        rotary_dim: (rotated != 1.0).then_some((head_dim as f64 * rotated) as usize),
        rotary_pairs: RotaryPairs::default(),
        norms: NormPlacement::default(),
        norm_weights: NormWeights::default(),
        scales: Scales::default(),
        softcaps: Softcaps::default(),
        attention_bias: AttentionBias::None,
        attention_sinks: false,
        mlp_bias: MlpBias::None,
        qk_norm: QkNorm::None,
        windows: vec![None; layers],
        output_head: if tied { OutputHead::Tied } else { OutputHead::Untied },
        tokens: SpecialTokens {
            bos: fields.token_id("bos_token_id", absent.bos)?,
            eos: fields.token_ids("eos_token_id", absent.eos)?,
            pad: fields.token_id("pad_token_id", None)?,
        },
        stored_dtype: stored_dtype(fields)?,
        names: TensorNames::HUGGING_FACE,
    })
}

/// The number of experts of a block, at least `least`. It has two names in transformers: in the published files the first,
/// in files that version 5 saved always `num_local_experts`.
fn expert_count(fields: &Fields<'_>, [key, other]: [&str; 2], least: usize) -> Result<usize, ConfigError> {
    let key = if fields.get(key).is_none() && fields.get(other).is_some() { other } else { key };
    fields.whole(key, None, least..=MAX_EXPERTS)
}

fn stored_dtype(fields: &Fields<'_>) -> Result<Option<StoredDtype>, ConfigError> {
    let key = if fields.get("dtype").is_some_and(|value| !value.is_null()) { "dtype" } else { "torch_dtype" };
    if fields.get(key).is_none_or(Value::is_null) {
        return Ok(None);
    }
    match fields.text(key, None)? {
        "float32" => Ok(Some(StoredDtype::F32)),
        "float16" => Ok(Some(StoredDtype::F16)),
        "bfloat16" => Ok(Some(StoredDtype::BF16)),
        other => Err(fields.unsupported(key, format!("{other:?}"), "float32, float16, bfloat16")),
    }
}

/// `attention_bias`, in families where it applies to all four projections.
fn attention_bias(fields: &Fields<'_>) -> Result<AttentionBias, ConfigError> {
    let all = fields.flag("attention_bias", false)?;
    Ok(if all { AttentionBias::QkvAndOutput } else { AttentionBias::None })
}

/// One entry per block from `layer_types`; `None` if the key is missing or `null`.
fn layer_types(fields: &Fields<'_>, window: Option<usize>) -> Result<Option<Vec<Option<usize>>>, ConfigError> {
    let types = match fields.get("layer_types") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(types)) if types.len() <= MAX_BLOCKS => types,
        Some(other) => return Err(fields.wrong("layer_types", shortened(other), "a list with one entry per block")),
    };
    let entry = |kind: &Value| match (kind.as_str(), window) {
        (Some("full_attention" | "attention"), _) => Ok(None),
        (Some("sliding_attention"), Some(window)) => Ok(Some(window)),
        (Some("sliding_attention"), None) => {
            Err(fields.wrong("sliding_window", "off", "a window, because layer_types has sliding_attention"))
        }
        _ => Err(fields.unsupported("layer_types", shortened(kind), "full_attention, sliding_attention")),
    };
    types.iter().map(entry).collect::<Result<_, ConfigError>>().map(Some)
}

/// The windows of Qwen2 and Qwen3: off by default, and otherwise only in the upper blocks.
fn qwen_windows(fields: &Fields<'_>, layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
    let window = match fields.flag("use_sliding_window", false)? {
        true => fields.optional_size("sliding_window", Some(4096), MAX_POSITIONS)?,
        false => None,
    };
    if let Some(windows) = layer_types(fields, window)? {
        return Ok(windows);
    }
    let full = fields.whole("max_window_layers", Some(28), 0..=MAX_BLOCKS)?;
    Ok((0..layers).map(|block| window.filter(|_| block >= full)).collect())
}

/// Rejects `layer_types` that contradict the family's windows, which the family's decoder would ignore.
fn refuse_other_layer_types(fields: &Fields<'_>, config: &DecoderConfig) -> Result<(), ConfigError> {
    let window = config.windows.first().copied().flatten();
    if layer_types(fields, window)?.is_none_or(|windows| windows == config.windows) {
        return Ok(());
    }
    let value = fields.get("layer_types").map(shortened).unwrap_or_default();
    Err(fields.unsupported("layer_types", value, "the same attention in every block of this model_type"))
}

/// The types of blocks with and without a window, for `layer_types`.
fn written_layer_types(config: &DecoderConfig) -> Value {
    let kind = |window: &Option<usize>| if window.is_some() { "sliding_attention" } else { "full_attention" };
    config.windows.iter().map(kind).collect::<Vec<_>>().into()
}
