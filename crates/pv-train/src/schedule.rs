//! The learning rate of each step.

use serde::{Deserialize, Serialize};

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It stays.
    Constant,
    /// It falls linearly to zero after the last step.
    #[default]
    Linear,
    /// It falls along half a cosine to zero after the last step.
    Cosine,
}

/// How the learning rate rises over the steps of the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmUp {
    /// Step `t` (from 0) of `w` has `t/w` of the peak, as in transformers: the first step has a rate of zero, the first after
    /// the warm-up the peak.
    #[default]
    FromZero,
    /// Step `t` of `w` has `(t+1)/(w+1)` of the peak. Runs that were begun before there was a choice go on with it.
    AboveZero,
}

impl WarmUp {
    /// The rule for a run that may have been begun under another one: what older versions began goes on as it was begun.
    pub(crate) fn going_on(self, begun: Option<Self>) -> Self {
        match begun {
            Some(Self::AboveZero) => {
                if self == Self::FromZero {
                    tracing::info!("the learning rate goes on to rise as it did when the run was begun: (t+1)/(w+1)");
                }
                Self::AboveZero
            }
            _ => self,
        }
    }
}

/// The learning rate of a step (from 0) of `steps`: it rises linearly to `peak` over `warmup` steps ([`WarmUp::FromZero`]),
/// then decays. It is that of transformers' schedules `constant_with_warmup`, `linear` and `cosine`.
pub fn learning_rate(step: usize, steps: usize, warmup: usize, peak: f64, decay: Decay) -> f64 {
    let left = |from: usize| steps.saturating_sub(from) as f64 / steps.saturating_sub(warmup).max(1) as f64;
    let factor = match decay {
        _ if step < warmup => step as f64 / warmup as f64,
        Decay::Constant => 1.0,
        Decay::Linear => left(step),
        Decay::Cosine => {
            let part = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
            0.5 * (1.0 + (std::f64::consts::PI * part.min(1.0)).cos())
        }
    };
    peak * factor
}

/// As [`learning_rate`], with a way to warm up.
pub(crate) fn learning_rate_by(rule: WarmUp, step: usize, steps: usize, warmup: usize, peak: f64, decay: Decay) -> f64 {
    match rule {
        WarmUp::AboveZero if step < warmup => peak * (step + 1) as f64 / (warmup + 1) as f64,
        WarmUp::AboveZero => {
            // As it was computed then, to the bit.
            let part = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
            match decay {
                Decay::Linear => peak * (1.0 - part).max(0.0),
                Decay::Cosine => peak * 0.5 * (1.0 + (std::f64::consts::PI * part.min(1.0)).cos()),
                Decay::Constant => peak,
            }
        }
        WarmUp::FromZero => learning_rate(step, steps, warmup, peak, decay),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_and_falls() {
        let rates = |decay| (0..12).map(|step| learning_rate(step, 10, 4, 8.0, decay)).collect::<Vec<_>>();
        assert_eq!(rates(Decay::Constant), [0.0, 2.0, 4.0, 6.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
        let linear = rates(Decay::Linear);
        assert_eq!(&linear[..5], [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert!((linear[9] - 8.0 / 6.0).abs() < 1e-12 && linear[10] == 0.0 && linear[11] == 0.0);
        let cosine = rates(Decay::Cosine);
        assert!(cosine[4] == 8.0 && cosine[9] > 0.0 && cosine[10].abs() < 1e-12);
        assert!(cosine.windows(2).skip(4).all(|pair| pair[1] <= pair[0]));
        // No warm-up, and nothing but warm-up.
        assert_eq!(learning_rate(0, 1, 0, 1.0, Decay::Linear), 1.0);
        assert_eq!(learning_rate(1, 2, 2, 3.0, Decay::Cosine), 1.5);
    }

    #[test]
    fn the_rule_of_older_runs_is_kept() {
        let rates = |decay| -> Vec<f64> {
            (0..12).map(|step| learning_rate_by(WarmUp::AboveZero, step, 10, 3, 8.0, decay)).collect()
        };
        assert_eq!(rates(Decay::Constant)[..5], [2.0, 4.0, 6.0, 8.0, 8.0]);
        let linear = rates(Decay::Linear);
        assert_eq!(&linear[..4], [2.0, 4.0, 6.0, 8.0]);
        assert!((linear[9] - 8.0 / 7.0).abs() < 1e-12 && linear[10] == 0.0);
        assert_eq!(learning_rate_by(WarmUp::AboveZero, 1, 2, 2, 3.0, Decay::Cosine), 2.0);
    }
}
