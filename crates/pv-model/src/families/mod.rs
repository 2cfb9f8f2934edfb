//! The supported families: how each one's configuration maps to a [`DecoderConfig`], and its tensors' names.

mod llama;
mod mistral;
mod names;
mod qwen2;
mod qwen3;

use serde_json::Value;

use crate::config::{
    Activation, AttentionBias, DecoderConfig, Fields, MAX_BLOCKS, MAX_HEAD_DIM, MAX_HEADS, MAX_POSITIONS, MAX_VOCAB,
    MAX_WIDTH, MlpBias, OutputHead, QkNorm, RopeConfig, SpecialTokens, shortened,
};
use crate::error::Result;
use crate::weights::StoredDtype;

pub(crate) use names::expected_tensors;
pub use names::{ExpectedTensor, TensorNames};

/// One family of decoders.
struct Family {
    model_type: &'static str,
    read: fn(&Fields<'_>) -> Result<DecoderConfig>,
}

const FAMILIES: [Family; 4] = [llama::FAMILY, mistral::FAMILY, qwen2::FAMILY, qwen3::FAMILY];

/// Reads the configuration with the family that its `model_type` names, and checks it.
pub(crate) fn decoder_config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let model_type = fields.text("model_type", None)?;
    let Some(family) = FAMILIES.iter().find(|family| family.model_type == model_type) else {
        let supported = FAMILIES.map(|family| family.model_type).join(", ");
        return Err(fields.unsupported("model_type", format!("{model_type:?}"), supported));
    };
    for (key, supported) in
        [("quantization_config", "unquantized weights (null)"), ("per_layer_config", "equal blocks (null)")]
    {
        if let Some(value) = fields.get(key).filter(|value| !value.is_null()) {
            return Err(fields.unsupported(key, shortened(value), supported));
        }
    }
    let config = (family.read)(fields)?;
    config.check(fields.path())?;
    Ok(config)
}

/// What Hugging Face's configuration classes assume of an absent key, where families differ.
struct Absent {
    /// `None`: as many as query heads.
    kv_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    head_dim: Option<usize>,
    max_positions: usize,
    bos: Option<u32>,
    eos: Option<u32>,
}

/// What all families read alike: full attention in every block, no bias, no norm of queries and keys.
///
/// The sizes that every saved configuration states have no default here, unlike in Hugging Face's classes: a file
/// without them is broken, and its weights would not fit a default.
fn common(fields: &Fields<'_>, absent: Absent) -> Result<DecoderConfig> {
    let d_model = fields.size("hidden_size", None, MAX_WIDTH)?;
    let layers = fields.size("num_hidden_layers", None, MAX_BLOCKS)?;
    let heads = fields.size("num_attention_heads", None, MAX_HEADS)?;
    let head_dim = match fields.optional_size("head_dim", absent.head_dim, MAX_HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None if d_model.is_multiple_of(heads) => d_model / heads,
        None => {
            let expected = format!("a multiple of num_attention_heads, which is {heads}, where head_dim is absent");
            return Err(fields.wrong("hidden_size", d_model, expected));
        }
    };
    let max_positions = fields.size("max_position_embeddings", Some(absent.max_positions), MAX_POSITIONS)?;
    let tied = fields.flag("tie_word_embeddings", false)?;
    Ok(DecoderConfig {
        model_type: fields.text("model_type", None)?.into(),
        d_model,
        layers,
        heads,
        kv_heads: fields.optional_size("num_key_value_heads", absent.kv_heads, MAX_HEADS)?.unwrap_or(heads),
        head_dim,
        d_ff: fields.size("intermediate_size", None, MAX_WIDTH)?,
        vocab: fields.size("vocab_size", None, MAX_VOCAB)?,
        max_positions,
        norm_eps: fields.number("rms_norm_eps", Some(1e-6))?,
        activation: match fields.text("hidden_act", Some("silu"))? {
            "silu" | "swish" => Activation::Silu,
            other => return Err(fields.unsupported("hidden_act", format!("{other:?}"), "silu")),
        },
        rope: RopeConfig::read(fields, max_positions)?,
        attention_bias: AttentionBias::None,
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

fn stored_dtype(fields: &Fields<'_>) -> Result<Option<StoredDtype>> {
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

/// `attention_bias` where it stands for all four projections.
fn attention_bias(fields: &Fields<'_>) -> Result<AttentionBias> {
    let all = fields.flag("attention_bias", false)?;
    Ok(if all { AttentionBias::QkvAndOutput } else { AttentionBias::None })
}

/// One entry per block from `layer_types`; `None` where the key is absent or `null`.
fn layer_types(fields: &Fields<'_>, window: Option<usize>) -> Result<Option<Vec<Option<usize>>>> {
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
    types.iter().map(entry).collect::<Result<_>>().map(Some)
}

/// The windows of Qwen2 and Qwen3: off unless asked for, and then only in the upper blocks.
fn qwen_windows(fields: &Fields<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
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

/// Refuses `layer_types` that contradict the family's windows, which the family's decoder would not heed.
fn refuse_other_layer_types(fields: &Fields<'_>, config: &DecoderConfig) -> Result<()> {
    let window = config.windows.first().copied().flatten();
    if layer_types(fields, window)?.is_none_or(|windows| windows == config.windows) {
        return Ok(());
    }
    let value = fields.get("layer_types").map(shortened).unwrap_or_default();
    Err(fields.unsupported("layer_types", value, "the same attention in every block of this model_type"))
}
