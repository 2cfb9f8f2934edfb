//! The rotary embedding's settings in their old and new spellings.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::MAX_POSITIONS;
use super::fields::{Fields, shortened, wrong};
use crate::error::Result;
use crate::rope::RotaryTable;

const SUPPORTED: &str = "default, linear, llama3, yarn";

/// How positions turn into angles.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RopeConfig {
    /// The base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the frequencies are stretched beyond the length that the model was trained for.
    pub scaling: RopeScaling,
}

/// A stretch of the rotary frequencies; the names are Hugging Face's `rope_type`s.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// None.
    Default,
    /// Every frequency is divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between interpolated.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths beyond `original_max_positions / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are short.
        high_freq_factor: f64,
        /// The length that the model was first trained for.
        original_max_positions: usize,
    },
    /// YaRN: as Llama 3.1 with a ramp over dimensions, and cos and sin scaled too.
    Yarn {
        /// The stretch.
        factor: f64,
        /// Dimensions with more rotations than this are kept.
        beta_fast: f64,
        /// Dimensions with fewer rotations than this are divided by `factor`.
        beta_slow: f64,
        /// The length that the model was first trained for.
        original_max_positions: usize,
        /// The scale of cos and sin; inferred when absent.
        attention_factor: Option<f64>,
        /// Numerator of the inferred scale, used together with `mscale_all_dim`.
        mscale: Option<f64>,
        /// Denominator of the inferred scale.
        mscale_all_dim: Option<f64>,
        /// Whether the ramp starts and ends at whole dimensions.
        truncate: bool,
    },
}

impl RopeConfig {
    /// Unscaled rotary embeddings.
    pub fn new(theta: f64) -> Self {
        Self { theta, scaling: RopeScaling::Default }
    }

    /// Reads `rope_scaling` with `rope_theta`, or `rope_parameters`; the former wins, as in `transformers`.
    pub(crate) fn read(root: &Fields<'_>, max_positions: usize) -> Result<Self> {
        let settings = match root.object("rope_scaling")? {
            Some(settings) => Some(settings),
            None => root.object("rope_parameters")?,
        };
        let settings = settings.map(|settings| flat(&settings)).transpose()?;
        for fields in std::iter::once(root).chain(&settings) {
            let rotated = fields.optional_number("partial_rotary_factor")?;
            if let Some(part) = rotated.filter(|part| *part != 1.0) {
                return Err(fields.unsupported("partial_rotary_factor", part, "1.0 (the whole head is rotated)"));
            }
        }
        let outer_theta = root.number("rope_theta", Some(10_000.0))?;
        let Some(settings) = settings else { return Ok(Self::new(outer_theta)) };
        let theta = settings.number("rope_theta", Some(outer_theta))?;
        let kind_key = if settings.get("rope_type").is_some() { "rope_type" } else { "type" };
        let original = || {
            let holder = if root.get("original_max_position_embeddings").is_some() { root } else { &settings };
            holder.size("original_max_position_embeddings", Some(max_positions), MAX_POSITIONS)
        };
        let scaling = match settings.text(kind_key, Some("default"))? {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: settings.number("factor", None)? },
            "llama3" => RopeScaling::Llama3 {
                factor: settings.number("factor", None)?,
                low_freq_factor: settings.number("low_freq_factor", None)?,
                high_freq_factor: settings.number("high_freq_factor", None)?,
                original_max_positions: original()?,
            },
            "yarn" => {
                let original_max_positions = original()?;
                let factor = match settings.get("factor") {
                    Some(Value::Null) => max_positions as f64 / original_max_positions as f64,
                    _ => settings.number("factor", None)?,
                };
                // A zero is false in Python and so takes the default, as an absent value does.
                let or = |value: Option<f64>, default| value.filter(|v| *v != 0.0).unwrap_or(default);
                RopeScaling::Yarn {
                    factor,
                    beta_fast: or(settings.optional_number("beta_fast")?, 32.0),
                    beta_slow: or(settings.optional_number("beta_slow")?, 1.0),
                    original_max_positions,
                    attention_factor: settings.optional_number("attention_factor")?,
                    mscale: settings.optional_number("mscale")?,
                    mscale_all_dim: settings.optional_number("mscale_all_dim")?,
                    truncate: settings.flag("truncate", true)?,
                }
            }
            other => return Err(settings.unsupported(kind_key, format!("{other:?}"), SUPPORTED)),
        };
        Ok(Self { theta, scaling })
    }

    /// Refuses settings that give no usable frequencies.
    pub(super) fn check(&self, path: &Path, head_dim: usize) -> Result<()> {
        let positive = |key: &str, value: f64| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(wrong(path, key, format!("{value:?}"), "a finite number above 0")),
        };
        positive("rope_theta", self.theta)?;
        match &self.scaling {
            RopeScaling::Default => {}
            RopeScaling::Linear { factor } => positive("factor", *factor)?,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions: _ } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor", *high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    let expected = format!("above low_freq_factor, which is {low_freq_factor}");
                    return Err(wrong(path, "high_freq_factor", high_freq_factor, expected));
                }
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, .. } => {
                positive("factor", *factor)?;
                positive("beta_fast", *beta_fast)?;
                positive("beta_slow", *beta_slow)?;
                positive("attention_factor", attention_factor.unwrap_or(1.0))?;
                if self.theta <= 1.0 {
                    return Err(wrong(path, "rope_theta", self.theta, "above 1 with yarn"));
                }
                if beta_fast < beta_slow {
                    let expected = format!("at least beta_slow, which is {beta_slow}");
                    return Err(wrong(path, "beta_fast", beta_fast, expected));
                }
            }
        }
        let (frequencies, scale) = RotaryTable::inverse_frequencies(self, head_dim);
        if !(frequencies.iter().all(|f| f.is_finite()) && scale.is_finite() && scale > 0.0) {
            let expected = "settings whose frequencies and scale are finite in f32";
            return Err(wrong(path, "rope_parameters", format!("{self:?}"), expected));
        }
        Ok(())
    }
}

/// Takes settings given per layer type for flat ones where they are all equal.
fn flat<'a>(settings: &Fields<'a>) -> Result<Fields<'a>> {
    let mut nested = settings.entries().filter(|(_, value)| value.is_object());
    let Some((first, value)) = nested.next() else { return Ok(*settings) };
    if settings.entries().all(|(_, other)| other == value) {
        return settings.object(first).map(|inner| inner.unwrap_or(*settings));
    }
    let all: Value = settings.entries().map(|(key, value)| (key.clone(), value.clone())).collect();
    Err(settings.unsupported("(per layer type)", shortened(&all), "one set of settings for all layers"))
}
