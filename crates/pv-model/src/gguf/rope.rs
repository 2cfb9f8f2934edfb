//! The scaling of the rotary frequencies.

use serde_json::{Value as Json, json};

use super::{GgufModelError, Model};

/// The settings that [`scaling`] reads.
pub(super) const SETTINGS: [&str; 5] = [
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
];

const FACTORS: &str = "rope_freqs.weight";

/// `rope_scaling` of the `config.json`; `None` without scaling.
pub(super) fn scaling(model: &Model<'_>, head_dim: u64) -> Result<Option<Json>, GgufModelError> {
    let key = model.key("rope.scaling.type");
    let kind = model.metadata().string(&key)?.unwrap_or("none");
    let factors = llama3(model, head_dim)?;
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

/// The settings of Llama 3.1's scaling, of which a file has the result only: a divisor for each frequency.
///
/// Wavelengths above the original number of positions have the greatest divisor, and those below a quarter of it none, as
/// in all models with this scaling. Other divisors are refused.
fn llama3(model: &Model<'_>, head_dim: u64) -> Result<Option<Json>, GgufModelError> {
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    let Some(tensor) = model.tensor(FACTORS) else { return Ok(None) };
    let factors: Vec<f32> = tensor.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
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
