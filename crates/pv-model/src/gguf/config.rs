//! The `config.json` of a model.

use serde_json::{Map, Value as Json, json};

use super::{GgufModelError, Model, experts, number, rope, tokenizer};

/// The settings of all architectures: the key in the file, that of the `config.json`, and whether a model needs it.
const SETTINGS: [(&str, &str, bool); 8] = [
    ("embedding_length", "hidden_size", true),
    ("block_count", "num_hidden_layers", true),
    ("feed_forward_length", "intermediate_size", true),
    ("attention.head_count", "num_attention_heads", true),
    ("attention.head_count_kv", "num_key_value_heads", false),
    ("context_length", "max_position_embeddings", true),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps", true),
    ("rope.freq_base", "rope_theta", false),
];

/// Settings that are read elsewhere, or say nothing about the computation.
const OTHERS: [&str; 7] = [
    "vocab_size",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "rope.dimension_count",
    "tensor_data_layout",
    "rope.scaling.finetuned",
];

/// Settings that change the computation unless they have this value.
const NEUTRAL: [(&str, f64); 4] =
    [("expert_count", 0.0), ("expert_used_count", 0.0), ("rope.scaling.attn_factor", 1.0), ("rope.scale_linear", 1.0)];

pub(super) fn config(model: &Model<'_>) -> Result<Map<String, Json>, GgufModelError> {
    let mut config = Map::new();
    let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
    for (name, key, needed) in SETTINGS.into_iter().chain(model.architecture.settings.iter().copied()) {
        match model.setting(name)? {
            Some(value) => {
                let shown = || GgufModelError::value(model.key(name), format!("{value:?}"), "a number");
                let integer = value.integer().and_then(|number| u64::try_from(number).ok()).map(Json::from);
                set(key, integer.or_else(|| number(value).map(Json::from)).ok_or_else(shown)?);
            }
            None if needed => return Err(GgufModelError::missing(model.key(name))),
            None => {}
        }
    }
    let heads = model.size("attention.head_count")?.unwrap_or(0);
    if model.setting("attention.head_count_kv")?.is_none() {
        set("num_key_value_heads", heads.into());
    }
    // The base where a file has none; families have others.
    if model.setting("rope.freq_base")?.is_none() {
        set("rope_theta", 10_000.into());
    }
    let head_dim = head_dim(model, heads)?;
    set("head_dim", head_dim.into());
    let rotated = rotated(model, head_dim)?;
    if model.architecture.partly_rotated {
        // The family rounds the product with the width of a head down.
        let part = rotated as f64 / head_dim as f64;
        let exact = (part * head_dim as f64) as u64 == rotated;
        set("partial_rotary_factor", if exact { part } else { part.next_up() }.into());
    }
    let embedding = "token_embd.weight";
    let embedding = model.tensor(embedding).ok_or_else(|| GgufModelError::missing(embedding))?;
    set("vocab_size", embedding.shape.get(1).copied().into());
    set("tie_word_embeddings", model.tensor("output.weight").is_none().into());
    set("attention_bias", model.tensor("blk.0.attn_q.bias").is_some().into());
    set("mlp_bias", model.tensor("blk.0.ffn_gate.bias").is_some().into());
    set("model_type", model.architecture.model_type.into());
    match (model.size("attention.sliding_window")?, model.architecture.windowed) {
        (None, _) => {}
        // No window, as Phi-3's converter writes it.
        (Some(0), _) => {
            set("sliding_window", Json::Null);
        }
        (Some(window), Some(windowed)) => {
            set("model_type", windowed.into());
            set("sliding_window", window.into());
        }
        (Some(window), None) => {
            let key = model.key("attention.sliding_window");
            return Err(GgufModelError::unsupported(key, window.to_string(), "no window for this architecture"));
        }
    }
    experts::settings(model, &mut config)?;
    let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
    if let Some(scaling) = rope::scaling(model, rotated)? {
        set("rope_scaling", scaling);
    }
    for (key, name) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        set(key, json!(tokenizer::special(model, name)?));
    }
    if let Some(dtype) = stored_dtype(model) {
        set("torch_dtype", dtype.into());
    }
    if let Some(extra) = model.architecture.extra {
        extra(model, &mut config)?;
    }
    refuse_others(model)?;
    Ok(config)
}

fn head_dim(model: &Model<'_>, heads: u64) -> Result<u64, GgufModelError> {
    let width = model.size("embedding_length")?.unwrap_or(0);
    let stated = model.size("attention.key_length")?;
    let head_dim = match stated {
        Some(head_dim) => head_dim,
        None => width.checked_div(heads).filter(|head_dim| head_dim * heads == width).ok_or_else(|| {
            let expected = format!("a divisor of the width {width}");
            GgufModelError::value(model.key("attention.head_count"), heads.to_string(), expected)
        })?,
    };
    let name = "attention.value_length";
    match model.size(name)?.filter(|other| *other != head_dim) {
        Some(other) => {
            let supported = format!("the width of a head, {head_dim}");
            Err(GgufModelError::unsupported(model.key(name), other.to_string(), supported))
        }
        None => Ok(head_dim),
    }
}

/// The number of dimensions of a head that are rotated.
fn rotated(model: &Model<'_>, head_dim: u64) -> Result<u64, GgufModelError> {
    let name = "rope.dimension_count";
    let rotated = model.size(name)?.unwrap_or(head_dim);
    let part = (1..=head_dim).contains(&rotated) && model.architecture.partly_rotated;
    if rotated == head_dim || part {
        return Ok(rotated);
    }
    let most = if model.architecture.partly_rotated { "at most " } else { "" };
    Err(GgufModelError::unsupported(
        model.key(name),
        rotated.to_string(),
        format!("{most}the width of a head, {head_dim}"),
    ))
}

/// The type of all matrices, if it is one of those of a `config.json`.
fn stored_dtype(model: &Model<'_>) -> Option<&'static str> {
    let mut kinds = model.tensors().filter(|(_, tensor)| tensor.shape.len() > 1).map(|(_, tensor)| tensor.kind);
    let first = kinds.next()?;
    let known = [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16")];
    kinds.all(|kind| kind == first).then_some(())?;
    known.into_iter().find(|(name, _)| *name == first.name()).map(|(_, dtype)| dtype)
}

/// Refuses settings of the architecture that nothing reads: ignoring one would compute something else.
fn refuse_others(model: &Model<'_>) -> Result<(), GgufModelError> {
    let prefix = model.key("");
    let with_experts = experts::count(model)?.is_some();
    for (key, value) in model.metadata().metadata() {
        let Some(name) = key.strip_prefix(&prefix) else { continue };
        let known = SETTINGS.iter().any(|(known, ..)| *known == name)
            || model.architecture.settings.iter().any(|(known, ..)| *known == name)
            || model.architecture.extra_keys.contains(&name)
            || OTHERS.contains(&name)
            || rope::SETTINGS.contains(&name)
            || (with_experts && experts::SETTINGS.contains(&name));
        let neutral = NEUTRAL.iter().find(|(known, _)| *known == name);
        if known || neutral.is_some_and(|(_, neutral)| number(value) == Some(*neutral)) {
            continue;
        }
        let supported = neutral.map_or("files without this key".to_owned(), |(_, neutral)| neutral.to_string());
        return Err(GgufModelError::unsupported(key, format!("{value:?}"), supported));
    }
    Ok(())
}
