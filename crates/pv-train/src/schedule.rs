//! The learning rate of each step.

use serde::{Deserialize, Serialize};

/// The schedule of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It stays constant.
    Constant,
    /// It decreases linearly, and would be zero after the last step.
    #[default]
    Linear,
    /// It decreases along half a cosine, and would be zero after the last step.
    Cosine,
}

impl Decay {
    /// Whether the learning rate of a step depends on the number of steps of the run. If it does not, the first steps of
    /// a longer run are those of a shorter one.
    pub fn depends_on_steps(self) -> bool {
        self != Self::Constant
    }
}

impl std::fmt::Display for Decay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        })
    }
}

/// The rule by which the learning rate rises in the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmUp {
    /// Step `t` (from 0) of `w` has `t/w` of the peak, as in transformers: the first step has a rate of zero, and the
    /// first step after the warm-up the peak.
    #[default]
    FromZero,
    /// Step `t` of `w` has `(t+1)/(w+1)` of the peak. Runs of older versions, which had only this rule, keep it.
    AboveZero,
}

impl WarmUp {
    /// The rule for a run that may have been started under another one: a run that an older version started keeps its
    /// rule.
    pub(crate) fn resumed(self, started: Option<Self>) -> Self {
        match started {
            Some(Self::AboveZero) => {
                if self == Self::FromZero {
                    tracing::info!("the run keeps the warm-up rule of the version that started it: (t+1)/(w+1)");
                }
                Self::AboveZero
            }
            _ => self,
        }
    }
}

/// The learning rate of a step (from 0) of `steps`: it rises linearly to `peak` over `warmup` steps
/// ([`WarmUp::FromZero`]), then decays. It is that of transformers' schedules `constant_with_warmup`, `linear` and
/// `cosine`.
pub fn learning_rate(step: usize, steps: usize, warmup: usize, peak: f64, decay: Decay) -> f64 {
    let left = |from: usize| steps.saturating_sub(from) as f64 / steps.saturating_sub(warmup).max(1) as f64;
    let factor = match decay {
        _ if step < warmup => step as f64 / warmup as f64,
        Decay::Constant => 1.0,
        Decay::Linear => left(step),
        Decay::Cosine => {
            let part = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
            0.5 * (1.0 + libm::cos(std::f64::consts::PI * part.min(1.0)))
        }
    };
    peak * factor
}

/// Like [`learning_rate`], with a warm-up rule.
pub(crate) fn learning_rate_by(rule: WarmUp, step: usize, steps: usize, warmup: usize, peak: f64, decay: Decay) -> f64 {
    match rule {
        WarmUp::AboveZero if step < warmup => peak * (step + 1) as f64 / (warmup + 1) as f64,
        WarmUp::AboveZero => {
            // Computed as in older versions, so that the result is bit-identical.
            let part = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
            match decay {
                Decay::Linear => peak * (1.0 - part).max(0.0),
                Decay::Cosine => peak * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * part.min(1.0))),
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
        // No warm-up, and only warm-up.
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
