//! Rotary frequencies and tables as numbers.
//!
//! Every step is in f32 and in the order of Hugging Face's `transformers` with PyTorch, because a difference in the
//! last bit of a frequency is multiplied by the position. Two properties of PyTorch matter: a number divided by a
//! tensor is the tensor's reciprocal times the number, and a number is rounded to f32 before it is combined with a
//! tensor.

use std::f64::consts::TAU;

use super::{RopeConfig, RopeScaling};

/// Cosines and sines for the positions `0..n`, each `[n, head_dim / 2]` in row-major order.
///
/// Dimensions `i` and `i + head_dim / 2` of a head share column `i`.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryTable {
    /// Scaled cosines.
    pub cos: Vec<f32>,
    /// Scaled sines.
    pub sin: Vec<f32>,
    /// The number of rows.
    pub positions: usize,
    /// The number of columns, `head_dim / 2`.
    pub half: usize,
}

impl RotaryTable {
    /// Builds the table of the first `positions` positions of a sequence of that length.
    pub fn new(rope: &RopeConfig, head_dim: usize, positions: usize) -> Self {
        let (mut frequencies, scale) = Self::inverse_frequencies(rope, head_dim);
        if let Some((_, long)) = Self::long_frequencies(rope, head_dim).filter(|(limit, _)| positions > *limit) {
            frequencies = long;
        }
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in 0..positions {
            for frequency in &frequencies {
                let angle = position as f32 * frequency;
                cos.push(libm::cosf(angle) * scale);
                sin.push(libm::sinf(angle) * scale);
            }
        }
        Self { cos, sin, positions, half: frequencies.len() }
    }

    /// The frequencies of sequences that are longer than a number of tokens, and that number, if the scaling has other
    /// frequencies for those.
    pub fn long_frequencies(rope: &RopeConfig, head_dim: usize) -> Option<(usize, Vec<f32>)> {
        match &rope.scaling {
            RopeScaling::LongRope { long, original_max_positions, .. } => {
                Some((*original_max_positions, stretched(rope.theta, head_dim, long)))
            }
            _ => None,
        }
    }

    /// The angle per position of each of the `head_dim / 2` pairs of dimensions, and the factor on cos and sin.
    pub fn inverse_frequencies(rope: &RopeConfig, head_dim: usize) -> (Vec<f32>, f32) {
        let base = rope.theta as f32;
        let wavelengths = (0..head_dim).step_by(2).map(|i| libm::powf(base, i as f32 / head_dim as f32));
        let unscaled = wavelengths.clone().map(f32::recip);
        match &rope.scaling {
            RopeScaling::LongRope { short, original_max_positions, factor, attention_factor, .. } => {
                let original = *original_max_positions as f64;
                let inferred =
                    if *factor <= 1.0 { 1.0 } else { (1.0 + libm::log(*factor) / libm::log(original)).sqrt() };
                (stretched(rope.theta, head_dim, short), attention_factor.unwrap_or(inferred) as f32)
            }
            RopeScaling::Default => (unscaled.collect(), 1.0),
            RopeScaling::Linear { factor } => (unscaled.map(|f| f / *factor as f32).collect(), 1.0),
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let original = original_max_positions as f64;
                let scale = |f| llama3(f, factor, low_freq_factor, high_freq_factor, original);
                (unscaled.map(scale).collect(), 1.0)
            }
            &RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_positions,
                attention_factor,
                mscale,
                mscale_all_dim,
                truncate,
            } => {
                let turns = |rotations| turning_dimension(rotations, head_dim, rope.theta, original_max_positions);
                let (low, high) = match truncate {
                    true => (turns(beta_fast).floor(), turns(beta_slow).ceil()),
                    false => (turns(beta_fast), turns(beta_slow)),
                };
                let low = low.max(0.0);
                let high = high.min(head_dim as f64 - 1.0);
                let high = if low == high { high + 0.001 } else { high };
                let blend = |(i, wavelength): (usize, f32)| {
                    let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let kept = 1.0 - ramp;
                    let stretched = (factor as f32 * wavelength).recip();
                    stretched * (1.0 - kept) + wavelength.recip() * kept
                };
                let scale = attention_factor.unwrap_or_else(|| inferred_scale(factor, mscale, mscale_all_dim));
                (wavelengths.enumerate().map(blend).collect(), scale as f32)
            }
        }
    }
}

/// The frequencies with each wavelength multiplied by its factor.
fn stretched(theta: f64, head_dim: usize, factors: &[f64]) -> Vec<f32> {
    let base = theta as f32;
    let wavelengths = (0..head_dim).step_by(2).map(|i| libm::powf(base, i as f32 / head_dim as f32));
    wavelengths.zip(factors).map(|(wavelength, factor)| (*factor as f32 * wavelength).recip()).collect()
}

/// Llama 3.1's scaling of one frequency.
fn llama3(frequency: f32, factor: f64, low: f64, high: f64, original: f64) -> f32 {
    let wavelength = frequency.recip() * TAU as f32;
    let divided = frequency / factor as f32;
    if wavelength > (original / low) as f32 {
        divided
    } else if wavelength < (original / high) as f32 {
        frequency
    } else {
        let smooth = (wavelength.recip() * original as f32 - low as f32) / (high - low) as f32;
        (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
    }
}

/// The dimension, counted in pairs, that makes `rotations` rotations within the original length.
fn turning_dimension(rotations: f64, head_dim: usize, theta: f64, original_max_positions: usize) -> f64 {
    let wavelength = original_max_positions as f64 / (rotations * 2.0 * std::f64::consts::PI);
    (head_dim as f64 * libm::log(wavelength)) / (2.0 * libm::log(theta))
}

/// YaRN's factor on cos and sin if the configuration contains none.
fn inferred_scale(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * libm::log(factor) + 1.0 };
    // Zero counts as absent, as in Python.
    match (mscale.filter(|m| *m != 0.0), mscale_all_dim.filter(|m| *m != 0.0)) {
        (Some(m), Some(all)) => scale(m) / scale(all),
        _ => scale(1.0),
    }
}

#[cfg(test)]
mod tests;
