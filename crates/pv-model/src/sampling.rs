//! From logits to a token.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// How the next token is chosen. The steps act in the order of the fields, as in Hugging Face's `generate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits of tokens that occurred already (multiplies negative ones); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Divides the logits; 0 means greedy: the most likely token, always.
    pub temperature: f32,
    /// Keeps only this many of the most likely tokens.
    pub top_k: Option<usize>,
    /// Keeps only the most likely tokens whose probabilities add up to this; 1 keeps all.
    pub top_p: f32,
}

impl Sampling {
    /// The most likely token, always.
    pub const GREEDY: Self = Self { repetition_penalty: 1.0, temperature: 0.0, top_k: None, top_p: 1.0 };

    /// Sampling at a temperature from all tokens.
    pub const fn temperature(temperature: f32) -> Self {
        Self { temperature, ..Self::GREEDY }
    }

    /// What is impossible about the settings, if anything.
    pub(crate) fn objection(&self) -> Option<String> {
        let Self { repetition_penalty, temperature, top_k, top_p } = *self;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Some(format!("temperature {temperature} is not a number from 0 up"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Some(format!("top_p {top_p} is not above 0 and at most 1"));
        }
        if top_k == Some(0) {
            return Some("top_k 0 leaves no token".to_owned());
        }
        if !(repetition_penalty > 0.0 && repetition_penalty.is_finite()) {
            return Some(format!("repetition_penalty {repetition_penalty} is not a positive number"));
        }
        None
    }
}

/// Draws the tokens of one sequence from its own stream of random numbers, so that a sequence does not depend on the
/// batch it was in.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling, seed: u64) -> Self {
        Self { sampling, random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The next token, or `None` when the logits hold a NaN or nothing but −∞. `seen` lists the tokens so far, prompt
    /// included.
    pub(crate) fn next(&mut self, logits: &[f32], seen: impl Iterator<Item = u32>) -> Option<u32> {
        let Sampling { repetition_penalty, temperature, top_k, top_p } = self.sampling;
        let penalised;
        let logits = if repetition_penalty == 1.0 {
            logits
        } else {
            penalised = penalise(logits, seen, repetition_penalty);
            &penalised
        };
        if logits.iter().any(|logit| logit.is_nan()) {
            return None;
        }
        let best = argmax(logits)?;
        if temperature == 0.0 {
            return Some(best as u32);
        }
        let peak = logits[best];
        let weight = |logit: f32| f64::from((logit - peak) / temperature).exp();
        if top_k.is_none() && top_p >= 1.0 {
            let total: f64 = logits.iter().map(|&logit| weight(logit)).sum();
            return self.draw(logits.iter().map(|&logit| weight(logit)).enumerate(), total);
        }
        let mut ranked: Vec<(usize, f64)> = logits.iter().map(|&logit| weight(logit)).enumerate().collect();
        // Ties break by token id, so that the result does not depend on the sort.
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked.truncate(top_k.unwrap_or(usize::MAX));
        let total: f64 = ranked.iter().map(|(_, w)| w).sum();
        let mut mass = 0.0;
        let kept = ranked.iter().take_while(|(_, w)| {
            let before = mass;
            mass += w / total;
            before < f64::from(top_p)
        });
        let kept = kept.count();
        ranked.truncate(kept.max(1));
        let total = ranked.iter().map(|(_, w)| w).sum();
        self.draw(ranked.into_iter(), total)
    }

    fn draw(&mut self, weights: impl Iterator<Item = (usize, f64)>, total: f64) -> Option<u32> {
        let mut left = self.random.random::<f64>() * total;
        let mut last = None;
        for (token, weight) in weights.filter(|(_, weight)| *weight > 0.0) {
            last = Some(token as u32);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        last
    }
}

/// The index of the greatest value, the first of equals; `None` when there is none above −∞.
pub(crate) fn argmax(values: &[f32]) -> Option<usize> {
    let mut best = None;
    let mut peak = f32::NEG_INFINITY;
    for (index, &value) in values.iter().enumerate() {
        if value > peak {
            (best, peak) = (Some(index), value);
        }
    }
    best
}

fn penalise(logits: &[f32], seen: impl Iterator<Item = u32>, penalty: f32) -> Vec<f32> {
    let mut logits = logits.to_vec();
    let seen: std::collections::BTreeSet<u32> = seen.collect();
    for token in seen {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
    logits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: Sampling, logits: &[f32], n: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling, 7);
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.next(logits, [].into_iter()).expect("finite logits") as usize] += 1;
        }
        counts
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, f32::NEG_INFINITY];
        let counts = draws(Sampling::temperature(1.0), &logits, 20_000);
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        for (count, logit) in counts.iter().zip(logits) {
            let expected = f64::from(logit).exp() / total;
            assert!((*count as f64 / 20_000.0 - expected).abs() < 0.015, "{count} of 20000 for {expected}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [3.0f32, 2.0, 1.0, 0.0];
        let top_k = Sampling { top_k: Some(2), ..Sampling::temperature(1.0) };
        assert_eq!(draws(top_k, &logits, 500)[2..], [0, 0]);
        // Probabilities 0.64, 0.24, …: the first token alone reaches 0.6, the second is needed for 0.7.
        let top_p = |top_p| draws(Sampling { top_p, ..Sampling::temperature(1.0) }, &logits, 500);
        assert_eq!(top_p(0.6)[1..], [0, 0, 0]);
        assert!(top_p(0.7)[1] > 0);
        assert_eq!(top_p(0.7)[2..], [0, 0]);
    }

    #[test]
    fn penalty_acts_on_seen_tokens_as_in_transformers() {
        assert_eq!(penalise(&[2.0, -2.0, 1.0], [0, 1, 1, 99].into_iter(), 2.0), [1.0, -4.0, 1.0]);
    }

    #[test]
    fn nan_and_empty_distributions_are_refused() {
        let mut sampler = Sampler::new(Sampling::GREEDY, 0);
        assert_eq!(sampler.next(&[1.0, f32::NAN], [].into_iter()), None);
        assert_eq!(sampler.next(&[f32::NEG_INFINITY; 3], [].into_iter()), None);
        assert_eq!(sampler.next(&[1.0, 3.0, 3.0], [].into_iter()), Some(1));
    }
}
