//! The scaling of the rotary frequencies.

use pv_data::gguf::{Tensor, Value};
use serde_json::{Map, Value as Json, json};

use super::{GgufModelError, Model, number};

/// The settings that [`scaling`] reads.
pub(super) const SETTINGS: [&str; 5] = [
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
];

/// The divisors of the frequencies with Llama 3.1's scaling.
pub(super) const FACTORS: &str = "rope_freqs.weight";

/// The divisors of the frequencies with LongRoPE, in long and in short sequences.
pub(super) const LONGROPE: [&str; 2] = ["rope_factors_long.weight", "rope_factors_short.weight"];

/// The scale of cos and sin with LongRoPE.
pub(super) const ATTENTION_FACTOR: &str = "rope.scaling.attn_factor";

/// `rope_scaling` of the `config.json` for heads of which so many dimensions are rotated; `None` without scaling.
pub(super) fn scaling(model: &Model<'_>, rotated: u64) -> Result<Option<Json>, GgufModelError> {
    let key = model.key("rope.scaling.type");
    let kind = model.metadata().string(&key)?.unwrap_or("none");
    let factors = llama3(model, rotated)?;
    if kind == "none" {
        return Ok(factors);
    }
    if factors.is_some() {
        return Err(GgufModelError::unsupported(key, format!("{kind:?}"), format!("\"none\" with {FACTORS}")));
    }
    let factor_key = "rope.scaling.factor";
    let factor = model.number(factor_key)?.ok_or_else(|| GgufModelError::missing(model.key(factor_key)))?;
    match kind {
        "linear" => Ok(Some(json!({ "rope_type": "linear", "factor": factor }))),
        "yarn" => Ok(Some(json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original(model)?,
            "beta_fast": model.number("rope.scaling.yarn_beta_fast")?,
            "beta_slow": model.number("rope.scaling.yarn_beta_slow")?,
        }))),
        other => Err(GgufModelError::unsupported(key, format!("{other:?}"), "none, linear, yarn")),
    }
}

fn original(model: &Model<'_>) -> Result<u64, GgufModelError> {
    let name = "rope.scaling.original_context_length";
    model.size(name)?.ok_or_else(|| GgufModelError::missing(model.key(name)))
}

/// Adds the settings of LongRoPE, if the file has its divisors.
pub(super) fn longrope(model: &Model<'_>, config: &mut Map<String, Json>) -> Result<(), GgufModelError> {
    let mut scaling = Map::new();
    for (name, key) in LONGROPE.into_iter().zip(["long_factor", "short_factor"]) {
        if LONGROPE.iter().any(|one| model.tensor(one).is_some()) {
            let tensor = model.tensor(name).ok_or_else(|| GgufModelError::missing(name))?;
            if tensor.kind.name() != "F32" {
                return Err(GgufModelError::unsupported(name, tensor.kind.name(), "F32"));
            }
            scaling
                .insert(key.to_owned(), f32_values(tensor).map(|factor| json!(number(Value::F32(factor)))).collect());
        }
    }
    let factor = model.number(ATTENTION_FACTOR)?;
    if scaling.is_empty() {
        return match factor.filter(|factor| *factor != 1.0) {
            Some(factor) => {
                let supported = format!("1 without {}", LONGROPE.join(" and "));
                Err(GgufModelError::unsupported(model.key(ATTENTION_FACTOR), factor.to_string(), supported))
            }
            None => Ok(()),
        };
    }
    if config.contains_key("rope_scaling") {
        let key = model.key("rope.scaling.type");
        return Err(GgufModelError::unsupported(key, "set", format!("no scaling with {}", LONGROPE.join(" and "))));
    }
    scaling.insert("type".to_owned(), "longrope".into());
    // The number of positions and the original one determine the factor, unless it is another one.
    let original = original(model)?;
    let grown = model.size("context_length")?.unwrap_or(0) as f64 / original as f64;
    let usual = if grown > 1.0 { (1.0 + libm::log(grown) / libm::log(original as f64)).sqrt() } else { 1.0 };
    let other = factor.filter(|factor| (factor / usual - 1.0).abs() > 1e-6 || !usual.is_finite());
    scaling.insert("attention_factor".to_owned(), json!(other));
    config.insert("rope_scaling".to_owned(), scaling.into());
    config.insert("original_max_position_embeddings".to_owned(), original.into());
    Ok(())
}

/// The settings of gpt-oss that its files do not state. The bounds of YaRN's interpolation range are not rounded to whole
/// dimensions, as in transformers; llama.cpp rounds them. A file that states no scaling has none, whereas a `config.json`
/// without one stands for YaRN with the published model's settings.
pub(super) fn not_truncated(_: &Model<'_>, config: &mut Map<String, Json>) -> Result<(), GgufModelError> {
    // Without a window, all blocks are alike.
    config.entry("sliding_window").or_insert(Json::Null);
    let scaling = config.entry("rope_scaling").or_insert_with(|| json!({ "rope_type": "default" }));
    if let Some(yarn) = scaling.as_object_mut().filter(|scaling| scaling["rope_type"] == "yarn") {
        yarn.insert("truncate".to_owned(), false.into());
    }
    Ok(())
}

fn f32_values<'a>(tensor: &Tensor<'a>) -> impl Iterator<Item = f32> + 'a {
    tensor.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

/// The settings of Llama 3.1's scaling, of which a file has the result only: a divisor for each frequency.
///
/// Wavelengths above the original number of positions have the greatest divisor, and those below a quarter of it none, as
/// in all models with this scaling. Other divisors are refused.
fn llama3(model: &Model<'_>, head_dim: u64) -> Result<Option<Json>, GgufModelError> {
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    let Some(tensor) = model.tensor(FACTORS) else { return Ok(None) };
    let factors: Vec<f32> = f32_values(tensor).collect();
    let greatest = factors.iter().copied().fold(1.0, f32::max);
    let inverse = 1.0 / f64::from(greatest);
    let base = model.number("rope.freq_base")?.unwrap_or(10_000.0);
    let wavelength = |index: usize| std::f64::consts::TAU * libm::pow(base, 2.0 * index as f64 / head_dim as f64);
    // A divisor between the two follows from the number of positions.
    let between = factors.iter().position(|factor| *factor > 1.0 && *factor < greatest);
    let positions = between.map_or(8192.0, |index| {
        let smooth = (1.0 / f64::from(factors[index]) - inverse) / (1.0 - inverse);
        (wavelength(index) * (smooth * (HIGH - LOW) + LOW)).round()
    });
    let expected = |index: usize| {
        let smooth = ((positions / wavelength(index) - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) * inverse + smooth)
    };
    let close = |(index, factor): (usize, &f32)| (f64::from(*factor) / expected(index) - 1.0).abs() < 1e-4;
    let known = tensor.kind.name() == "F32" && factors.len() as u64 * 2 == head_dim;
    if !known || !positions.is_normal() || !factors.iter().enumerate().all(close) {
        return Err(GgufModelError::RopeFactors { factors: factors.len(), greatest });
    }
    Ok(Some(json!({
        "rope_type": "llama3",
        "factor": greatest,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": positions as u64,
    })))
}
