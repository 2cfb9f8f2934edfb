//! Chooses a token from logits.

mod nucleus;
mod on_device;

use pv_kernels::softmax::softmax_weights;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};
use nucleus::{Nucleus, walk};
pub(crate) use on_device::{MAX_BEST, best_tokens};

/// How the next token is chosen. The steps apply in the order of the fields, as in Hugging Face's `generate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits of tokens that occurred before (multiplies negative ones); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Divides the logits; 0 means greedy decoding: always the most likely token.
    pub temperature: f32,
    /// Keeps only this many of the most likely tokens.
    pub top_k: Option<usize>,
    /// Keeps only the most likely tokens whose probabilities sum to this; 1 keeps all.
    pub top_p: f32,
}

impl Sampling {
    /// Greedy decoding: always the most likely token.
    pub const GREEDY: Self = Self { repetition_penalty: 1.0, temperature: 0.0, top_k: None, top_p: 1.0 };

    /// Sampling from all tokens at a temperature.
    pub const fn temperature(temperature: f32) -> Self {
        Self { temperature, ..Self::GREEDY }
    }

    /// Whether the next token is that of the greatest logit.
    pub(crate) fn takes_best(&self) -> bool {
        self.temperature == 0.0 && self.repetition_penalty == 1.0
    }

    /// Rejects invalid settings.
    ///
    /// # Errors
    /// [`Error::BadOption`].
    pub fn validate(&self) -> Result<()> {
        let Self { repetition_penalty, temperature, top_k, top_p } = *self;
        let bad = |name, value: f32, expected| Err(Error::BadOption { name, value: value.to_string(), expected });
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return bad("temperature", temperature, "a number of at least 0");
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return bad("top_p", top_p, "a number above 0 and at most 1");
        }
        if top_k == Some(0) {
            return bad("top_k", 0.0, "at least 1");
        }
        if !(repetition_penalty > 0.0 && repetition_penalty.is_finite()) {
            return bad("repetition_penalty", repetition_penalty, "a number above 0");
        }
        Ok(())
    }
}

/// Draws the tokens of one sequence from its own random stream, so that a sequence does not depend on its batch.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling, seed: u64) -> Self {
        Self { sampling, random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The next token, or `None` if the logits contain a NaN or only −∞. `seen` are the tokens so far, including the
    /// prompt.
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
        let mut weights = vec![0.0; logits.len()];
        softmax_weights(logits, logits[best], 1.0 / temperature, &mut weights);
        if top_k.is_none() && top_p >= 1.0 {
            let total = sum(&weights);
            let left = self.random.random::<f64>() * total;
            return walk(weights.into_iter().enumerate(), left).map(|token| token as u32);
        }
        Nucleus::of(&weights, top_k, top_p).at(self.random.random()).map(|token| token as u32)
    }
}

/// The sum in f64, in eight parts so that the additions do not wait for each other.
fn sum(weights: &[f32]) -> f64 {
    let (chunks, rest) = weights.as_chunks::<8>();
    let mut parts = [0.0; 8];
    for chunk in chunks {
        parts.iter_mut().zip(chunk).for_each(|(part, weight)| *part += f64::from(*weight));
    }
    parts.into_iter().sum::<f64>() + rest.iter().map(|weight| f64::from(*weight)).sum::<f64>()
}

/// The index of the greatest value, the first of equal ones; `None` if there is none above −∞.
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
    fn the_nucleus_is_that_of_a_full_sort() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        for (len, spread) in [(1, 1.0), (50, 0.1), (3000, 8.0), (3000, 60.0)] {
            let mut weights: Vec<f32> = (0..len).map(|_| (-spread * random.random::<f32>()).exp()).collect();
            // Some are equal, some vanish.
            weights[0] = 1.0;
            (1..len / 10).for_each(|i| weights[i * 7] = weights[i]);
            (1..len / 20).for_each(|i| weights[i * 11] = 0.0);
            let mut sorted: Vec<(usize, f32)> = weights.iter().copied().enumerate().collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            for (top_k, top_p) in [(None, 0.1), (None, 0.9), (None, 0.9999), (Some(5), 1.0), (Some(40), 0.5)] {
                let nucleus = Nucleus::of(&weights, top_k, top_p);
                let found = nucleus.ranked();
                let all = top_k.unwrap_or(len).min(len);
                let total: f64 = sorted[..all].iter().map(|(_, weight)| f64::from(*weight)).sum();
                let before = |n: usize| sorted[..n].iter().map(|(_, weight)| f64::from(*weight)).sum::<f64>() / total;
                assert_eq!(found, sorted[..found.len()]);
                // Without its last token it is too little; with it, it is enough or everything.
                let (n, p) = (found.len(), f64::from(top_p));
                assert!(n == 1 || before(n - 1) < p + 1e-9, "{n} of {len} for {top_p}");
                assert!(n == all || before(n) >= p - 1e-9, "{n} of {len} for {top_p}");
                // The token at a part of the sum is that of the sorted list.
                for part in (0..300).map(|i| f64::from(i) / 300.0) {
                    let token = nucleus.at(part).expect("a weight");
                    let place = found.iter().position(|(known, _)| *known == token).expect("one of them");
                    let at = part * before(n);
                    assert!(before(place) <= at + 1e-9 && before(place + 1) > at - 1e-9, "{part} of {n}: {place}");
                }
                assert!(
                    nucleus
                        .at(1.0)
                        .is_some_and(|last| found.iter().any(|(token, weight)| *token == last && *weight > 0.0))
                );
            }
        }
    }

    #[test]
    fn vanishing_weights_are_never_drawn() {
        let logits = [0.0, -200.0, 0.0, f32::NEG_INFINITY, -200.0];
        for (top_k, top_p) in [(None, 1.0), (None, 0.999), (Some(4), 1.0), (Some(9), 0.999), (Some(1), 0.1)] {
            let counts = draws(Sampling { top_k, top_p, ..Sampling::temperature(1.0) }, &logits, 300);
            assert_eq!((counts[1], counts[3], counts[4]), (0, 0, 0), "{top_k:?} {top_p}");
            assert!(counts[0] > 0 && (top_k == Some(1) || counts[2] > 0));
        }
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
