//! The settings of the rotary embedding in their old and new notation.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::fields::{Fields, shortened, wrong};
use super::rope::RotaryTable;
use super::{ConfigError, MAX_POSITIONS};

const SUPPORTED: &str = "default, linear, llama3, yarn";
/// Those of Phi-3, under all the names that its files have used.
const PHI3: &str = "default, longrope (su, yarn)";

/// The rotary settings of a family beyond the usual ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RopeFamily {
    /// The base where a file has none.
    pub(crate) theta: Option<f64>,
    /// The rotated part of a head where a file does not say; `None` if files cannot say.
    pub(crate) rotated: Option<f64>,
    /// Whether the scaling is that of Phi-3.
    pub(crate) longrope: bool,
}

/// How positions are converted to angles.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RopeConfig {
    /// The base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the frequencies are scaled for sequences longer than those of the training.
    pub scaling: RopeScaling,
}

/// A scaling of the rotary frequencies; the names are Hugging Face's `rope_type`s.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// No scaling.
    Default,
    /// Every frequency is divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths are divided by `factor`, short ones are unchanged, those between are interpolated.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are short.
        high_freq_factor: f64,
        /// The sequence length of the original training.
        original_max_positions: usize,
    },
    /// YaRN: like Llama 3.1 with a ramp over dimensions; cos and sin are scaled too.
    Yarn {
        /// The scaling factor.
        factor: f64,
        /// Dimensions with more rotations than this are unchanged.
        beta_fast: f64,
        /// Dimensions with fewer rotations than this are divided by `factor`.
        beta_slow: f64,
        /// The sequence length of the original training.
        original_max_positions: usize,
        /// The scale of cos and sin; inferred when absent.
        attention_factor: Option<f64>,
        /// Numerator of the inferred scale, used together with `mscale_all_dim`.
        mscale: Option<f64>,
        /// Denominator of the inferred scale.
        mscale_all_dim: Option<f64>,
        /// Whether the ramp starts and ends at integer dimensions.
        truncate: bool,
    },
    /// LongRoPE (Phi-3): each wavelength has its own factor, and sequences beyond the original length have other factors
    /// than shorter ones.
    LongRope {
        /// The factors of sequences up to the original length, one per pair of dimensions.
        short: Vec<f64>,
        /// The factors of longer sequences.
        long: Vec<f64>,
        /// The sequence length of the original training.
        original_max_positions: usize,
        /// By how much the sequence length grew.
        factor: f64,
        /// The scale of cos and sin; inferred from `factor` when absent.
        attention_factor: Option<f64>,
    },
}

impl RopeConfig {
    /// Unscaled rotary embeddings.
    pub fn new(theta: f64) -> Self {
        Self { theta, scaling: RopeScaling::Default }
    }

    /// Reads `rope_scaling` with `rope_theta`, or `rope_parameters`; the former has priority, as in `transformers`.
    /// Returns the part of a head that is rotated, too.
    pub(crate) fn read(
        root: &Fields<'_>,
        max_positions: usize,
        family: RopeFamily,
    ) -> Result<(Self, f64), ConfigError> {
        let settings = match root.object("rope_scaling")? {
            Some(settings) => Some(settings),
            None => root.object("rope_parameters")?,
        };
        let settings = settings.map(|settings| flat(&settings)).transpose()?;
        let mut rotated = family.rotated;
        for fields in std::iter::once(root).chain(&settings) {
            let given = fields.optional_number("partial_rotary_factor")?;
            if let Some(part) = given.filter(|part| *part != 1.0 && family.rotated.is_none()) {
                return Err(fields.unsupported("partial_rotary_factor", part, "1.0 (the whole head is rotated)"));
            }
            rotated = given.or(rotated);
        }
        let rotated = rotated.unwrap_or(1.0);
        let outer_theta = root.number("rope_theta", Some(family.theta.unwrap_or(10_000.0)))?;
        let Some(settings) = settings else { return Ok((Self::new(outer_theta), rotated)) };
        let theta = settings.number("rope_theta", Some(outer_theta))?;
        let scaling = match family.longrope {
            true => RopeScaling::phi3(root, &settings, max_positions)?,
            false => RopeScaling::read(root, &settings, max_positions)?,
        };
        Ok((Self { theta, scaling }, rotated))
    }

    /// Reads the settings of one kind of block, without those of the whole model.
    pub(crate) fn of_blocks(settings: &Fields<'_>, theta: f64, max_positions: usize) -> Result<Self, ConfigError> {
        if let Some(part) = settings.optional_number("partial_rotary_factor")?.filter(|part| *part != 1.0) {
            return Err(settings.unsupported("partial_rotary_factor", part, "1.0 (the whole head is rotated)"));
        }
        let theta = settings.number("rope_theta", Some(theta))?;
        Ok(Self { theta, scaling: RopeScaling::read(settings, settings, max_positions)? })
    }

    /// Rejects settings that give no usable frequencies.
    pub(super) fn check(&self, path: &Path, head_dim: usize) -> Result<(), ConfigError> {
        let positive = |key: &str, value: f64| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(wrong(path, key, format!("{value:?}"), "a finite number above 0")),
        };
        positive("rope_theta", self.theta)?;
        match &self.scaling {
            RopeScaling::Default => {}
            RopeScaling::Linear { factor } => positive("factor", *factor)?,
            RopeScaling::LongRope { short, long, factor, attention_factor, original_max_positions } => {
                positive("factor", *factor)?;
                positive("attention_factor", attention_factor.unwrap_or(1.0))?;
                for (key, factors) in [("short_factor", short), ("long_factor", long)] {
                    if factors.len() != head_dim / 2 {
                        let expected = format!("{} numbers, one per pair of rotated dimensions", head_dim / 2);
                        return Err(wrong(path, key, format!("{} numbers", factors.len()), expected));
                    }
                    factors.iter().try_for_each(|factor| positive(key, *factor))?;
                }
                if *original_max_positions < 2 {
                    let expected = "at least 2 with longrope";
                    return Err(wrong(path, "original_max_position_embeddings", original_max_positions, expected));
                }
            }
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
        let (mut frequencies, scale) = RotaryTable::inverse_frequencies(self, head_dim);
        frequencies.extend(RotaryTable::long_frequencies(self, head_dim).into_iter().flat_map(|(_, long)| long));
        if !(frequencies.iter().all(|f| f.is_finite()) && scale.is_finite() && scale > 0.0) {
            let expected = "settings whose frequencies and scale are finite in f32";
            return Err(wrong(path, "rope_parameters", format!("{self:?}"), expected));
        }
        Ok(())
    }
}

fn kind<'a>(settings: &Fields<'a>) -> Result<(&'static str, &'a str), ConfigError> {
    let key = if settings.get("rope_type").is_some() { "rope_type" } else { "type" };
    Ok((key, settings.text(key, Some("default"))?))
}

impl RopeScaling {
    fn read(root: &Fields<'_>, settings: &Fields<'_>, max_positions: usize) -> Result<Self, ConfigError> {
        let original = || {
            let holder = if root.get("original_max_position_embeddings").is_some() { root } else { settings };
            holder.size("original_max_position_embeddings", Some(max_positions), MAX_POSITIONS)
        };
        let (key, kind) = kind(settings)?;
        Ok(match kind {
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
                // Zero is false in Python and therefore takes the default, like an absent value.
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
            other => return Err(settings.unsupported(key, format!("{other:?}"), SUPPORTED)),
        })
    }

    /// The settings of Phi-3, whose files have used three names for one scaling.
    fn phi3(root: &Fields<'_>, settings: &Fields<'_>, max_positions: usize) -> Result<Self, ConfigError> {
        match kind(settings)? {
            (_, "default") => Ok(Self::Default),
            (_, "longrope" | "su" | "yarn") => {
                let original = root.size("original_max_position_embeddings", Some(4096), MAX_POSITIONS)?;
                let factor = settings.optional_number("factor")?;
                Ok(Self::LongRope {
                    short: settings.numbers("short_factor")?,
                    long: settings.numbers("long_factor")?,
                    original_max_positions: original,
                    factor: factor.unwrap_or(max_positions as f64 / original as f64),
                    attention_factor: settings.optional_number("attention_factor")?,
                })
            }
            (key, other) => Err(settings.unsupported(key, format!("{other:?}"), PHI3)),
        }
    }
}

/// Returns flat settings for settings per layer type that are all equal.
fn flat<'a>(settings: &Fields<'a>) -> Result<Fields<'a>, ConfigError> {
    let mut nested = settings.entries().filter(|(_, value)| value.is_object());
    let Some((first, value)) = nested.next() else { return Ok(*settings) };
    if settings.entries().all(|(_, other)| other == value) {
        return settings.object(first).map(|inner| inner.unwrap_or(*settings));
    }
    let all: Value = settings.entries().map(|(key, value)| (key.clone(), value.clone())).collect();
    Err(settings.unsupported("(per layer type)", shortened(&all), "one set of settings for all layers"))
}
